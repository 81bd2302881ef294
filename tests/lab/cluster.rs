//! What most suites begin with: nodes with agents and servers, and a client.

use anyhow::{Context, Result};

use crate::agents::{Agents, Setup};
use crate::build::Lab;
use crate::client::Client;
use crate::config::{Balancer, Transport, backends};
use crate::host::Host;
use crate::server::Server;

/// The port backends listen on; clients use another one.
pub const BACKEND_PORT: u16 = 8080;

/// TCP port 80 of the virtual addresses, served by all nodes.
pub fn web(lab: &Lab) -> Vec<Balancer> {
    vec![Balancer::new("web", Transport::Tcp, 80, backends(lab.nodes(), BACKEND_PORT))]
}

/// Nodes with agents and servers, and a client c1.
#[derive(Debug)]
pub struct Cluster {
    /// On c1.
    pub client: Client,
    /// On every node, TCP and UDP at `BACKEND_PORT` of both its addresses.
    pub servers: Vec<Server>,
    /// On every node; n1 owns the virtual addresses.
    pub agents: Agents,
    /// Everything else.
    pub lab: Lab,
}

impl Cluster {
    /// Starts a cluster with `nodes` nodes and runs a test on it. Logs and status of all agents
    /// are added to what the test fails with.
    pub fn run(
        nodes: usize,
        balancers: impl FnOnce(&Lab) -> Vec<Balancer>,
        test: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let lab = Lab::bridge(nodes, 1)?;
        let balancers = balancers(&lab);
        Self::start(lab, &balancers)?.explain(test)
    }

    /// Puts agents, servers and a client into a lab that is prepared already.
    pub fn start(lab: Lab, balancers: &[Balancer]) -> Result<Self> {
        Self::start_as(lab, balancers, Setup::default())
    }

    /// The same, with agents that are not as usual.
    pub fn start_as(lab: Lab, balancers: &[Balancer], setup: Setup) -> Result<Self> {
        let client = Client::start(lab.host("c1"))?;
        let servers = lab.nodes().map(|node| Server::on_port(node, BACKEND_PORT));
        let servers = servers.collect::<Result<_>>()?;
        let agents = Agents::start_as(&lab, balancers, setup)?;
        Ok(Self { client, servers, agents, lab })
    }

    /// Runs a test and adds logs and status of all agents to what it fails with.
    pub fn explain(mut self, test: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        test(&mut self).map_err(|error| {
            let status = |agent: &mut crate::Agent| {
                let text = agent.status().map_or_else(|e| format!("{e:#}"), |s| s.to_string());
                format!("== status of {} ==\n{text}", agent.host().name())
            };
            let status = self.agents.all().iter_mut().map(status).collect::<Vec<_>>().join("\n");
            anyhow::anyhow!("{error:#}\n{}\n{status}", self.agents.logs())
        })
    }

    /// A host of the lab.
    #[track_caller]
    pub fn host(&self, name: &str) -> &Host {
        self.lab.host(name)
    }

    /// The server on a node.
    pub fn server(&self, node: &str) -> Result<&Server> {
        let index = self.lab.nodes().position(|host| host.name() == node);
        index.and_then(|index| self.servers.get(index)).with_context(|| format!("no {node}"))
    }
}

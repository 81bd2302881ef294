//! The agents of a whole lab.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::agent::{Agent, Launch, PATIENCE};
use crate::build::Lab;
use crate::config::{Balancer, Config};
use crate::host::Host;
use crate::wait::eventually;

/// The agents of all nodes of a lab.
#[derive(Debug)]
pub struct Agents {
    all: Vec<Agent>,
    setup: Setup,
}

/// What is not as usual about all agents of a lab.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Changes every configuration before it is written.
    pub adapt: fn(&mut Config),
    /// How they are started.
    pub launch: Launch,
    /// So many nodes have one, the first ones; all unless said.
    pub hosts: Option<usize>,
}

impl Setup {
    fn config(&self, lab: &Lab, node: &Host, balancers: &[Balancer]) -> Config {
        let mut config = Config::of(lab, node, balancers);
        (self.adapt)(&mut config);
        config
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self { adapt: |_| {}, launch: Launch::default(), hosts: None }
    }
}

impl Agents {
    /// Starts an agent on every node, n1 being the owner, and waits until all of them are ready
    /// with all backends.
    pub fn start(lab: &Lab, balancers: &[Balancer]) -> Result<Self> {
        Self::start_as(lab, balancers, Setup::default())
    }

    /// The same, in another way than usual.
    pub fn start_as(lab: &Lab, balancers: &[Balancer], setup: Setup) -> Result<Self> {
        let hosts = setup.hosts.unwrap_or(usize::MAX);
        let started = lab.nodes().take(hosts).map(|node| {
            Agent::start_as(node, &setup.config(lab, node, balancers).to_string(), &setup.launch)
        });
        let mut agents = Self { all: started.collect::<Result<_>>()?, setup };
        for agent in &mut agents.all {
            // Whoever started before the others has found them silent, and its tables change once
            // more when they answer.
            agent.wait_until("all other hosts have answered", |status| {
                let peers = status["peers"].as_array().into_iter().flatten();
                peers
                    .into_iter()
                    .all(|peer| peer["answered_ms"].is_u64() && peer["reason"].is_null())
            })?;
            agent.wait_for(balancers)?;
        }
        agents.wait_held()?;
        // What an answer means for the tables follows within one round of the main loop.
        std::thread::sleep(std::time::Duration::from_millis(300));
        Ok(agents)
    }

    /// Waits until somebody holds each virtual address: n1 where the files say so.
    fn wait_held(&mut self) -> Result<()> {
        let held = |vip: &Value| vip["owned"] == true && vip["held"] == true;
        let vips = |status: &Value| status["vips"].as_array().cloned().unwrap_or_default();
        eventually(PATIENCE, "the virtual addresses to be held", || {
            let statuses = self.all.iter().map(Agent::status).collect::<Result<Vec<_>>>()?;
            let all = statuses.iter().flat_map(vips);
            let names: BTreeSet<String> = all.map(|vip| vip["address"].to_string()).collect();
            let held = statuses.iter().flat_map(vips).filter(held);
            let held: BTreeSet<String> = held.map(|vip| vip["address"].to_string()).collect();
            ensure!(!names.is_empty() && held == names, "{held:?} of {names:?} are held");
            Ok(())
        })
    }

    /// The agent of a host; a panic when there is none, for that is a slip in the test.
    #[track_caller]
    pub fn on(&mut self, host: &str) -> &mut Agent {
        let found = self.all.iter_mut().find(|agent| agent.host().name() == host);
        found.unwrap_or_else(|| panic!("no agent on {host}"))
    }

    /// All of them.
    pub fn all(&mut self) -> &mut [Agent] {
        &mut self.all
    }

    /// Gives every agent the same new set of balancers and waits until all have taken it up.
    pub fn rewrite(&mut self, lab: &Lab, balancers: &[Balancer]) -> Result<()> {
        for agent in &self.all {
            agent.rewrite(&self.setup.config(lab, agent.host(), balancers))?;
        }
        for agent in &mut self.all {
            agent.wait_for(balancers)?;
        }
        Ok(())
    }

    /// All logs, for a test that failed elsewhere.
    pub fn logs(&self) -> String {
        let one = |agent: &Agent| format!("== {} ==\n{}", agent.host().name(), agent.log());
        self.all.iter().map(one).collect::<Vec<_>>().join("\n")
    }
}

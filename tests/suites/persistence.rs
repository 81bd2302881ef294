//! Connections outlive changes of the set of backends.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::{
    Agent, Balancer, Burst, Cluster, Config, Connection, Dice, Host, Lab, Transport, VIPS, Who,
    Worker,
};
use nix::sys::signal::Signal;

/// Backends of each host listen here.
const PORTS: [u16; 2] = [9001, 9002];
const HOSTS: usize = 5;
const CONNECTIONS: usize = 10_000;
const CHANGES: usize = 200;
/// Time between two changes: the tables of five hosts are not all swapped at once.
const PACE: Duration = Duration::from_millis(200);
/// Connections that are used between two changes.
const SAMPLE: usize = 100;
/// Connections that are opened again and again between two changes. All are closed in order, so that
/// none has the port of another: for a minute they are in TIME-WAIT.
const FRESH: usize = 5;

type Held = (Who, Connection);

fn on(host: &Host) -> [SocketAddr; 2] {
    PORTS.map(|port| (host.v4(), port).into())
}

fn balancer(backends: Vec<SocketAddr>, draining: &[SocketAddr]) -> Vec<Balancer> {
    let mut balancer = Balancer::new("web", Transport::Tcp, 80, backends);
    balancer.draining = draining.to_vec();
    vec![balancer]
}

/// Not a test: the servers of a host, as a process of their own.
#[test]
#[ignore = "a process of another test"]
fn servers() -> Result<()> {
    Worker::be_servers()
}

/// Uses a connection; what it says of a failure.
fn broken((who, connection): &mut Held) -> Option<String> {
    match connection.who() {
        Ok(now) if now == *who => None,
        Ok(now) => Some(format!("{who:?} became {now:?}")),
        Err(error) => Some(format!("{who:?}: {error:#}")),
    }
}

/// Which backends serve, and which of them take nothing new.
struct Backends {
    all: Vec<SocketAddr>,
    serving: Vec<SocketAddr>,
    draining: Vec<SocketAddr>,
}

const KINDS: [&str; 4] = ["added", "resumed", "drained", "removed"];

impl Backends {
    /// Changes one; the kind of change.
    fn change(&mut self, dice: &mut Dice) -> usize {
        let pick = self.all[dice.below(self.all.len())];
        let (here, drains) = (self.serving.contains(&pick), self.draining.contains(&pick));
        let active = self.serving.len() - self.draining.len();
        let kind = match (here, drains) {
            (false, _) => 0,
            (true, true) => [1, 3][dice.below(2)],
            // Somebody is always there for new connections.
            (true, false) if active == 1 => return self.change(dice),
            (true, false) => [2, 3][dice.below(2)],
        };
        self.draining.retain(|other| *other != pick);
        match kind {
            0 => self.serving.push(pick),
            2 => self.draining.push(pick),
            3 => self.serving.retain(|other| *other != pick),
            _ => {}
        }
        kind
    }
}

fn second_chances(agents: &mut [Agent]) -> Result<u64> {
    let count =
        |agent: &mut Agent| Ok(agent.status()?["counters"]["second_chance"].as_u64().unwrap_or(0));
    agents.iter_mut().map(count).sum()
}

#[test]
fn no_connection_breaks_while_backends_come_go_and_drain() -> Result<()> {
    Worker::allow_descriptors()?;
    let lab = Lab::bridge(HOSTS, 1)?;
    let mut workers =
        lab.nodes().map(|node| Worker::serve(node, &on(node))).collect::<Result<Vec<_>>>()?;
    let all: Vec<SocketAddr> = lab.nodes().flat_map(on).collect();
    let balancers = balancer(all.clone(), &[]);
    Cluster::start(lab, &balancers)?.explain(|cluster| {
        let began = Instant::now();
        let report = cluster.client.connect(Burst::new((VIPS[0], 80), CONNECTIONS).hold())?;
        report.expect_all(CONNECTIONS)?;
        let mut held = report.held;
        println!("{CONNECTIONS} connections open after {:?}", began.elapsed());

        let mut dice = Dice::new(0);
        let mut backends = Backends { serving: all.clone(), draining: vec![], all };
        let (mut used, mut kinds) = (0, [0; KINDS.len()]);
        let began = Instant::now();
        for change in 0..CHANGES {
            let until = Instant::now() + PACE;
            kinds[backends.change(&mut dice)] += 1;
            let now = balancer(backends.serving.clone(), &backends.draining);
            for agent in cluster.agents.all() {
                agent.rewrite(&Config::of(&cluster.lab, agent.host(), &now))?;
                agent.process().signal(Signal::SIGHUP)?;
            }
            while Instant::now() < until {
                for _ in 0..SAMPLE {
                    let at = dice.below(held.len());
                    if let Some(text) = broken(&mut held[at]) {
                        bail!("after change {change} and {used} uses: {text}");
                    }
                    used += 1;
                }
                // New ones, while tables differ.
                let fresh = Burst::new((VIPS[0], 80), FRESH);
                let report = cluster.client.connect(fresh)?;
                report.expect_all(FRESH).with_context(|| format!("after change {change}"))?;
            }
        }
        let took = began.elapsed();
        for connection in &mut held {
            if let Some(text) = broken(connection) {
                bail!("in the end: {text}");
            }
        }
        println!(
            "{CHANGES} changes in {took:?}, {kinds:?} of {KINDS:?}: {used} uses of held connections, \
             then all of them, none lost"
        );
        let chances = second_chances(cluster.agents.all())?;
        println!("{chances} segments were given a second chance");
        ensure!(chances > 0, "nothing was tested");

        // What is really taken away breaks, and nothing else.
        let gone = cluster.lab.nodes().last().context("a host")?.name().to_owned();
        workers.pop();
        let (mut theirs, mut others) = (0, 0);
        for connection in &mut held {
            match (connection.0.host == gone, broken(connection)) {
                (true, Some(_)) => theirs += 1,
                (false, None) => others += 1,
                (true, None) => bail!("{:?} outlived its server", connection.0),
                (false, Some(text)) => bail!("broke with {gone}: {text}"),
            }
        }
        println!("{theirs} connections ended with {gone}, {others} others went on");
        ensure!(theirs > CONNECTIONS / 10, "{theirs} only");
        Ok(())
    })
}

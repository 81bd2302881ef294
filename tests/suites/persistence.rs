//! Connections outlive changes of the set of backends.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{
    BACKEND_PORT, Balancer, Burst, Cluster, Config, Connection, Lab, Server, Transport, VIPS, Who,
};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;

/// Backends of each host listen here.
const PORTS: [u16; 2] = [BACKEND_PORT, 8081];
const HOSTS: usize = 5;
const CONNECTIONS: usize = 10_000;
const CHANGES: usize = 200;
/// Time between two changes: the tables of five hosts are not all swapped at once.
const PACE: Duration = Duration::from_millis(150);
/// Connections that are used between two changes.
const SAMPLE: usize = 100;

type Held = (Who, Connection);

fn every(lab: &Lab) -> Vec<SocketAddr> {
    let both = |port| lab.nodes().map(move |node| (node.v4(), port).into());
    PORTS.into_iter().flat_map(both).collect()
}

fn balancer(backends: Vec<SocketAddr>, draining: &[SocketAddr]) -> Vec<Balancer> {
    let mut balancer = Balancer::new("web", Transport::Tcp, 80, backends);
    balancer.draining = draining.to_vec();
    vec![balancer]
}

/// Numbers that look random and are the same in every run (Marsaglia's xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Room for both ends of all connections in this process.
fn allow_descriptors() -> Result<()> {
    const MOST: u64 = 65_536;
    setrlimit(Resource::RLIMIT_NOFILE, MOST, MOST).context("room for descriptors")
}

/// Uses a connection; what it says of a failure.
fn broken((who, connection): &mut Held) -> Option<String> {
    match connection.who() {
        Ok(now) if now == *who => None,
        Ok(now) => Some(format!("{who:?} became {now:?}")),
        Err(error) => Some(format!("{who:?}: {error:#}")),
    }
}

#[test]
fn no_connection_breaks_while_backends_come_go_and_drain() -> Result<()> {
    allow_descriptors()?;
    Cluster::run(
        HOSTS,
        |lab| balancer(every(lab), &[]),
        |cluster| {
            let nodes: Vec<_> = cluster.lab.nodes().cloned().collect();
            let _more: Vec<Server> =
                nodes.iter().map(|node| Server::on_port(node, PORTS[1])).collect::<Result<_>>()?;
            let began = Instant::now();
            let report = cluster.client.connect(Burst::new((VIPS[0], 80), CONNECTIONS).hold())?;
            report.expect_all(CONNECTIONS)?;
            let mut held = report.held;
            println!("{CONNECTIONS} connections open after {:?}", began.elapsed());

            let all = every(&cluster.lab);
            let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
            let (mut serving, mut draining) = (all.clone(), Vec::<SocketAddr>::new());
            let (mut used, mut opened, mut kinds) = (0, 0, [0; 4]);
            let mut lost = Vec::new();
            let began = Instant::now();
            for change in 0..CHANGES {
                let pick = all[dice.below(all.len())];
                let here = serving.contains(&pick);
                let kind = match (here, draining.contains(&pick)) {
                    (false, _) => 0,
                    (true, true) if dice.below(2) == 0 => 1,
                    (true, false) if dice.below(2) == 0 => 2,
                    _ => 3,
                };
                draining.retain(|other| *other != pick);
                match kind {
                    0 => serving.push(pick),
                    1 => {}
                    2 => draining.push(pick),
                    _ => serving.retain(|other| *other != pick),
                }
                // Somebody is always there for new ones.
                if serving.iter().all(|backend| draining.contains(backend)) {
                    serving.push(all[0]);
                    serving.dedup();
                    draining.retain(|other| *other != all[0]);
                }
                kinds[kind] += 1;
                let now = balancer(serving.clone(), &draining);
                for agent in cluster.agents.all() {
                    agent.rewrite(&Config::of(&cluster.lab, agent.host(), &now))?;
                    agent.process().signal(Signal::SIGHUP)?;
                }
                let until = Instant::now() + PACE;
                for _ in 0..SAMPLE {
                    let at = dice.below(held.len());
                    used += 1;
                    if let Some(text) = broken(&mut held[at]) {
                        lost.push(format!("after change {change}: {text}"));
                        held.swap_remove(at);
                    }
                }
                // New ones, while tables differ.
                let fresh = cluster.client.connect(Burst::new((VIPS[0], 80), 20).reset())?;
                fresh.expect_all(20).with_context(|| format!("new ones after change {change}"))?;
                opened += 20;
                ensure!(lost.len() < 50, "too many are lost: {lost:#?}");
                std::thread::sleep(until.saturating_duration_since(Instant::now()));
            }
            let took = began.elapsed();
            lost.extend(held.iter_mut().filter_map(broken));
            used += held.len();
            println!(
                "{CHANGES} changes in {took:?} ({kinds:?} added, resumed, drained, removed): \
             {used} uses of held connections, {opened} new ones, {} lost",
                lost.len()
            );
            let hosts: BTreeSet<_> = held.iter().map(|(who, _)| who.host.clone()).collect();
            ensure!(hosts.len() == HOSTS, "{hosts:?}");
            ensure!(lost.is_empty(), "{lost:#?}");
            let chances = |status: &serde_json::Value| -> u64 {
                status["counters"]["second_chance"].as_u64().unwrap_or(0)
            };
            let mut second = 0;
            for agent in cluster.agents.all() {
                second += chances(&agent.status()?);
            }
            println!("{second} segments were given a second chance");
            ensure!(second > 0, "nothing was tested");
            Ok(())
        },
    )
}

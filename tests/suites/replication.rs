//! Connections outlive the host that owns the virtual address, and the tables that led to them: hosts
//! tell each other of connections.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::{
    BACKEND_PORT, Balancer, Burst, Cluster, Config, Connection, Dice, Host, Lab, Mac, Server,
    Setup, Topology, Transport, VIPS, Who, Worker, backends, by_quorum, eventually, owner,
};
use nix::sys::signal::Signal;

/// What is added where a machine may be busy.
const GENEROUS: Duration = Duration::from_secs(5);

type Held = (Who, Connection);

/// Three hosts with agents; all backends are on two hosts without.
struct Plain {
    cluster: Cluster,
    _servers: Vec<Server>,
}

impl Plain {
    fn start() -> Result<Self> {
        let lab = Lab::new(&Topology::bridge(3, 1)?.and("x1")?.and("x2")?)?;
        let hosts = ["x1", "x2"].map(|name| lab.host(name));
        let servers = hosts.map(|host| Server::on_port(host, BACKEND_PORT));
        let servers = servers.into_iter().collect::<Result<_>>()?;
        let to = backends(hosts, BACKEND_PORT);
        let balancers = [
            Balancer::new("plain", Transport::Tcp, 80, to.clone()),
            Balancer::new("plain-udp", Transport::Udp, 53, to),
        ];
        let setup = Setup { adapt: by_quorum, ..Setup::default() };
        let cluster = Cluster::start_as(lab, &balancers, setup)?;
        for vip in VIPS {
            eventually(4 * GENEROUS, "an owner", || owner(cluster.host("c1"), vip))?;
        }
        Ok(Self { cluster, _servers: servers })
    }
}

/// Which host owns a VIP, by its answers.
fn owner_of(cluster: &Cluster, vip: IpAddr) -> Result<String> {
    let mac = owner(cluster.host("c1"), vip)?;
    let names: BTreeMap<Mac, &str> =
        cluster.lab.nodes().map(|node| (node.mac(), node.name())).collect();
    Ok((*names.get(&mac).with_context(|| format!("{mac} is no node"))?).to_owned())
}

/// Waits until the owner of a VIP has told the others of everything.
fn told(cluster: &mut Cluster, host: &str) -> Result<()> {
    let status = cluster.agents.on(host).wait_until("all told", |status| {
        let hosts = status["replication"]["hosts"].as_array().cloned().unwrap_or_default();
        let knows = |host: &serde_json::Value| {
            host["reached"] == true && host["behind"] == 0 && host["sweeping"] == false
        };
        hosts.len() == 2 && hosts.iter().all(knows)
    })?;
    println!("{host}: {}", status["replication"]);
    Ok(())
}

/// Uses a connection; what it says of a failure.
fn broken((who, connection): &mut Held) -> Option<String> {
    match connection.who() {
        Ok(now) if now == *who => None,
        Ok(now) => Some(format!("{who:?} became {now:?}")),
        Err(error) => Some(format!("{who:?}: {error:#}")),
    }
}

fn all_go_on(held: &mut [Held]) -> Result<()> {
    let failed: Vec<_> = held.iter_mut().filter_map(broken).collect();
    let first = failed.first();
    ensure!(failed.is_empty(), "{} of {} broke: {first:?}", failed.len(), held.len());
    Ok(())
}

/// Connections that are held, and some that transfer all the time, while something happens to the
/// owner of the IPv4 address; then all must go on.
fn through(
    cluster: &mut Cluster,
    count: usize,
    lose: impl FnOnce(&mut Cluster, &str) -> Result<()>,
) -> Result<()> {
    let mut held = Vec::new();
    let mut transfers = Vec::new();
    for vip in VIPS {
        let report = cluster.client.connect(Burst::new((vip, 80), count).hold())?;
        report.expect_all(count)?;
        report.expect_client(vip)?;
        held.extend(report.held);
        for _ in 0..4 {
            transfers.push(Connection::open(cluster.host("c1"), (vip, 80).into())?);
        }
    }
    let lost = owner_of(cluster, VIPS[0])?;
    for vip in VIPS {
        let owner = owner_of(cluster, vip)?;
        told(cluster, &owner)?;
    }
    let began = Instant::now();
    let transferring = |(number, mut connection): (usize, Connection)| {
        thread::spawn(move || -> Result<Connection> {
            // Some send and some listen, until well after the owner is another one.
            while began.elapsed() < Duration::from_secs(4) {
                match number % 2 {
                    0 => connection.download(2_000_000)?,
                    _ => connection.upload(2_000_000)?,
                }
            }
            Ok(connection)
        })
    };
    let transfers: Vec<_> = transfers.into_iter().enumerate().map(transferring).collect();
    thread::sleep(Duration::from_millis(700));
    lose(cluster, &lost)?;
    for transfer in transfers {
        let ended = transfer.join().map_err(|_| anyhow::anyhow!("a transfer panicked"))?;
        ended.context("a transfer broke")?.echo("and still a connection")?;
    }
    let next = owner_of(cluster, VIPS[0])?;
    ensure!(next != lost, "{lost} still answers");
    all_go_on(&mut held)?;
    println!("{} connections through {lost} went on through {next}", held.len());
    // What begins now gets no port of theirs.
    for vip in VIPS {
        cluster.client.connect(Burst::new((vip, 80), count))?.expect_all(count)?;
    }
    all_go_on(&mut held)
}

#[test]
fn translated_connections_outlive_a_cut_owner() -> Result<()> {
    Plain::start()?.cluster.explain(|cluster| {
        through(cluster, 1000, |cluster, lost| {
            cluster.host(lost).run(&["ip", "link", "set", "eth0", "down"]).map(drop)
        })
    })
}

#[test]
fn translated_connections_outlive_a_lost_owner() -> Result<()> {
    Plain::start()?.cluster.explain(|cluster| {
        through(cluster, 1000, |cluster, lost| {
            cluster.agents.on(lost).process().kill()?;
            // Its programs are pinned and would go on.
            cluster.host(lost).run(&["ip", "link", "set", "eth0", "down"]).map(drop)
        })
    })
}

#[test]
fn no_translated_connection_is_lost_by_a_handover() -> Result<()> {
    const FRESH: usize = 3000;
    Plain::start()?.cluster.explain(|cluster| {
        through(cluster, 1000, |cluster, ending| {
            // New ones begin at every moment of it.
            let Cluster { client, agents, .. } = cluster;
            let process = agents.on(ending).process();
            thread::scope(|scope| {
                let fresh =
                    scope.spawn(|| client.connect(Burst::new((VIPS[0], 80), FRESH).at_once(8)));
                thread::sleep(Duration::from_millis(200));
                let ended = process.terminate(2 * GENEROUS)?;
                ensure!(ended.success(), "{ending} ended with {ended}");
                let report = fresh.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
                println!("{report}");
                report.expect_all(FRESH)
            })
        })
    })
}

#[test]
fn datagrams_of_a_flow_come_from_the_same_port_under_the_next_owner() -> Result<()> {
    Plain::start()?.cluster.explain(|cluster| {
        let ask = |cluster: &Cluster, vip, port| {
            lab::ask_by_datagram(cluster.host("c1"), (vip, 53).into(), port)
        };
        let lost = owner_of(cluster, VIPS[0])?;
        let ports = 5000..5100;
        let before: Vec<_> =
            ports.clone().map(|port| ask(cluster, VIPS[0], port)).collect::<Result<_>>()?;
        told(cluster, &lost)?;
        cluster.host(&lost).run(&["ip", "link", "set", "eth0", "down"])?;
        eventually(GENEROUS, "another owner", || {
            ensure!(owner_of(cluster, VIPS[0])? != lost);
            Ok(())
        })?;
        for (port, before) in ports.zip(before) {
            let now = ask(cluster, VIPS[0], port)?;
            ensure!(now == before, "port {port}: {before:?} has become {now:?}");
        }
        Ok(())
    })
}

#[test]
fn an_owner_that_begins_anew_is_told_what_the_last_one_translates() -> Result<()> {
    const COUNT: usize = 500;
    Plain::start()?.cluster.explain(|cluster| {
        let report = cluster.client.connect(Burst::new((VIPS[0], 80), COUNT).hold())?;
        report.expect_all(COUNT)?;
        let mut held = report.held;
        // Each host in turn loses its maps, so none has heard of the connections when they began.
        for round in 0..4 {
            let owner = owner_of(cluster, VIPS[0])?;
            let status = cluster.agents.on(&owner).stop()?;
            ensure!(status.success(), "{owner} ended with {status}");
            all_go_on(&mut held).with_context(|| format!("round {round}, after {owner} ended"))?;
            let agent = cluster.agents.on(&owner);
            agent.restart()?;
            agent.wait_until("told", |status| {
                status["replication"]["translations"].as_u64().unwrap_or(0) >= COUNT as u64
            })?;
            let next = owner_of(cluster, VIPS[0])?;
            told(cluster, &next)?;
        }
        Ok(())
    })
}

const HOSTS: usize = 6;
const BACKENDS: usize = 20;
const CONNECTIONS: usize = 10_000;
/// Time between two changes: the tables of six hosts are not all swapped at once.
const PACE: Duration = Duration::from_millis(250);
/// Connections that are used between two changes. Few: most are to be silent while tables change.
const SAMPLE: usize = 20;

/// How many changes there are; `KUBE_VIP_STRAY_CHANGES`.
fn changes() -> usize {
    let changes = std::env::var("KUBE_VIP_STRAY_CHANGES");
    changes.map_or(60, |changes| changes.parse().expect("KUBE_VIP_STRAY_CHANGES: a number"))
}

/// Where the backends of a host listen: three on most, one more on two of them.
fn on(host: &Host) -> Vec<SocketAddr> {
    let more = u16::from(["n1", "n2"].contains(&host.name()));
    (9001..9004 + more).map(|port| (host.v4(), port).into()).collect()
}

/// Not a test: the servers of a host, as a process of their own.
#[test]
#[ignore = "a process of another test"]
fn servers() -> Result<()> {
    Worker::be_servers()
}

fn web(backends: Vec<SocketAddr>) -> Vec<Balancer> {
    vec![Balancer::new("web", Transport::Tcp, 80, backends)]
}

/// Adds or removes a backend; half of them are always there.
fn change(serving: &mut Vec<SocketAddr>, all: &[SocketAddr], dice: &mut Dice) {
    let pick = all[dice.below(all.len())];
    if !serving.contains(&pick) {
        serving.push(pick);
    } else if serving.len() > BACKENDS / 2 {
        serving.retain(|other| *other != pick);
    }
}

fn counter(cluster: &mut Cluster, name: &str) -> Result<u64> {
    let of = |agent: &mut lab::Agent| Ok(agent.status()?["counters"][name].as_u64().unwrap_or(0));
    cluster.agents.all().iter_mut().map(of).sum()
}

#[test]
fn only_connections_of_the_host_that_forgets_break_while_tables_change() -> Result<()> {
    Worker::allow_descriptors()?;
    let lab = Lab::bridge(HOSTS, 1)?;
    let _workers =
        lab.nodes().map(|node| Worker::serve(node, &on(node))).collect::<Result<Vec<_>>>()?;
    let all: Vec<SocketAddr> = lab.nodes().flat_map(on).collect();
    ensure!(all.len() == BACKENDS);
    let setup = Setup { adapt: by_quorum, ..Setup::default() };
    Cluster::start_as(lab, &web(all.clone()), setup)?.explain(|cluster| {
        eventually(4 * GENEROUS, "an owner", || owner(cluster.host("c1"), VIPS[0]))?;
        let report = cluster.client.connect(Burst::new((VIPS[0], 80), CONNECTIONS).hold())?;
        report.expect_all(CONNECTIONS)?;
        let mut held = report.held;
        println!("{CONNECTIONS} connections open: {:?}", report.by_host);

        let mut dice = Dice::new(0);
        let mut serving = all.clone();
        let forgets = "n4";
        let changes = changes();
        for number in 0..changes {
            let until = Instant::now() + PACE;
            if number == changes / 2 {
                let agent = cluster.agents.on(forgets);
                agent.process().kill()?;
                let removed = agent.cli(&["cleanup"])?;
                ensure!(removed.contains("removed"), "nothing to forget: {removed}");
                agent.restart()?;
                agent.wait_ready()?;
                // What ended there broke when it did, and is none of this.
                held.retain(|(who, _)| who.host != forgets);
            }
            change(&mut serving, &all, &mut dice);
            let now = web(serving.clone());
            for agent in cluster.agents.all() {
                let mut config = Config::of(&cluster.lab, agent.host(), &now);
                by_quorum(&mut config);
                agent.rewrite(&config)?;
                agent.process().signal(Signal::SIGHUP)?;
            }
            for _ in 0..SAMPLE {
                let at = dice.below(held.len());
                if let Some(text) = broken(&mut held[at]) {
                    bail!("after change {number}: {text}");
                }
            }
            thread::sleep(until.saturating_duration_since(Instant::now()));
        }
        all_go_on(&mut held)?;
        let (led, chances) = (counter(cluster, "stray_led")?, counter(cluster, "second_chance")?);
        println!(
            "{changes} changes, {forgets} began anew: all {} others went on; {led} segments led, \
             {chances} second chances",
            held.len()
        );
        ensure!(led > 0, "nobody was told of anything");
        Ok(())
    })
}

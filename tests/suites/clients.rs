//! Processes on the hosts themselves reach the virtual addresses, and see them as their peers.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Stdio};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use lab::{
    BACKEND_PORT, Balancer, Burst, Client, Cluster, Config, Host, Lab, Setup, Transport, VIPS,
    backends, web,
};
use serde_json::Value;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const VISITOR: &str = env!("CARGO_BIN_EXE_visitor");
const KINDS: [(&str, u16); 3] = [("tcp", 80), ("udp", 53), ("sendto", 53)];

fn both(lab: &Lab) -> Vec<Balancer> {
    let everywhere = || backends(lab.nodes(), BACKEND_PORT);
    vec![
        Balancer::new("web", Transport::Tcp, 80, everywhere()),
        Balancer::new("dns", Transport::Udp, 53, everywhere()),
    ]
}

/// The virtual addresses, and the IPv4 one as an IPv6 socket names it.
fn names() -> [IpAddr; 3] {
    let IpAddr::V4(v4) = VIPS[0] else { unreachable!("the first is IPv4") };
    [VIPS[0], VIPS[1], v4.to_ipv6_mapped().into()]
}

/// Answers by host, and errors by kind.
type Visits = BTreeMap<String, usize>;

/// Reads what a visitor says; an error when a socket showed another peer than `target`.
fn read(line: &str, target: SocketAddr) -> Result<String> {
    match line.split(' ').collect::<Vec<_>>()[..] {
        ["ok", host, peer] => {
            let peer = peer.parse::<SocketAddr>()?;
            ensure!(peer == target, "{host} is shown as {peer}, not as {target}");
            Ok(host.to_owned())
        }
        ["error", kind] => Ok(kind.to_owned()),
        _ => bail!("{line:?} is no answer"),
    }
}

/// Visits from a process of the host; `through` enters another namespace first.
fn visit_through(
    host: &Host,
    through: &[&str],
    kind: &str,
    target: SocketAddr,
    count: usize,
) -> Result<Visits> {
    let (name, number) = (target.to_string(), count.to_string());
    let line = [through, &[VISITOR, kind, name.as_str(), number.as_str()]].concat();
    let mut visits = Visits::new();
    for line in host.run(&line)?.lines() {
        *visits.entry(read(line, target)?).or_default() += 1;
    }
    ensure!(visits.values().sum::<usize>() == count, "{visits:?} are not {count}");
    Ok(visits)
}

fn visit(host: &Host, kind: &str, target: impl Into<SocketAddr>, count: usize) -> Result<Visits> {
    let target = target.into();
    let visits = visit_through(host, &[], kind, target, count);
    visits.with_context(|| format!("{kind} from {} to {target}", host.name()))
}

/// Every backend had its share, and nothing failed.
fn expect_even(visits: &Visits) -> Result<()> {
    let total = visits.values().sum::<usize>();
    let even = NODES.iter().all(|node| visits.get(*node).is_some_and(|n| n * 7 > total));
    ensure!(even && visits.len() == NODES.len(), "not even: {visits:?}");
    Ok(())
}

fn counter(status: &Value, name: &str) -> u64 {
    status["counters"][name].as_u64().unwrap_or(0)
}

#[test]
fn every_host_reaches_every_backend_and_sees_the_virtual_address() -> Result<()> {
    const COUNT: usize = 60;
    Cluster::run(3, both, |cluster| {
        for (kind, port) in KINDS {
            for name in names() {
                let mut all = Visits::new();
                for node in NODES {
                    for (host, count) in visit(cluster.host(node), kind, (name, port), COUNT)? {
                        *all.entry(host).or_default() += count;
                    }
                }
                println!("{kind} to {name}: {all:?}");
                expect_even(&all).with_context(|| format!("{kind} to {name}"))?;
            }
        }
        for node in NODES {
            let status = cluster.agents.on(node).status()?;
            let clients = &status["clients"];
            ensure!(clients["way"] == "led" && clients["reason"].is_null(), "{clients}");
            ensure!(clients["cgroup"] == "/sys/fs/cgroup", "{clients}");
            // Connected UDP sockets also send by name, the others three times.
            let expected = (COUNT * 3 * (1 + 2 + 3)) as u64;
            let found = counter(&status, "client_balanced");
            ensure!(found == expected, "{node} led {found} calls, not {expected}");
            let table = cluster.agents.on(node).cli(&["status"])?;
            ensure!(table.contains("\nclients on this host: led to backends\n"), "{table}");
        }
        // The backends saw the hosts' own addresses, this one's included.
        let seen = cluster.server("n1")?.tcp_clients();
        for node in NODES {
            let host = cluster.host(node);
            for own in [IpAddr::from(host.v4()), host.v6().into()] {
                ensure!(seen.iter().any(|client| client.ip() == own), "{own} is not in {seen:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_host_with_client_affinity_stays_with_the_backend_that_the_owner_chooses_too() -> Result<()> {
    let lab = Lab::bridge(3, 1)?;
    let balancers = both(&lab);
    let adapt = |config: &mut Config| {
        // Both are the last keys of the last balancer, as the file is written.
        config.balancers.reverse();
        config.extra = "  sessionAffinity: ClientIP\n".to_owned();
    };
    Cluster::start_as(lab, &balancers, Setup { adapt, ..Setup::default() })?.explain(|cluster| {
        let mut compared = 0;
        for node in NODES {
            let host = cluster.host(node);
            for name in names() {
                let visits = visit(host, "tcp", (name, 80), 30)?;
                let found = visits.keys().cloned().collect::<Vec<_>>();
                let [chosen] = found.as_slice() else { bail!("{node} to {name}: {visits:?}") };
                println!("{node} to {name}: {chosen}");
                // A thread of the test is in none of the hosts' cgroups.
                if VIPS.contains(&name) && node != "n1" && chosen != node {
                    let report = Client::start(host)?.connect(Burst::new((name, 80), 5))?;
                    report.expect_all(5)?;
                    report.expect_even(&[chosen.as_str()], 0.0)?;
                    compared += 1;
                }
            }
        }
        println!("{compared} compared with the owner's choice");
        Ok(())
    })
}

/// Gives a host a Pod: a network namespace behind a veth.
fn add_pod(cluster: &Cluster, node: &str) -> Result<()> {
    let host = cluster.host(node);
    host.sysctl(&[("net.ipv4.ip_forward", "1")])?;
    host.shell(
        "ip netns add pod
        ip link add pod0 type veth peer name eth0 netns pod
        ip address add 10.88.0.1/24 dev pod0
        ip link set pod0 up
        ip -n pod address add 10.88.0.2/24 dev eth0
        ip -n pod link set lo up
        ip -n pod link set eth0 up
        ip -n pod route add default via 10.88.0.1",
    )?;
    for other in NODES.iter().filter(|name| **name != node) {
        let via = host.v4().to_string();
        cluster.host(other).run(&["ip", "route", "add", "10.88.0.0/24", "via", &via])?;
    }
    Ok(())
}

#[test]
fn other_network_namespaces_are_led_only_when_asked_for() -> Result<()> {
    const POD: [&str; 2] = ["nsenter", "--net=/run/netns/pod"];
    Cluster::run(3, both, |cluster| {
        add_pod(cluster, "n1")?;
        let pod = |cluster: &Cluster, kind, port, count| {
            visit_through(cluster.host("n1"), &POD, kind, (VIPS[0], port).into(), count)
        };
        // The Pod meets an address of its host's kernel, where nobody listens. Few, because the
        // kernel sends few ICMP messages to one address; and nobody tells a socket that is not
        // connected.
        for (kind, port) in KINDS.into_iter().filter(|(kind, _)| *kind != "sendto") {
            let visits = pod(cluster, kind, port, 3)?;
            let refused = Visits::from([("ConnectionRefused".to_owned(), 3)]);
            ensure!(visits == refused, "{kind} from a Pod with `host`: {visits:?}");
        }
        let status = cluster.agents.on("n1").status()?;
        ensure!(counter(&status, "client_balanced") == 0, "{status}");

        let mut config = Config::of(&cluster.lab, cluster.host("n1"), &both(&cluster.lab));
        config.local_clients = "all";
        let agent = cluster.agents.on("n1");
        agent.rewrite(&config)?;
        agent.wait_until("all", |status| status["clients"]["processes"] == "all")?;
        for (kind, port) in KINDS {
            let visits = pod(cluster, kind, port, 60)?;
            println!("{kind} from a Pod with `all`: {visits:?}");
            expect_even(&visits)?;
            expect_even(&visit(cluster.host("n1"), kind, (VIPS[0], port), 60)?)?;
        }
        Ok(())
    })
}

/// Connections that stay open in a process of the host.
struct Held {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    target: SocketAddr,
    count: usize,
}

impl Held {
    fn open(host: &Host, target: SocketAddr, count: usize) -> Result<Self> {
        let mut command = host.command(VISITOR);
        command.args(["hold", &target.to_string(), &count.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        Ok(Self { child, lines, target, count })
    }

    /// Which host answers on each of them.
    fn hosts(&mut self) -> Result<Vec<String>> {
        let hosts = (0..self.count).map(|_| {
            let line = self.lines.next().context("the visitor has ended")??;
            read(&line, self.target)
        });
        hosts.collect()
    }

    fn ask(&mut self) -> Result<Vec<String>> {
        self.child.stdin.as_mut().context("no input")?.write_all(b"\n")?;
        self.hosts()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Names of the programs that are attached to the host's cgroup.
fn attached(host: &Host) -> Result<Vec<String>> {
    let text = host.run(&["bpftool", "-j", "cgroup", "show", "/sys/fs/cgroup"])?;
    let programs: Value = if text.trim().is_empty() { Value::Null } else { text.parse()? };
    let names = programs.as_array().into_iter().flatten();
    let mut names: Vec<String> =
        names.filter_map(|program| Some(program["name"].as_str()?.to_owned())).collect();
    names.sort_unstable();
    Ok(names)
}

const PROGRAMS: [&str; 8] = [
    "connect4",
    "connect6",
    "getpeername4",
    "getpeername6",
    "recvmsg4",
    "recvmsg6",
    "sendmsg4",
    "sendmsg6",
];

#[test]
fn hooks_outlive_a_killed_agent_are_taken_over_and_go_with_sigterm() -> Result<()> {
    let lab = Lab::bridge(3, 1)?;
    let before = NODES.map(|node| lab.host(node).snapshot());
    let balancers = both(&lab);
    Cluster::start(lab, &balancers)?.explain(|cluster| {
        for (node, before) in NODES.into_iter().zip(before) {
            let host = cluster.lab.host(node).clone();
            ensure!(attached(&host)? == PROGRAMS, "{:?}", attached(&host)?);
            let mut held = Held::open(&host, (VIPS[0], 80).into(), 30)?;
            let first = held.hosts()?;
            cluster.agents.on(node).process().kill()?;
            ensure!(attached(&host)? == PROGRAMS, "{:?}", attached(&host)?);
            for (kind, port) in KINDS {
                expect_even(&visit(&host, kind, (VIPS[1], port), 60)?).context("killed")?;
            }
            ensure!(held.ask()? == first, "the agent's death moved a connection");
            // Visits go on while the next agent takes over.
            let visits = thread::scope(|scope| {
                let visits = scope.spawn(|| visit(&host, "tcp", (VIPS[0], 80), 6000));
                let agent = cluster.agents.on(node);
                agent.restart()?;
                agent.wait_ready()?;
                visits.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })?;
            println!("{node}, while taken over: {visits:?}");
            expect_even(&visits)?;
            let agent = cluster.agents.on(node);
            ensure!(agent.log().contains("taking over"), "{}", agent.log());
            agent.wait_until("led", |status| status["clients"]["way"] == "led")?;
            ensure!(attached(&host)? == PROGRAMS, "{:?}", attached(&host)?);
            ensure!(held.ask()? == first, "the takeover moved a connection");
            expect_even(&visit(&host, "sendto", (VIPS[0], 53), 60)?).context("taken over")?;
            drop(held);
            ensure!(agent.stop()?.success());
            ensure!(attached(&host)?.is_empty(), "{:?}", attached(&host)?);
            before?.expect_same(&host.snapshot()?)?;
        }
        Ok(())
    })
}

#[test]
fn without_a_ready_backend_a_process_is_refused_at_once() -> Result<()> {
    let balancers = |lab: &Lab| {
        let mut all = both(lab);
        for balancer in &mut all {
            // An IPv6 client of a virtual address has backends of its own family or none.
            balancer.backends.retain(SocketAddr::is_ipv4);
        }
        all
    };
    Cluster::run(2, balancers, |cluster| {
        for node in ["n1", "n2"] {
            for (kind, port) in KINDS {
                let visits = visit(cluster.host(node), kind, (VIPS[1], port), 10)?;
                let expected = Visits::from([("ConnectionRefused".to_owned(), 10)]);
                ensure!(visits == expected, "{kind} on {node}: {visits:?}");
            }
            let status = cluster.agents.on(node).status()?;
            ensure!(counter(&status, "client_refused") == 30, "{status}");
        }
        Ok(())
    })
}

#[test]
fn what_stands_in_the_way_is_said_and_packets_go_through_the_owner() -> Result<()> {
    Cluster::run(3, web, |cluster| {
        let host = cluster.host("n2").clone();
        let config = Config::of(&cluster.lab, &host, &web(&cluster.lab)).to_string();
        let here = "localClients: host\ncgroupRoot: /sys/fs/cgroup\n";
        ensure!(config.contains(here), "{config}");
        for (keys, reason) in [
            ("localClients: none\n", "localClients: none"),
            ("cgroupRoot: /proc\n", "cgroupRoot: /proc is not a directory of cgroup2"),
            // A host of the lab sees what a container sees.
            ("", "/sys/fs/cgroup is only the part of the cgroup hierarchy that"),
        ] {
            let agent = cluster.agents.on("n2");
            agent.rewrite_with(&config.replace(here, keys))?;
            let said = |status: &Value| {
                let found = status["clients"]["reason"].as_str();
                found.is_some_and(|found| found.starts_with(reason))
            };
            let status = agent.wait_until(reason, said)?;
            ensure!(status["clients"]["way"] == "owner" && status["ready"] == true, "{status}");
            let table = agent.cli(&["status"])?;
            ensure!(table.contains("\nclients on this host: through the owner ("), "{table}");
            ensure!(attached(&host)?.is_empty(), "{:?}", attached(&host)?);
            // As any client of the network; the backend on its own host is another matter.
            let visits = visit(&host, "tcp", (VIPS[0], 80), 8)?;
            ensure!(visits.contains_key("n1") || visits.contains_key("n3"), "{visits:?}");
            // And back.
            agent.rewrite_with(&config)?;
            agent.wait_until("led again", |status| status["clients"]["way"] == "led")?;
            ensure!(attached(&host)? == PROGRAMS, "{:?}", attached(&host)?);
            expect_even(&visit(&host, "tcp", (VIPS[0], 80), 60)?)?;
        }
        Ok(())
    })
}

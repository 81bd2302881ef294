//! A new agent goes on where a killed one stopped, and a running one follows its file.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{
    Agent, BACKEND_PORT, Balancer, Burst, Client, Cluster, Config, Connection, Host, Lab, Launch,
    Setup, Transport, VIPS, backends, eventually, owner, web, who_has,
};
use nix::sys::signal::Signal;
use serde_json::Value;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const PINS: &str = "/sys/fs/bpf/kube-vip/default/v1";

/// Number and size of a pinned map.
fn map(host: &Host, name: &str) -> Result<(u64, u64)> {
    let path = format!("{PINS}/{name}");
    let text = host.run(&["bpftool", "-j", "map", "show", "pinned", &path])?;
    let map: Value = serde_json::from_str(&text)?;
    let number = |key: &str| map[key].as_u64().with_context(|| format!("no {key}: {map}"));
    Ok((number("id")?, number("max_entries")?))
}

fn restart(agent: &mut Agent) -> Result<()> {
    agent.process().kill()?;
    agent.restart()?;
    agent.wait_ready()?;
    Ok(())
}

#[test]
fn connections_outlive_the_agent_on_the_owner_and_elsewhere() -> Result<()> {
    const HELD: usize = 200;
    Cluster::run(3, web, |cluster| {
        let mut held = Vec::new();
        for vip in VIPS {
            let report = cluster.client.connect(Burst::new((vip, 80), HELD).hold())?;
            report.expect_all(HELD)?;
            report.expect_even(&NODES, 0.5)?;
            held.extend(report.held);
        }
        for name in NODES {
            let agent = cluster.agents.on(name);
            let (flows, link) = (map(agent.host(), "FLOWS4")?, map(agent.host(), "FLOWS6")?);
            restart(agent)?;
            ensure!(agent.log().contains("taking over"), "{}", agent.log());
            let now = (map(agent.host(), "FLOWS4")?, map(agent.host(), "FLOWS6")?);
            ensure!(now == (flows, link), "{name} has other maps than before");
            let lost = held.iter_mut().filter_map(|(who, connection)| match connection.who() {
                Ok(now) if now == *who => None,
                other => Some(format!("{who:?}: {other:?}")),
            });
            let lost = lost.collect::<Vec<_>>();
            println!("{name} killed and restarted: {} of {} lost", lost.len(), held.len());
            ensure!(lost.is_empty(), "{name}: {} lost: {:?}", lost.len(), lost.first());
        }
        ensure!(owner(cluster.host("c1"), VIPS[0])? == cluster.host("n1").mac());
        Ok(())
    })
}

#[test]
fn slots_remember_where_they_led_when_agents_are_killed() -> Result<()> {
    const HELD: usize = 300;
    // No more than is asked for: not enough to open a map by its number.
    let four = "-all,+net_admin,+net_raw,+bpf,+perfmon";
    let through = ["setpriv", "--inh-caps", four, "--bounding-set", four];
    let setup = Setup { launch: Launch::default().through(&through), ..Setup::default() };
    let lab = Lab::bridge(3, 1)?;
    let balancers = web(&lab);
    Cluster::start_as(lab, &balancers, setup)?.explain(|cluster| {
        let report = cluster.client.connect(Burst::new((VIPS[0], 80), HELD).hold())?;
        report.expect_all(HELD)?;
        let mut held = report.held;
        let rest = backends([cluster.host("n1"), cluster.host("n2")], BACKEND_PORT);
        let web = Balancer::new("web", Transport::Tcp, 80, rest);
        cluster.agents.rewrite(&cluster.lab, &[web])?;
        let mut all_go_on = |when: &str| {
            let moved = held.iter().filter(|(who, _)| who.host == "n3").count();
            ensure!(moved > HELD / 10, "{moved} of {HELD} on n3");
            for (who, connection) in &mut held {
                let now = connection.who().with_context(|| format!("{who:?}, {when}"))?;
                ensure!(now == *who, "{who:?} became {now:?}, {when}");
            }
            Ok(())
        };
        all_go_on("after n3's backends were removed")?;
        for name in NODES {
            restart(cluster.agents.on(name))?;
            all_go_on(&format!("after {name} was restarted"))?;
        }
        // Nor is that forgotten when the next change comes.
        thread::sleep(Duration::from_secs(4));
        let last = backends([cluster.host("n2")], BACKEND_PORT);
        let web = Balancer::new("web", Transport::Tcp, 80, last);
        cluster.agents.rewrite(&cluster.lab, &[web])?;
        all_go_on("after n1's backends were removed")
    })
}

/// Downloads again and again until it is told to stop; the number of bytes. With pauses: a veth that
/// is never empty drops what is not the agent's to lose.
fn transfer(mut connection: Connection, stop: &AtomicBool) -> Result<u64> {
    const PART: u64 = 100_000;
    let mut bytes = 0;
    while !stop.load(Ordering::Relaxed) {
        connection.download(PART).with_context(|| format!("after {bytes} bytes"))?;
        connection.upload(PART / 10).with_context(|| format!("up, after {bytes} bytes"))?;
        bytes += PART;
        thread::sleep(Duration::from_millis(5));
    }
    Ok(bytes)
}

/// Opens connections again and again until it is told to stop; how many, and the slowest.
fn connect(client: &Client, vip: IpAddr, stop: &AtomicBool) -> Result<(usize, Duration)> {
    const PART: usize = 50;
    let (mut count, mut slowest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let burst = Burst::new((vip, 80), PART).at_once(4).patience(Duration::from_secs(2));
        let report = client.connect(burst.reset())?;
        report.expect_all(PART).with_context(|| format!("after {count}"))?;
        slowest = slowest.max(report.connect_time(1.0));
        count += PART;
    }
    Ok((count, slowest))
}

/// Has transfers under way and connections being opened while something happens to the agents; none
/// of them may fail.
fn under_load(
    cluster: &mut Cluster,
    happens: impl FnOnce(&mut lab::Agents) -> Result<()>,
) -> Result<()> {
    let stop = AtomicBool::new(false);
    let (client, host) = (&cluster.client, cluster.lab.host("c1"));
    let mut under_way = Vec::new();
    for vip in VIPS {
        for _ in 0..3 {
            under_way.push(Connection::open(host, (vip, 80).into())?);
        }
    }
    let agents = &mut cluster.agents;
    thread::scope(|scope| {
        let transfers = under_way
            .into_iter()
            .map(|connection| scope.spawn(|| transfer(connection, &stop)))
            .collect::<Vec<_>>();
        let connections = scope.spawn(|| connect(client, VIPS[0], &stop));
        let happened = happens(agents);
        thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
        let resume = |panic| std::panic::resume_unwind(panic);
        for transfer in transfers {
            let bytes = transfer.join().unwrap_or_else(resume)?;
            println!("{bytes} bytes downloaded meanwhile");
            ensure!(bytes > 0);
        }
        let (count, slowest) =
            connections.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        println!("{count} connections opened meanwhile, the slowest in {slowest:?}");
        happened
    })
}

#[test]
fn transfers_and_new_connections_go_on_while_agents_are_killed_and_restarted() -> Result<()> {
    Cluster::run(3, web, |cluster| {
        under_load(cluster, |agents| {
            ["n1", "n2", "n1", "n3"].iter().try_for_each(|name| {
                thread::sleep(Duration::from_millis(200));
                restart(agents.on(name))
            })
        })
    })
}

#[test]
fn an_agent_that_keeps_its_data_plane_is_restarted_and_nothing_breaks() -> Result<()> {
    let lab = Lab::bridge(3, 1)?;
    let balancers = web(&lab);
    let adapt = |config: &mut Config| config.extra = "keepOnExit: true\n".to_owned();
    let cluster = Cluster::start_as(lab, &balancers, Setup { adapt, ..Setup::default() })?;
    cluster.explain(|cluster| {
        under_load(cluster, |agents| {
            NODES.iter().cycle().take(6).try_for_each(|name| {
                let agent = agents.on(name);
                let status = agent.stop()?;
                ensure!(status.success(), "{name} ended with {status}:\n{}", agent.log());
                ensure!(agent.host().xdp_program("eth0")?.is_some(), "{name} has no program left");
                agent.restart()?;
                agent.wait_ready()?;
                ensure!(agent.log().contains("taking over"), "{}", agent.log());
                Ok(())
            })
        })?;
        // SIGINT is another matter.
        let agent = cluster.agents.on("n3");
        agent.process().signal(Signal::SIGINT)?;
        let status = agent.process().wait(lab::PATIENCE)?.context("n3 did not end")?;
        ensure!(status.success(), "n3 ended with {status}:\n{}", agent.log());
        ensure!(agent.host().pins()?.is_empty(), "{:?}", agent.host().pins()?);
        ensure!(agent.host().xdp_program("eth0")?.is_none());
        Ok(())
    })
}

#[test]
fn other_sizes_replace_what_was_left_with_one_clean_set() -> Result<()> {
    Cluster::run(2, web, |cluster| {
        let before = cluster.host("n2").pins()?;
        let lab = &cluster.lab;
        for flows in [4096, 131_072] {
            let mut config = Config::of(lab, lab.host("n2"), &web(lab));
            config.extra = format!("limits: {{flows: {flows}, backends: {}}}\n", flows / 8);
            let agent = cluster.agents.on("n2");
            agent.process().kill()?;
            agent.rewrite(&config)?;
            agent.restart()?;
            agent.wait_for(&web(lab))?;
            // Without its programs for too long it was no peer meanwhile.
            cluster.agents.on("n1").wait_for(&web(lab))?;
            let agent = cluster.agents.on("n2");
            ensure!(agent.log().contains("other sizes"), "{}", agent.log());
            for (name, size) in [("FLOWS4", flows), ("REVERSE6", flows), ("BACKENDS", flows / 8)] {
                let found = map(agent.host(), name)?.1;
                ensure!(found == size, "{name} has room for {found}, not for {size}");
            }
            ensure!(agent.host().pins()? == before, "{:?}", agent.host().pins()?);
            ensure!(agent.host().xdp_program("eth0")?.is_some());
            for vip in VIPS {
                let report = cluster.client.connect(Burst::new((vip, 80), 1000))?;
                report.expect_all(1000)?;
                report.expect_even(&["n1", "n2"], 0.2)?;
            }
        }
        let agent = cluster.agents.on("n2");
        ensure!(agent.stop()?.success());
        ensure!(agent.host().pins()?.is_empty(), "{:?}", agent.host().pins()?);
        Ok(())
    })
}

fn has(host: &Host, address: IpAddr) -> Result<bool> {
    Ok(host.run(&["ip", "addr", "show", "dev", "eth0"])?.contains(&format!(" {address}/")))
}

fn lock_of(host: &Host, vip: IpAddr) -> Result<bool> {
    Ok(host.shell("ls /run/kube-vip")?.lines().any(|name| name == format!("vip-{vip}.lock")))
}

/// Gives both nodes these VIPs and waits until they are what is held.
fn take_up(cluster: &mut Cluster, vips: &[IpAddr]) -> Result<()> {
    let balancers = web(&cluster.lab);
    for agent in cluster.agents.all() {
        let mut config = Config::of(&cluster.lab, agent.host(), &balancers);
        config.vips = vips.to_vec();
        agent.rewrite(&config)?;
        let leads = config.start_as_leader;
        let same = |status: &Value| {
            let found = status["vips"].as_array().into_iter().flatten();
            let found = found.filter(|vip| vip["held"] == leads);
            let names = found.filter_map(|vip| vip["address"].as_str()?.parse::<IpAddr>().ok());
            let mut names = names.collect::<Vec<_>>();
            let mut wanted = vips.to_vec();
            names.sort_unstable();
            wanted.sort_unstable();
            names == wanted
        };
        agent.wait_until("the new VIPs", same)?;
    }
    Ok(())
}

fn serves(cluster: &Cluster, vips: &[IpAddr]) -> Result<()> {
    let node = cluster.host("n1");
    for vip in vips {
        ensure!(has(node, *vip)? && lock_of(node, *vip)?, "n1 does not hold {vip}");
        ensure!(!has(cluster.host("n2"), *vip)?, "n2 holds {vip}");
        ensure!(owner(cluster.host("c1"), *vip)? == node.mac());
        let report = cluster.client.connect(Burst::new((*vip, 80), 300))?;
        report.expect_all(300).with_context(|| vip.to_string())?;
        report.expect_even(&["n1", "n2"], 0.4)?;
    }
    Ok(())
}

#[test]
fn vips_that_are_added_and_removed_by_a_change_of_the_file_follow() -> Result<()> {
    let lab = Lab::bridge(2, 1)?;
    let before = lab.host("n1").snapshot()?;
    let balancers = web(&lab);
    Cluster::start(lab, &balancers)?.explain(|cluster| {
        let more = ["10.77.0.101".parse::<IpAddr>()?, "fd77::101".parse()?];
        let mut held = cluster.client.connect(Burst::new((VIPS[0], 80), 50).hold())?;
        held.expect_all(50)?;
        let all = [VIPS, more].concat();
        take_up(cluster, &all)?;
        serves(cluster, &all)?;
        for (who, connection) in &mut held.held {
            ensure!(connection.who()? == *who, "a change beside it moved {who:?}");
        }

        take_up(cluster, &more)?;
        serves(cluster, &more)?;
        for vip in VIPS {
            eventually(lab::PATIENCE, "the address gone", || {
                ensure!(!has(cluster.host("n1"), vip)? && !lock_of(cluster.host("n1"), vip)?);
                let answers = who_has(cluster.host("c1"), vip)?;
                ensure!(answers.is_empty(), "{answers:?} still answers for {vip}");
                Ok(())
            })?;
        }
        // The first ones come back, beside what stays.
        take_up(cluster, &all[1..])?;
        serves(cluster, &all[1..])?;
        ensure!(cluster.agents.on("n1").stop()?.success());
        before.expect_same(&cluster.host("n1").snapshot()?)
    })
}

//! Where the host does not offer everything the agent does without, and says so.

use anyhow::{Context, Result, ensure};
use lab::{
    Agent, BACKEND_PORT, Balancer, Burst, Cluster, Config, Connection, Lab, Launch, Refusal,
    Server, Setup, Topology, Transport, VIPS, backends, eventually, owner, web,
};
use serde_json::Value;

const NODES: [&str; 3] = ["n1", "n2", "n3"];

fn held(status: &Value) -> bool {
    let vips = status["vips"].as_array().into_iter().flatten();
    status["ready"] == true && vips.filter(|vip| vip["held"] == true).count() == VIPS.len()
}

fn text<'a>(value: &'a Value, what: &str) -> Result<&'a str> {
    value.as_str().with_context(|| format!("no {what}: {value}"))
}

/// The kernel answers for the VIPs, and what listens there is reached.
fn held_by_the_kernel(lab: &Lab, agent: &Agent, reason: &str) -> Result<()> {
    let (node, client) = (lab.host("n1"), lab.host("c1"));
    let status = agent.status()?;
    let vips = status["vips"].as_array().context("no VIPs")?;
    ensure!(vips.iter().all(|vip| vip["owned"] == true && vip["held"] == true), "{status:#}");
    let uplink = &status["uplinks"][0];
    println!("{uplink}");
    ensure!(uplink["xdp"] == "none", "{uplink}");
    ensure!(text(&uplink["reason"], "reason")?.contains(reason), "{reason:?}: {uplink}");
    for frontend in status["frontends"].as_array().context("no frontends")? {
        for backend in frontend["backends"].as_array().context("no backends")? {
            ensure!(backend["state"] == "not ready", "{backend}");
            ensure!(!text(&backend["reason"], "reason")?.is_empty());
        }
    }
    for vip in VIPS {
        let _ssh = Server::with_banner(node, &[(vip, 22).into()], "SSH-2.0-lab")?;
        ensure!(owner(client, vip)? == node.mac(), "n1 does not answer for {vip}");
        ensure!(Connection::open(client, (vip, 22).into())?.read_line()?.starts_with("SSH"));
        client.run(&["ping", "-c1", "-W1", &vip.to_string()])?;
    }
    Ok(())
}

/// The backends of a VIP's TCP port on other hosts.
fn sent_to_peers(status: &Value, vip: std::net::IpAddr) -> Vec<Value> {
    let frontends = status["frontends"].as_array().into_iter().flatten();
    let of_vip = frontends
        .filter(|one| one["address"] == vip.to_string().as_str() && one["protocol"] == "tcp");
    let backends = of_vip.flat_map(|one| one["backends"].as_array().into_iter().flatten());
    backends.filter(|backend| backend["way"] == "peer").cloned().collect()
}

#[test]
fn a_veth_is_served_in_generic_mode_with_a_reason_and_everything_works() -> Result<()> {
    let lab = Lab::new(&Topology::bridge(3, 1)?.bare())?;
    let mut balancers = web(&lab);
    balancers.push(Balancer::new("dns", Transport::Udp, 53, backends(lab.nodes(), BACKEND_PORT)));
    let setup = Setup { adapt: |config| config.xdp_mode = "auto", ..Setup::default() };
    Cluster::start_as(lab, &balancers, setup)?.explain(|cluster| {
        for name in NODES {
            let uplink = cluster.agents.on(name).status()?["uplinks"][0].clone();
            ensure!(uplink["xdp"] == "generic" && uplink["egress"] == "tcx", "{name}: {uplink}");
            let reason = text(&uplink["reason"], "reason")?;
            ensure!(reason.contains("veth") && reason.contains("xdpMode: native"), "{reason}");
            let log = cluster.agents.on(name).log();
            ensure!(log.contains("WARN") && log.contains(reason), "not in the log: {log}");
        }
        let client = cluster.host("c1").clone();
        for vip in VIPS {
            ensure!(owner(&client, vip)? == cluster.host("n1").mac());
            client.run(&["ping", "-c1", "-W1", &vip.to_string()])?;
            let mut report = cluster.client.connect(Burst::new((vip, 80), 2000).hold())?;
            println!("{report}");
            report.expect_all(2000)?;
            report.expect_even(&NODES, 0.2)?;
            report.expect_client(client.address_like(vip))?;
            for name in NODES {
                let there = report.held.iter_mut().find(|(who, _)| who.host == name);
                let (_, connection) = there.context("nobody")?;
                connection.upload(20_000_000).with_context(|| format!("{vip} to {name}"))?;
                connection.download(20_000_000).with_context(|| format!("{vip} from {name}"))?;
            }
            drop(report);
            let report = cluster.client.send(Burst::new((vip, 53), 1500).at_once(16))?;
            report.expect_all(1500)?;
            report.expect_even(&NODES, 0.2)?;
            for backend in sent_to_peers(&cluster.agents.on("n1").status()?, vip) {
                ensure!(backend["packets"].as_u64() > Some(500), "not forwarded: {backend}");
            }
            let refused = lab::Attempt::to(&client, (vip, 9999).into(), lab::PATIENCE)?;
            ensure!(refused == lab::Attempt::Refused, "{refused:?}");
        }
        Ok(())
    })
}

#[test]
fn without_xdp_the_kernel_answers_and_status_says_that_nothing_is_balanced() -> Result<()> {
    let lab = Lab::bridge(2, 1)?;
    let node = lab.host("n1");
    let before = node.snapshot()?;
    let mut config = Config::of(&lab, node, &web(&lab));
    config.xdp_mode = "none";
    let mut agent = Agent::start(node, &config)?;
    agent.wait_until("held", held)?;
    held_by_the_kernel(&lab, &agent, "xdpMode: none")?;
    ensure!(node.xdp_program("eth0")?.is_none());
    ensure!(agent.log().contains("xdpMode: none"), "{}", agent.log());
    // The fence stands all the same: what the file gives up is XDP.
    ensure!(agent.status()?["uplinks"][0]["egress"] == "tcx");

    // Taken up without a restart, there and back.
    config.xdp_mode = "native";
    agent.rewrite(&config)?;
    agent.wait_until("native", |status| status["uplinks"][0]["xdp"] == "native")?;
    config.xdp_mode = "none";
    agent.rewrite(&config)?;
    agent.wait_until("none", |status| status["uplinks"][0]["xdp"] == "none")?;
    ensure!(node.xdp_program("eth0")?.is_none(), "the program stays attached");
    ensure!(agent.stop()?.success());
    before.expect_same(&node.snapshot()?)
}

/// Numbers of the kernel programs a process has open.
fn programs_of(pid: u32) -> Result<std::collections::BTreeSet<u32>> {
    let mut found = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may be closed while they are read.
        let text = std::fs::read_to_string(entry?.path()).unwrap_or_default();
        let ids = text.lines().filter_map(|line| line.strip_prefix("prog_id:"));
        found.extend(ids.filter_map(|id| id.trim().parse::<u32>().ok()));
    }
    Ok(found)
}

#[test]
fn without_bpffs_everything_works_and_ends_with_the_agent() -> Result<()> {
    let lab = Lab::bridge(2, 1)?;
    for node in lab.nodes() {
        node.shell("umount /sys/fs/bpf")?;
    }
    let before = lab.host("n1").snapshot()?;
    let balancers = web(&lab);
    Cluster::start(lab, &balancers)?.explain(|cluster| {
        let node = cluster.host("n1").clone();
        let works = |cluster: &Cluster| -> Result<()> {
            for vip in VIPS {
                let report = cluster.client.connect(Burst::new((vip, 80), 500))?;
                report.expect_all(500)?;
                report.expect_even(&["n1", "n2"], 0.3)?;
            }
            Ok(())
        };
        works(cluster)?;
        let log = cluster.agents.on("n1").log();
        ensure!(log.contains("WARN") && log.contains("bpffs is not mounted"), "{log}");
        let agent = cluster.agents.on("n1");
        let programs = programs_of(agent.process().pid())?;
        println!("programs {programs:?}");
        ensure!(programs.len() >= 2, "XDP and egress should be loaded: {programs:?}");

        agent.process().kill()?;
        // The kernel lets go of them when the last descriptor is closed, a moment later.
        eventually(lab::PATIENCE, "the programs gone", || {
            ensure!(node.xdp_program("eth0")?.is_none());
            for id in &programs {
                let found = node.run(&["bpftool", "prog", "show", "id", &id.to_string()]);
                ensure!(found.is_err(), "program {id} is still there: {found:?}");
            }
            Ok(())
        })?;
        cluster.agents.on("n1").restart()?;
        cluster.agents.on("n1").wait_for(&web(&cluster.lab))?;
        cluster.agents.on("n1").wait_until("held", held)?;
        works(cluster)?;
        ensure!(cluster.agents.on("n1").stop()?.success());
        before.expect_same(&node.snapshot()?)
    })
}

/// Starts a program without these capabilities.
fn without(capabilities: &[&str]) -> Launch {
    let dropped = capabilities.iter().map(|name| format!("-{name}")).collect::<Vec<_>>().join(",");
    // Root gets back at exec whatever the bounding set leaves it.
    Launch::default().through(&["setpriv", "--inh-caps", &dropped, "--bounding-set", &dropped])
}

/// What kube-vip's manifests of old do not grant.
const KERNEL_PROGRAMS: [&str; 3] = ["sys_admin", "bpf", "perfmon"];

#[test]
fn without_the_right_to_load_programs_the_vip_is_held_and_announced_by_the_agent() -> Result<()> {
    let lab = Lab::bridge(1, 1)?;
    let node = lab.host("n1");
    let before = node.snapshot()?;
    let config = Config::of(&lab, node, &web(&lab)).to_string();
    for vip in VIPS {
        lab.host("c1").believe(vip, lab.host("c1").mac(), lab::Entry::Stale)?;
    }
    let mut agent = Agent::start_as(node, &config, &without(&KERNEL_PROGRAMS))?;
    agent.wait_until("held", held)?;
    for vip in VIPS {
        eventually(lab::PATIENCE, "the announcement at the client", || {
            let line = ["ip", "neigh", "show", "to", &vip.to_string()];
            let found = lab.host("c1").run(&line)?;
            ensure!(found.contains(&node.mac().to_string()), "{vip}: {found:?}");
            Ok(())
        })?;
    }
    held_by_the_kernel(&lab, &agent, "capability BPF")?;
    let log = agent.log();
    let warnings = log.lines().filter(|line| line.contains("no kernel programs")).count();
    ensure!(warnings == 1, "{warnings} warnings: {log}");
    ensure!(log.contains("capability BPF"), "what is missing is not named: {log}");
    let notices = agent.status()?["notices"].to_string();
    ensure!(notices.contains("capability BPF"), "{notices}");
    ensure!(agent.stop()?.success(), "{}", agent.log());
    before.expect_same(&node.snapshot()?)
}

#[test]
fn programs_of_a_killed_agent_do_not_outlive_a_start_without_the_right_to_load_any() -> Result<()> {
    let lab = Lab::bridge(1, 1)?;
    let node = lab.host("n1");
    let before = node.snapshot()?;
    let config = Config::of(&lab, node, &web(&lab)).to_string();
    let mut first = Agent::start_with(node, &config)?;
    first.wait_until("held", held)?;
    first.process().kill()?;
    ensure!(node.xdp_program("eth0")?.is_some(), "nothing was pinned");
    let mut second = Agent::start_as(node, &config, &without(&KERNEL_PROGRAMS))?;
    second.wait_until("held", held)?;
    // They would fall silent, and the host with them.
    eventually(lab::PATIENCE, "the old programs gone", || {
        ensure!(node.xdp_program("eth0")?.is_none());
        Ok(())
    })?;
    held_by_the_kernel(&lab, &second, "capability BPF")?;
    ensure!(second.stop()?.success());
    before.expect_same(&node.snapshot()?)
}

#[test]
fn the_four_capabilities_that_are_asked_for_are_enough() -> Result<()> {
    let lab = Lab::bridge(2, 1)?;
    let four = "-all,+net_admin,+net_raw,+bpf,+perfmon";
    let through = ["setpriv", "--inh-caps", four, "--bounding-set", four];
    let setup = Setup { launch: Launch::default().through(&through), ..Setup::default() };
    let balancers = web(&lab);
    Cluster::start_as(lab, &balancers, setup)?.explain(|cluster| {
        let uplink = cluster.agents.on("n1").status()?["uplinks"][0].clone();
        ensure!(uplink["xdp"] == "native" && uplink["egress"] == "tcx", "{uplink}");
        for vip in VIPS {
            cluster.client.connect(Burst::new((vip, 80), 300))?.expect_all(300)?;
        }
        ensure!(cluster.agents.on("n1").stop()?.success());
        ensure!(cluster.host("n1").pins()?.is_empty());
        Ok(())
    })
}

#[test]
fn without_the_right_to_change_addresses_or_to_announce_nothing_is_begun() -> Result<()> {
    let lab = Lab::bridge(1, 0)?;
    let node = lab.host("n1");
    let path = node.directory().join("config.yaml");
    std::fs::write(&path, Config::of(&lab, node, &web(&lab)).to_string())?;
    let path = path.to_str().context("the lab's directory is not UTF-8")?;
    for (missing, name) in [("net_admin", "NET_ADMIN"), ("net_raw", "NET_RAW")] {
        let before = node.snapshot()?;
        let refusal = Refusal::of(node, &["start", "-c", path], &without(&[missing]))?;
        println!("{}", refusal.said.trim_end());
        refusal.expect(&[name, "root", "securityContext"])?;
        before.expect_same(&node.snapshot()?)?;
    }
    Ok(())
}

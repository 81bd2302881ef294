//! One owner at most, whatever happens to agents; and what they leave behind.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{
    Agent, Burst, Cluster, Config, Heard, Lab, Launch, VIPS, Watch, eventually, owner, web, who_has,
};

/// How long an owner may go on answering without its agent, as the agent's status tells it.
const LEASE: Duration = Duration::from_secs(3);
/// What is added where a machine may be busy.
const GENEROUS: Duration = Duration::from_secs(5);

fn expect_one_at_most(heard: &[Heard]) -> Result<()> {
    for heard in heard {
        ensure!(heard.answered.len() <= 1, "two hosts answered one request: {heard:?}");
        ensure!(heard.announced.len() <= 1, "two hosts announced within 50 ms: {heard:?}");
    }
    ensure!(heard.iter().any(|heard| !heard.answered.is_empty()), "nobody ever answered");
    Ok(())
}

fn silent_within(lab: &Lab, vip: IpAddr, patience: Duration) -> Result<()> {
    eventually(patience, "silence", || {
        let answers = who_has(lab.host("c1"), vip)?;
        ensure!(answers.is_empty(), "{answers:?} still answers for {vip}");
        Ok(())
    })
}

fn answered_by(lab: &Lab, host: &str) -> Result<()> {
    for vip in VIPS {
        eventually(GENEROUS, "an owner", || {
            let found = lab.name_of(owner(lab.host("c1"), vip)?);
            ensure!(found == host, "{host} should answer for {vip}, {found} does");
            Ok(())
        })?;
    }
    Ok(())
}

fn start(lab: &Lab, host: &str, leads: bool) -> Result<Agent> {
    let node = lab.host(host);
    let mut config = Config::of(lab, node, &web(lab));
    config.start_as_leader = leads;
    let mut agent = Agent::start(node, &config)?;
    agent.wait_ready()?;
    Ok(agent)
}

#[test]
fn two_hosts_never_answer_while_agents_come_and_go() -> Result<()> {
    let lab = Lab::bridge(3, 2)?;
    // The watcher is not the client that asks at certain moments: each hears its own answers.
    let watches = VIPS.map(|vip| Watch::start(lab.host("c2"), vip));
    let story = || -> Result<()> {
        let _bystander = start(&lab, "n3", false)?;
        let mut first = start(&lab, "n1", true)?;
        let mut second = start(&lab, "n2", false)?;
        answered_by(&lab, "n1")?;
        ensure!(first.stop()?.success(), "n1 ended badly:\n{}", first.log());
        for vip in VIPS {
            silent_within(&lab, vip, GENEROUS)?;
        }
        second.stop()?;
        let mut second = start(&lab, "n2", true)?;
        answered_by(&lab, "n2")?;
        // Nobody takes leave now: the address stays on the link, the programs stay attached.
        second.process().kill()?;
        for vip in VIPS {
            silent_within(&lab, vip, LEASE + GENEROUS)?;
        }
        let _third = start(&lab, "n1", true)?;
        answered_by(&lab, "n1")?;
        // What was killed comes back, and no longer leads.
        let _fourth = start(&lab, "n2", false)?;
        std::thread::sleep(Duration::from_secs(1));
        answered_by(&lab, "n1")
    };
    let told = story();
    for watch in watches {
        expect_one_at_most(&watch?.finish()?)?;
    }
    told
}

#[test]
fn a_host_that_does_not_own_never_answers() -> Result<()> {
    let lab = Lab::bridge(2, 1)?;
    let _agents = [start(&lab, "n1", false)?, start(&lab, "n2", false)?];
    for vip in VIPS {
        let answers = who_has(lab.host("c1"), vip)?;
        ensure!(answers.is_empty(), "{answers:?} answers for {vip}, which nobody owns");
    }
    Ok(())
}

#[test]
fn vip_goes_silent_when_agent_is_stopped() -> Result<()> {
    let lab = Lab::bridge(1, 1)?;
    let mut agent = start(&lab, "n1", true)?;
    answered_by(&lab, "n1")?;
    let watches = VIPS.map(|vip| Watch::start(lab.host("c1"), vip));
    let frozen = Instant::now();
    agent.process().freeze()?;
    std::thread::sleep(LEASE + Duration::from_secs(2));
    agent.process().thaw()?;
    let thawed = Instant::now();
    std::thread::sleep(Duration::from_secs(2));
    for (vip, watch) in VIPS.into_iter().zip(watches) {
        let heard = watch?.finish()?;
        // What is asked just before the thaw may be answered just after it.
        let end = thawed - Duration::from_millis(500);
        let during = heard.iter().filter(|heard| heard.at > frozen && heard.at < end);
        let last = during.filter(|heard| !heard.answered.is_empty()).map(|heard| heard.at).max();
        let went_on = last.map_or(Duration::ZERO, |at| at - frozen);
        let back = heard.iter().find(|heard| heard.at > thawed && !heard.answered.is_empty());
        let back = back.with_context(|| format!("{vip} never came back"))?.at - thawed;
        println!("{vip}: answered for {went_on:?} after the freeze, again {back:?} after the thaw");
        ensure!(went_on <= LEASE + Duration::from_secs(1), "{vip}: {went_on:?}");
        // A frozen agent's lease does not end at once either, or every hiccup would be an outage.
        ensure!(went_on >= Duration::from_millis(500), "{vip}: silent after {went_on:?}");
    }
    Ok(())
}

#[test]
fn vip_goes_silent_on_time_in_a_time_namespace_too() -> Result<()> {
    let lab = Lab::bridge(1, 1)?;
    let node = lab.host("n1");
    let config = Config::of(&lab, node, &web(&lab)).to_string();
    // There the machine seems to have booted twelve days earlier.
    let launch = Launch::default().through(&["unshare", "--time", "--boottime", "1000000"]);
    let mut agent = Agent::start_as(node, &config, &launch)?;
    agent.wait_ready()?;
    answered_by(&lab, "n1")?;
    let offsets =
        std::fs::read_to_string(format!("/proc/{}/timens_offsets", agent.process().pid()))?;
    ensure!(offsets.contains("1000000"), "it is in no time namespace: {offsets}");
    agent.process().freeze()?;
    for vip in VIPS {
        silent_within(&lab, vip, LEASE + Duration::from_secs(1))?;
    }
    agent.process().thaw()?;
    answered_by(&lab, "n1")
}

#[test]
fn an_agent_killed_and_started_again_works_with_one_clean_set_of_objects() -> Result<()> {
    Cluster::run(3, web, |cluster| {
        let objects = |name: &str| -> Result<(usize, usize, bool)> {
            let host = cluster.lab.host(name);
            let hooks = host.run(&["bpftool", "net", "show", "dev", "eth0"])?;
            let hooks = hooks.lines().filter(|line| line.contains("eth0")).count();
            Ok((host.pins()?.len(), hooks, host.xdp_program("eth0")?.is_some()))
        };
        for victim in ["n2", "n1"] {
            let before = objects(victim)?;
            println!("{victim}: {before:?} (pins, hooks, XDP)");
            ensure!(before.2, "{victim} has no XDP program");
            for _ in 0..3 {
                let agent = cluster.agents.on(victim);
                agent.process().kill()?;
                agent.restart()?;
                agent.wait_for(&web(&cluster.lab))?;
            }
            let after = objects(victim)?;
            ensure!(after == before, "{victim} had {before:?}, has {after:?} (pins, hooks, XDP)");
            answered_by(&cluster.lab, "n1")?;
            for vip in VIPS {
                let report = cluster.client.connect(Burst::new((vip, 80), 1500))?;
                report.expect_all(1500)?;
                report.expect_even(&["n1", "n2", "n3"], 0.2)?;
            }
        }
        Ok(())
    })
}

#[test]
fn an_agent_that_is_asked_to_end_leaves_its_host_as_it_was_found() -> Result<()> {
    let lab = Lab::bridge(2, 1)?;
    let before = lab.nodes().map(lab::Host::snapshot).collect::<Result<Vec<_>>>()?;
    let balancers = web(&lab);
    let mut cluster = Cluster::start(lab, &balancers)?;
    for vip in VIPS {
        cluster.client.connect(Burst::new((vip, 80), 500))?.expect_all(500)?;
    }
    for agent in cluster.agents.all() {
        let status = agent.stop()?;
        ensure!(status.success(), "ended with {status}:\n{}", agent.log());
    }
    for (before, node) in before.iter().zip(cluster.lab.nodes()) {
        before.expect_same(&node.snapshot()?)?;
    }
    Ok(())
}

#[test]
fn an_agent_ended_after_a_kill_leaves_nothing_either() -> Result<()> {
    let lab = Lab::bridge(1, 1)?;
    let before = lab.host("n1").snapshot()?;
    let mut agent = start(&lab, "n1", true)?;
    agent.process().kill()?;
    agent.restart()?;
    agent.wait_ready()?;
    ensure!(agent.stop()?.success(), "ended badly:\n{}", agent.log());
    before.expect_same(&lab.host("n1").snapshot()?)
}

#[test]
fn cleanup_takes_away_what_a_killed_agent_left_and_touches_no_running_one() -> Result<()> {
    let lab = Lab::bridge(1, 1)?;
    let node = lab.host("n1");
    let before = node.snapshot()?;
    for launch in [Launch::default(), Launch::default().environment("KUBE_VIP_EGRESS", "clsact")] {
        let config = Config::of(&lab, node, &web(&lab)).to_string();
        let mut agent = Agent::start_as(node, &config, &launch)?;
        agent.wait_ready()?;
        let refused = agent.cli(&["cleanup"]).expect_err("the agent is running").to_string();
        ensure!(refused.contains("running on this host already"), "{refused}");
        answered_by(&lab, "n1")?;
        agent.process().kill()?;
        let done = agent.cli(&["cleanup", "--all", "-o", "json"])?;
        println!("{done}");
        for part in ["programs, links and maps", "address 10.77.0.100", "default.sock"] {
            ensure!(done.contains(part), "{part} was not removed: {done}");
        }
        before.expect_same(&node.snapshot()?)?;
        let again = agent.cli(&["cleanup"])?;
        ensure!(again == "nothing was left\n", "{again}");
        before.expect_same(&node.snapshot()?)?;
    }
    Ok(())
}

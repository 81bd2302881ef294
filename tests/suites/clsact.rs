//! Kernels without TCX: the egress program at a clsact qdisc.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{
    Agent, Attempt, BACKEND_PORT, Balancer, Burst, Cluster, Config, Host, Lab, Launch, Setup,
    Transport, VIPS, arp_request, backends, owner, web,
};
use serde_json::Value;

fn launch() -> Launch {
    Launch::default().environment("KUBE_VIP_EGRESS", "clsact")
}

fn clsact(status: &Value) -> bool {
    status["uplinks"][0]["egress"] == "clsact" && status["vips"][1]["held"] == true
}

/// Filters of ours on egress, as `tc` lists them.
fn filters(host: &Host) -> Result<usize> {
    let text = host.run(&["tc", "filter", "show", "dev", "eth0", "egress"])?;
    Ok(text.lines().filter(|line| line.contains("kube_vip_egress")).count())
}

fn has_qdisc(host: &Host) -> Result<bool> {
    Ok(host.run(&["tc", "qdisc", "show", "dev", "eth0"])?.contains("clsact"))
}

#[test]
fn replies_are_rewritten_at_clsact() -> Result<()> {
    let lab = Lab::bridge(2, 1)?;
    let mut balancers = web(&lab);
    balancers.push(Balancer::new("dns", Transport::Udp, 53, backends(lab.nodes(), BACKEND_PORT)));
    let setup = Setup { launch: launch(), ..Setup::default() };
    Cluster::start_as(lab, &balancers, setup)?.explain(|cluster| {
        for name in ["n1", "n2"] {
            let uplink = cluster.agents.on(name).status()?["uplinks"][0].clone();
            ensure!(uplink["egress"] == "clsact" && uplink["xdp"] == "native", "{uplink}");
            ensure!(filters(cluster.host(name))? == 1, "{name} has not one filter");
            let hooks = cluster.host(name).run(&["bpftool", "net", "show", "dev", "eth0"])?;
            ensure!(!hooks.contains("tcx"), "{hooks}");
        }
        for vip in VIPS {
            let mut report = cluster.client.connect(Burst::new((vip, 80), 1000).hold())?;
            report.expect_all(1000)?;
            report.expect_even(&["n1", "n2"], 0.25)?;
            for name in ["n1", "n2"] {
                let there = report.held.iter_mut().find(|(who, _)| who.host == name);
                let (_, connection) = there.context("nobody")?;
                connection.upload(10_000_000)?;
                connection.download(10_000_000)?;
            }
            cluster.client.send(Burst::new((vip, 53), 500))?.expect_all(500)?;
        }
        for frontend in cluster.agents.on("n2").status()?["frontends"].as_array().context("none")? {
            let backends = frontend["backends"].as_array().into_iter().flatten();
            let here = backends.filter(|backend| backend["way"] == "here");
            let replies = here.filter_map(|backend| backend["reply_packets"].as_u64()).sum::<u64>();
            ensure!(replies > 100, "{replies} replies: {frontend}");
        }
        Ok(())
    })
}

#[test]
fn the_fence_holds_at_clsact() -> Result<()> {
    let lab = Lab::bridge(1, 1)?;
    let node = lab.host("n1");
    let mut config = Config::of(&lab, node, &web(&lab));
    config.start_as_leader = false;
    let mut agent = Agent::start_as(node, &config.to_string(), &launch())?;
    agent.wait_until("attached", |status| status["uplinks"][0]["egress"] == "clsact")?;
    let watch = lab::Watch::start(lab.host("c1"), VIPS[0])?;
    let [std::net::IpAddr::V4(vip), _] = VIPS else { unreachable!("the first VIP is IPv4") };
    // What a thawed agent might send.
    for _ in 0..20 {
        ensure!(node.send_frame("eth0", &arp_request(node.mac(), vip, vip)).is_err(), "it left");
    }
    std::thread::sleep(Duration::from_millis(300));
    let heard = watch.finish()?;
    ensure!(heard.iter().all(|heard| heard.announced.is_empty()), "{heard:?}");
    let fenced = agent.status()?["counters"]["arp_fenced"].as_u64();
    ensure!(fenced == Some(20), "{fenced:?} frames were fenced");

    // And where it does own the VIPs, it is not in its way.
    config.start_as_leader = true;
    agent.rewrite(&config)?;
    agent.wait_until("held", clsact)?;
    let watch = lab::Watch::start(lab.host("c1"), VIPS[0])?;
    node.send_frames("eth0", &arp_request(node.mac(), vip, vip), 20)?;
    std::thread::sleep(Duration::from_millis(300));
    ensure!(watch.finish()?.iter().any(|heard| !heard.announced.is_empty()));
    Ok(())
}

#[test]
fn a_qdisc_of_ours_goes_and_one_that_was_there_stays() -> Result<()> {
    let lab = Lab::bridge(1, 1)?;
    let node = lab.host("n1");
    let config = Config::of(&lab, node, &web(&lab)).to_string();
    for found in [false, true] {
        if found {
            node.shell("tc qdisc add dev eth0 clsact")?;
        }
        let before = node.snapshot()?;
        let mut agent = Agent::start_as(node, &config, &launch())?;
        agent.wait_until("held", clsact)?;
        ensure!(filters(node)? == 1 && has_qdisc(node)?);
        ensure!(agent.stop()?.success(), "{}", agent.log());
        ensure!(filters(node)? == 0, "the filter stays");
        ensure!(has_qdisc(node)? == found, "qdisc there before: {found}");
        before.expect_same(&node.snapshot()?)?;
    }
    Ok(())
}

#[test]
fn a_qdisc_of_ours_stays_while_somebody_else_uses_it() -> Result<()> {
    let lab = Lab::bridge(1, 1)?;
    let node = lab.host("n1");
    let config = Config::of(&lab, node, &web(&lab)).to_string();
    let mut agent = Agent::start_as(node, &config, &launch())?;
    agent.wait_until("held", clsact)?;
    node.shell("tc filter add dev eth0 ingress bpf bytecode '1,6 0 0 0' classid 1:1")?;
    let theirs = || node.run(&["tc", "filter", "show", "dev", "eth0", "ingress"]);
    let before = theirs()?;
    ensure!(!before.is_empty());
    ensure!(agent.stop()?.success(), "{}", agent.log());
    ensure!(theirs()? == before, "another program's filter went with ours");
    ensure!(filters(node)? == 0);
    Ok(())
}

#[test]
fn a_start_after_a_kill_leaves_one_filter_and_its_end_none() -> Result<()> {
    let lab = Lab::bridge(1, 1)?;
    let node = lab.host("n1");
    let before = node.snapshot()?;
    let config = Config::of(&lab, node, &web(&lab)).to_string();
    let mut agent = Agent::start_as(node, &config, &launch())?;
    agent.wait_until("held", clsact)?;
    for _ in 0..3 {
        agent.process().kill()?;
        ensure!(filters(node)? == 1, "the filter went with the agent");
        agent.restart()?;
        agent.wait_until("held", clsact)?;
        ensure!(filters(node)? == 1, "{} filters", filters(node)?);
    }
    for vip in VIPS {
        ensure!(owner(lab.host("c1"), vip)? == node.mac());
        let closed = Attempt::to(lab.host("c1"), (vip, 9999).into(), lab::PATIENCE)?;
        ensure!(closed == Attempt::Refused, "{closed:?}");
    }
    ensure!(agent.stop()?.success());
    before.expect_same(&node.snapshot()?)
}

#[test]
fn two_instances_have_a_filter_each() -> Result<()> {
    let lab = Lab::bridge(1, 1)?;
    let node = lab.host("n1");
    let before = node.snapshot()?;
    let start = |name: &str, vips: [&str; 2]| -> Result<Agent> {
        let mut config = Config::of(&lab, node, &web(&lab));
        config.vips = vips.map(str::parse).into_iter().collect::<Result<_, _>>()?;
        config.extra = format!("instance: {name}\n");
        let mut agent = Agent::start_as(node, &config.to_string(), &launch().instance(name))?;
        agent.wait_until("held", clsact)?;
        Ok(agent)
    };
    let mut first = start("a", ["10.77.0.100", "fd77::100"])?;
    let mut second = start("b", ["10.77.0.99", "fd77::99"])?;
    ensure!(filters(node)? == 2, "{} filters", filters(node)?);
    second.process().kill()?;
    second.restart()?;
    second.wait_until("held", clsact)?;
    ensure!(filters(node)? == 2, "{} filters", filters(node)?);
    // Whose qdisc it is does not matter to the one that stays.
    ensure!(first.stop()?.success());
    ensure!(filters(node)? == 1, "{} filters", filters(node)?);
    ensure!(owner(lab.host("c1"), "10.77.0.99".parse()?)? == node.mac());
    ensure!(second.stop()?.success());
    ensure!(filters(node)? == 0);
    let left = has_qdisc(node)?;
    // The one that came second cannot know that the first one would have removed it.
    if left {
        node.shell("tc qdisc del dev eth0 clsact")?;
    }
    before.expect_same(&node.snapshot()?)
}

//! Uplinks that are not one device of its own: several, bridges, macvlans; and replies that leave
//! through an overlay. (Bonds and VLAN devices this kernel may not have: the plan's tests have them.)

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use lab::{
    Agents, BACKEND_PORT, Balancer, Burst, Client, Cluster, Lab, Server, Setup, Stacked, Topology,
    Transport, VIPS, backends, owner, web,
};
use serde_json::Value;

const NODES: [&str; 3] = ["n1", "n2", "n3"];

fn setup(adapt: fn(&mut lab::Config)) -> Setup {
    Setup { adapt, ..Setup::default() }
}

fn text<'a>(value: &'a Value, what: &str) -> Result<&'a str> {
    value.as_str().with_context(|| format!("no {what}: {value}"))
}

/// Everything a frontend does, through whatever the nodes' uplinks are.
fn everything_works(cluster: &mut Cluster) -> Result<()> {
    let client = cluster.host("c1").clone();
    for vip in VIPS {
        ensure!(owner(&client, vip)? == cluster.host("n1").mac(), "n1 does not answer for {vip}");
        client.run(&["ping", "-c1", "-W1", &vip.to_string()])?;
        let mut report = cluster.client.connect(Burst::new((vip, 80), 900).hold())?;
        println!("{report}");
        report.expect_all(900)?;
        report.expect_even(&NODES, 0.3)?;
        report.expect_client(client.address_like(vip))?;
        for name in NODES {
            let there = report.held.iter_mut().find(|(who, _)| who.host == name);
            let (_, connection) = there.context("nobody")?;
            connection.upload(10_000_000).with_context(|| format!("{vip} to {name}"))?;
            connection.download(10_000_000).with_context(|| format!("{vip} from {name}"))?;
        }
        cluster.client.send(Burst::new((vip, 53), 600))?.expect_all(600)?;
        let refused = lab::Attempt::to(&client, (vip, 9999).into(), lab::PATIENCE)?;
        ensure!(refused == lab::Attempt::Refused, "{refused:?}");
    }
    Ok(())
}

fn balancers(lab: &Lab) -> Vec<Balancer> {
    let mut balancers = web(lab);
    balancers.push(Balancer::new("dns", Transport::Udp, 53, backends(lab.nodes(), BACKEND_PORT)));
    balancers
}

fn on_top_of_eth0(device: Stacked, adapt: fn(&mut lab::Config)) -> Result<()> {
    // Bare: what is generic needs no program at the other end.
    let lab = Lab::new(&Topology::bridge(3, 1)?.bare())?;
    lab.nodes().try_for_each(|node| node.stack(device))?;
    let balancers = balancers(&lab);
    let before = lab.host("n2").snapshot()?;
    Cluster::start_as(lab, &balancers, setup(adapt))?.explain(|cluster| {
        for name in NODES {
            let status = cluster.agents.on(name).status()?;
            let uplink = &status["uplinks"][0];
            ensure!(uplink["name"] == device.name(), "{uplink}");
            ensure!(uplink["xdp"] == "generic" && uplink["egress"] == "tcx", "{uplink}");
            let reason = text(&uplink["reason"], "reason")?;
            ensure!(reason.contains("no native XDP"), "{reason}");
        }
        everything_works(cluster)?;
        ensure!(cluster.agents.on("n2").stop()?.success());
        before.expect_same(&cluster.host("n2").snapshot()?)
    })
}

#[test]
fn a_bridge_is_an_uplink() -> Result<()> {
    on_top_of_eth0(Stacked::Bridge, |config| {
        config.interface = "br0";
        config.xdp_mode = "auto";
    })
}

#[test]
fn a_macvlan_is_an_uplink() -> Result<()> {
    on_top_of_eth0(Stacked::Macvlan, |config| {
        config.interface = "mv0";
        config.xdp_mode = "auto";
    })
}

#[test]
fn where_native_is_asked_for_and_does_not_go_the_kernel_answers_and_says_so() -> Result<()> {
    let lab = Lab::bridge(1, 1)?;
    let node = lab.host("n1");
    node.stack(Stacked::Macvlan)?;
    let mut config = lab::Config::of(&lab, node, &web(&lab));
    config.interface = "mv0";
    let mut agent = lab::Agent::start(node, &config)?;
    let status = agent.wait_until("held", |status| status["vips"][1]["held"] == true)?;
    let uplink = &status["uplinks"][0];
    ensure!(uplink["xdp"] == "none" && uplink["egress"] == "tcx", "{uplink}");
    ensure!(text(&uplink["reason"], "reason")?.contains("native"), "{uplink}");
    for vip in VIPS {
        ensure!(owner(lab.host("c1"), vip)? == node.mac(), "n1 does not answer for {vip}");
    }
    Ok(())
}

#[test]
fn where_one_uplink_turns_out_to_take_no_native_program_none_keeps_one() -> Result<()> {
    let lab = Lab::bridge(1, 0)?;
    let node = lab.host("n1");
    // A tap has native XDP, a VXLAN has not, and neither kind is known for it.
    node.shell(
        "ip tuntap add tap0 mode tap; ip link set tap0 up; \
         ip addr add 10.77.50.1/24 dev tap0; ip addr add fd77:50::1/64 dev tap0 nodad",
    )?;
    lab.overlay("vx0", &["n1"])?;
    let mut config = lab::Config::of(&lab, node, &web(&lab));
    config.interface = "tap0";
    config.xdp_mode = "auto";
    let mut agent = lab::Agent::start(node, &config)?;
    agent.wait_until("native", |status| status["uplinks"][0]["xdp"] == "native")?;
    config.interface = "tap0,vx0";
    agent.rewrite(&config)?;
    let both = |status: &Value| {
        (0..2).all(|at| status["uplinks"][at]["xdp"] == "generic") && status["ready"] == true
    };
    let status = agent.wait_until("generic", both)?;
    let reason = text(&status["uplinks"][0]["reason"], "reason")?;
    ensure!(reason.contains("vx0 is generic"), "{reason}");
    // Nor after a restart, whichever is attached to first.
    agent.process().kill()?;
    agent.restart()?;
    agent.wait_until("generic", both)?;
    // Alone it has a native one again.
    config.interface = "tap0";
    agent.rewrite(&config)?;
    agent.wait_until("native", |status| status["uplinks"][0]["xdp"] == "native")?;
    ensure!(agent.stop()?.success());
    Ok(())
}

/// Peers and backends on the second network: what arrives at eth0 leaves through eth1.
fn two_uplinks(adapt: fn(&mut lab::Config), mode: &str) -> Result<()> {
    let lab = Lab::bridge(3, 2)?;
    lab.side_network(&["n1", "n2", "n3", "c2"])?;
    let sides: Vec<SocketAddr> = lab
        .nodes()
        .flat_map(|node| node.side_addresses().map(|ip| SocketAddr::new(ip, BACKEND_PORT)))
        .collect();
    let servers: Vec<_> = lab
        .nodes()
        .map(|node| {
            let at = node.side_addresses().map(|ip| SocketAddr::new(ip, BACKEND_PORT));
            Server::start(node, &at)
        })
        .collect::<Result<_>>()?;
    let balancers = vec![
        Balancer::new("web", Transport::Tcp, 80, sides.clone()),
        Balancer::new("dns", Transport::Udp, 53, sides),
    ];
    let mut agents = Agents::start_as(&lab, &balancers, setup(adapt))?;
    let mut test = || -> Result<()> {
        let status = agents.on("n1").status()?;
        for (at, name) in [(0, "eth0"), (1, "eth1")] {
            let uplink = &status["uplinks"][at];
            ensure!(uplink["name"] == name && uplink["xdp"] == mode, "{uplink}");
        }
        let strict = |agents: &mut Agents| -> Result<bool> {
            Ok(agents.on("n1").status()?["notices"].to_string().contains("eth1.rp_filter is 1"))
        };
        ensure!(!strict(&mut agents)?);
        lab.host("n1").sysctl(&[("net.ipv4.conf.eth1.rp_filter", "1")])?;
        ensure!(strict(&mut agents)?, "a strict rp_filter is not told");
        lab.host("n1").sysctl(&[("net.ipv4.conf.eth1.rp_filter", "2")])?;
        let (near, far) = (lab.host("c1"), lab.host("c2"));
        // A host answers no ARP of somebody it has no route to, and backends ask by their addresses.
        near.shell("ip route add default dev eth0")?;
        for vip in VIPS {
            // This one looks for the VIP on the second network.
            let length = if vip.is_ipv4() { 32 } else { 128 };
            far.shell(&format!("ip route replace {vip}/{length} dev eth1"))?;
            let [v4, v6] = far.side_addresses();
            let side = if vip.is_ipv4() { v4 } else { v6 };
            for (host, seen) in [(near, near.address_like(vip)), (far, side)] {
                both_protocols(host, vip, seen).with_context(|| format!("{host:?} to {vip}"))?;
            }
            let entry = far.run(&["ip", "neigh", "show", "to", &vip.to_string(), "dev", "eth1"])?;
            let mac = lab.host("n1").side_mac().to_string();
            ensure!(entry.contains(&mac), "the owner answered with another address: {entry}");
        }
        let link = lab.host("n1").counters("eth1")?;
        ensure!(link.tx_frames > 2000, "little went through n1's eth1: {link:?}");
        Ok(())
    };
    let result = test();
    drop(servers);
    result.map_err(|error| {
        let status = agents.all().iter().map(|agent| agent.cli(&["status", "-o", "wide"]));
        let status = status.map(Result::unwrap_or_default).collect::<String>();
        anyhow::anyhow!("{error:#}\n{}\n{status}", agents.logs())
    })
}

fn both_protocols(host: &lab::Host, vip: IpAddr, seen: IpAddr) -> Result<()> {
    let client = Client::start(host)?;
    let mut report = client.connect(Burst::new((vip, 80), 600).hold())?;
    println!("{report}");
    report.expect_all(600)?;
    report.expect_even(&NODES, 0.35)?;
    report.expect_client(seen)?;
    for name in NODES {
        let there = report.held.iter_mut().find(|(who, _)| who.host == name);
        let (_, connection) = there.context("nobody")?;
        connection.upload(5_000_000).with_context(|| format!("to {name}"))?;
        connection.download(5_000_000).with_context(|| format!("from {name}"))?;
    }
    client.send(Burst::new((vip, 53), 300))?.expect_all(300)
}

/// Hosts are reached by their addresses on the second network, where their backends are too. Those
/// on the first one are named for the owner's announcements there.
fn on_both(config: &mut lab::Config) {
    config.interface = "eth0,eth1";
    let side = |address: &IpAddr| match address {
        IpAddr::V4(v4) => {
            let [a, b, _, d] = v4.octets();
            IpAddr::from([a, b, 200, d])
        }
        IpAddr::V6(v6) => {
            let [a, _, _, _, .., h] = v6.segments();
            IpAddr::from([a, 0, 0, 200, 0, 0, 0, h])
        }
    };
    for peer in config.remotes.iter_mut().chain([&mut config.local]) {
        peer.addresses = peer.addresses.iter().map(side).chain(peer.addresses.clone()).collect();
    }
}

#[test]
fn frames_cross_from_one_native_uplink_to_another() -> Result<()> {
    two_uplinks(on_both, "native")
}

#[test]
fn frames_cross_from_one_generic_uplink_to_another() -> Result<()> {
    two_uplinks(
        |config| {
            on_both(config);
            config.xdp_mode = "generic";
        },
        "generic",
    )
}

#[test]
fn what_a_killed_agent_left_on_an_uplink_that_is_none_any_more_goes() -> Result<()> {
    let lab = Lab::bridge(1, 1)?;
    lab.side_network(&["n1"])?;
    let node = lab.host("n1");
    let before = node.snapshot()?;
    let mut config = lab::Config::of(&lab, node, &web(&lab));
    config.interface = "eth0,eth1";
    let mut agent = lab::Agent::start(node, &config)?;
    agent.wait_until("both", |status| status["uplinks"][1]["xdp"] == "native")?;
    // Taken up and given up while it runs.
    config.interface = "eth0";
    agent.rewrite(&config)?;
    agent.wait_until("one", |status| {
        status["uplinks"].as_array().is_some_and(|all| all.len() == 1)
    })?;
    ensure!(node.xdp_program("eth1")?.is_none(), "the program stays on eth1");
    config.interface = "eth0,eth1";
    agent.rewrite(&config)?;
    agent.wait_until("both", |status| status["uplinks"][1]["xdp"] == "native")?;
    agent.process().kill()?;
    ensure!(node.xdp_program("eth1")?.is_some(), "nothing was pinned");
    config.interface = "eth0";
    agent.rewrite(&config)?;
    agent.restart()?;
    agent.wait_until("ready", |status| status["ready"] == true)?;
    ensure!(node.xdp_program("eth1")?.is_none(), "the program of the killed agent stays on eth1");
    ensure!(node.xdp_program("eth0")?.is_some());
    ensure!(agent.stop()?.success());
    before.expect_same(&node.snapshot()?)
}

/// The client's network is reached through an overlay, so replies leave there.
fn overlay(name: &'static str, adapt: fn(&mut lab::Config)) -> Result<()> {
    let lab = Lab::bridge(3, 1)?;
    lab.overlay(name, &["n1", "n2", "n3", "c1"])?;
    let balancers = balancers(&lab);
    Cluster::start_as(lab, &balancers, setup(adapt))?.explain(|cluster| {
        let device = cluster.agents.on("n2").status()?["reply_devices"][0].clone();
        ensure!(device["name"] == name && device["egress"] == "tcx", "{device}");
        ensure!(cluster.host("n2").xdp_program(name)?.is_none());
        let client = cluster.host("c1").clone();
        let [v4, v6] = client.overlay_addresses();
        for (vip, source) in VIPS.into_iter().zip([v4, v6]) {
            let burst = || Burst::new((vip, 80), 300).source(source).hold();
            let mut report = cluster.client.connect(burst())?;
            report.expect_all(300)?;
            report.expect_even(&NODES, 0.5)?;
            report.expect_client(source)?;
            for (who, connection) in report.held.iter_mut().take(6) {
                connection.upload(1_000_000).with_context(|| format!("{vip} to {who:?}"))?;
                connection.download(1_000_000).with_context(|| format!("{vip} from {who:?}"))?;
            }
            let report = cluster.client.send(Burst::new((vip, 53), 300).source(source))?;
            report.expect_all(300)?;
        }
        let link = cluster.host("n2").counters(name)?;
        ensure!(link.tx_frames > 500, "replies did not leave through {name}: {link:?}");
        Ok(())
    })
}

#[test]
fn replies_through_a_vxlan_are_rewritten() -> Result<()> {
    overlay("flannel.1", |_| ())
}

#[test]
fn replies_through_a_device_that_the_file_names_are_rewritten() -> Result<()> {
    overlay("wide7", |config| config.extra = "replyDevices: [\"wide*\"]\n".to_owned())
}

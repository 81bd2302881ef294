//! The agent beside everything else: stale caches, NAT rules, other services, other programs.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{
    Agent, Attempt, BACKEND_PORT, Balancer, Burst, Capture, Cluster, Config, Connection, Entry,
    Lab, Server, Transport, VIPS, backends, owner, web,
};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const SOON: Duration = Duration::from_secs(2);

#[test]
fn a_client_that_believes_in_another_host_gets_through() -> Result<()> {
    Cluster::run(3, web, |cluster| {
        for vip in VIPS {
            for (wrong, entry) in
                [("n2", Entry::Permanent), ("n3", Entry::Permanent), ("n2", Entry::Stale)]
            {
                let mac = cluster.host(wrong).mac();
                cluster.host("c1").believe(vip, mac, entry)?;
                let report = cluster.client.connect(Burst::new((vip, 80), 1500))?;
                report.expect_all(1500).with_context(|| format!("{vip} believed at {wrong}"))?;
                report.expect_even(&NODES, 0.2)?;
            }
            cluster.host("c1").forget(vip)?;
        }
        Ok(())
    })
}

#[test]
fn a_port_nobody_serves_is_refused_by_whichever_host_is_asked() -> Result<()> {
    Cluster::run(3, web, |cluster| {
        let client = cluster.host("c1");
        for vip in VIPS {
            for asked in NODES {
                client.believe(vip, cluster.host(asked).mac(), Entry::Permanent)?;
                let capture = Capture::of_host(&cluster.lab, asked)?;
                let began = Instant::now();
                let attempt = Attempt::to(client, (vip, 9999).into(), SOON)?;
                let took = began.elapsed();
                ensure!(attempt == Attempt::Refused, "{vip}:9999 asked of {asked}: {attempt:?}");
                // Not at the second try: the first SYN is answered.
                ensure!(took < Duration::from_millis(900), "{asked} took {took:?}");
                let circling = capture.finish()?.into_iter().filter(|frame| {
                    !frame.sent && frame.seen.addresses().is_some_and(|(_, to)| to == vip)
                });
                ensure!(circling.count() == 0, "{asked} sent on what was for {vip}:9999");
                let datagram = lab::ask_by_datagram(client, (vip, 9999).into(), 0);
                let error = datagram.expect_err("nobody serves this port");
                // Which of the ICMP codes is the agent's choice; silence is not.
                let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
                ensure!(
                    !matches!(kind, None | Some(ErrorKind::WouldBlock | ErrorKind::TimedOut)),
                    "UDP to {vip}:9999 asked of {asked}: {error:#}"
                );
            }
            client.forget(vip)?;
        }
        Ok(())
    })
}

const MASQUERADE: &str = "
add table ip hide
add chain ip hide post { type nat hook postrouting priority srcnat; }
add rule ip hide post oifname eth0 masquerade
add table ip6 hide
add chain ip6 hide post { type nat hook postrouting priority srcnat; }
add rule ip6 hide post oifname eth0 masquerade
";

#[test]
fn hosts_that_masquerade_what_leaves_them_work() -> Result<()> {
    let lab = Lab::bridge(3, 1)?;
    lab.nodes().try_for_each(|node| node.feed(&["nft", "-f", "-"], MASQUERADE))?;
    let mut balancers = web(&lab);
    balancers.push(Balancer::new("dns", Transport::Udp, 53, backends(lab.nodes(), BACKEND_PORT)));
    Cluster::start(lab, &balancers)?.explain(|cluster| {
        for vip in VIPS {
            let mine = cluster.host("c1").address_like(vip);
            let mut report = cluster.client.connect(Burst::new((vip, 80), 2000).hold())?;
            report.expect_all(2000)?;
            report.expect_even(&NODES, 0.15)?;
            report.expect_client(mine)?;
            for (who, connection) in &mut report.held {
                ensure!(connection.who()? == *who);
            }
            let report = cluster.client.send(Burst::new((vip, 53), 1000))?;
            report.expect_all(1000)?;
            report.expect_client(mine)?;
            Connection::open(cluster.host("c1"), (vip, 80).into())?.download(10_000_000)?;
            direct_beside_vip(cluster, vip)?;
        }
        Ok(())
    })
}

/// Connects through the virtual address and directly to the backend that answered, from one and
/// the same port of the client, in both orders.
fn direct_beside_vip(cluster: &Cluster, vip: IpAddr) -> Result<()> {
    let client = cluster.host("c1");
    let mine = client.address_like(vip);
    for port in 5000..5040 {
        let from = |target: SocketAddr| -> Result<String> {
            let source = Some(SocketAddr::new(mine, port));
            let mut connection = Connection::open_from(client, target, source, SOON)?;
            let who = connection.who()?;
            ensure!(who.client == SocketAddr::new(mine, port), "{target} saw {}", who.client);
            connection.download(100_000)?;
            // RST leaves nothing behind at either end that would be in the way of the next.
            connection.reset()?;
            std::thread::sleep(Duration::from_millis(2));
            Ok(who.host)
        };
        let host = from((vip, 80).into()).context("through the virtual address")?;
        let direct = (cluster.host(&host).address_like(vip), BACKEND_PORT).into();
        ensure!(from(direct).context("directly, after the virtual address")? == host);
        ensure!(from((vip, 80).into()).context("virtual address, after directly")? == host);
    }
    Ok(())
}

#[test]
fn direct_connections_to_a_backend_are_not_touched() -> Result<()> {
    Cluster::run(3, web, |cluster| {
        for vip in VIPS {
            direct_beside_vip(cluster, vip)?;
            for name in NODES {
                let target = (cluster.host(name).address_like(vip), BACKEND_PORT);
                let report = cluster.client.connect(Burst::new(target, 500))?;
                report.expect_all(500)?;
                report.expect_even(&[name], 0.0)?;
            }
        }
        Ok(())
    })
}

#[test]
fn another_service_on_the_owner_is_reached_at_the_virtual_address() -> Result<()> {
    Cluster::run(3, web, |cluster| {
        const BANNER: &str = "SSH-2.0-lab";
        let at_vip = VIPS.map(|vip| SocketAddr::from((vip, 22)));
        let _ssh = Server::with_banner(cluster.host("n1"), &at_vip, BANNER)?;
        let anywhere = [SocketAddr::from(([0, 0, 0, 0], 9345)), ([0_u16; 8], 9345).into()];
        let _supervisor = Server::with_banner(cluster.host("n1"), &anywhere, BANNER)?;
        for (vip, port) in VIPS.into_iter().flat_map(|vip| [(vip, 22), (vip, 9345)]) {
            let mut connection = Connection::open(cluster.host("c1"), (vip, port).into())?;
            ensure!(connection.read_line()?.trim_end() == BANNER, "no banner from {vip}:{port}");
            connection.upload(5_000_000)?;
            ensure!(connection.who()?.host == "n1");
        }
        for vip in VIPS {
            cluster.host("c1").run(&["ping", "-c3", "-i0.1", "-W1", &vip.to_string()])?;
        }
        Ok(())
    })
}

#[test]
fn a_frontend_on_the_hosts_own_addresses_works_on_every_host() -> Result<()> {
    let own = |lab: &Lab| {
        let served = backends(lab.nodes(), BACKEND_PORT);
        vec![Balancer::new("own", Transport::Tcp, 6443, served).on_own_addresses()]
    };
    Cluster::run(3, own, |cluster| {
        for name in NODES {
            for like in VIPS {
                let address = cluster.host(name).address_like(like);
                let report = cluster.client.connect(Burst::new((address, 6443), 1500))?;
                report.expect_all(1500).with_context(|| format!("{address}:6443 of {name}"))?;
                report.expect_even(&NODES, 0.2)?;
                report.expect_client(cluster.host("c1").address_like(like))?;
                // What does not match is the kernel's business, as ever.
                let report = cluster.client.connect(Burst::new((address, BACKEND_PORT), 50))?;
                report.expect_even(&[name], 0.0)?;
                let other = Attempt::to(cluster.host("c1"), (address, 6444).into(), SOON)?;
                ensure!(other == Attempt::Refused, "{address}:6444: {other:?}");
                cluster.host("c1").run(&["ping", "-c1", "-W1", &address.to_string()])?;
            }
        }
        Ok(())
    })
}

#[test]
fn somebody_elses_xdp_program_stays_and_the_kernel_answers_instead() -> Result<()> {
    let lab = Lab::bridge(1, 1)?;
    let (node, client) = (lab.host("n1"), lab.host("c1"));
    let _foreign = node.foreign_xdp("eth0", lab::Foreign::Pass)?;
    let program = node.xdp_program("eth0")?;
    ensure!(program.is_some(), "the foreign program is not there");
    let mut agent = Agent::start(node, &Config::of(&lab, node, &web(&lab)))?;
    let status = agent.wait_until("the address is held without XDP", |status| {
        let uplink = &status["uplinks"][0];
        uplink["xdp"] == "none" && uplink["reason"].is_string() && status["vips"][0]["held"] == true
    })?;
    println!("{:#}", status["uplinks"]);
    let at_vip = VIPS.map(|vip| SocketAddr::from((vip, 22)));
    let _ssh = Server::with_banner(node, &at_vip, "SSH-2.0-lab")?;
    for vip in VIPS {
        ensure!(owner(client, vip)? == node.mac());
        ensure!(Connection::open(client, (vip, 22).into())?.read_line()?.starts_with("SSH"));
    }
    ensure!(node.xdp_program("eth0")? == program, "the foreign program was replaced");
    agent.stop()?;
    ensure!(node.xdp_program("eth0")? == program, "the foreign program was removed");
    Ok(())
}

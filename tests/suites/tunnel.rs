//! Backends behind a router, and hosts whose data plane does not answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::{
    Agent, Agents, BACKEND_PORT, Balancer, Burst, Client, Cluster, Connection, Lab, Server, Setup,
    Topology, Transport, backends,
};

/// On the network of n1 and c1.
const VIPS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 77, 1, 100)),
    IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 1, 0, 0, 0, 0x100)),
];

/// The owner and a client, and behind a router two hosts with backends and another client.
const GROUPS: [&[&str]; 2] = [&["n1", "c1"], &["n2", "n3", "c2"]];
const BEHIND: [&str; 2] = ["n2", "n3"];

fn setup() -> Setup {
    Setup { adapt: |config| config.vips = VIPS.to_vec(), ..Setup::default() }
}

/// TCP port 80 and UDP port 53, served by these hosts.
fn served_by(lab: &Lab, names: &[&str]) -> Vec<Balancer> {
    let at = || backends(names.iter().map(|name| lab.host(name)), BACKEND_PORT);
    vec![
        Balancer::new("web", Transport::Tcp, 80, at()),
        Balancer::new("dns", Transport::Udp, 53, at()),
    ]
}

fn cluster(names: &[&str]) -> Result<Cluster> {
    cluster_as(names, setup())
}

fn cluster_as(names: &[&str], setup: Setup) -> Result<Cluster> {
    let lab = Lab::new(&Topology::routed(&GROUPS)?)?;
    let balancers = served_by(&lab, names);
    Cluster::start_as(lab, &balancers, setup)
}

/// Waits until the agent of n1 says of all addresses of a host that it is a peer, or none.
fn until_peer(agents: &mut Agents, id: &str, peer: bool) -> Result<Duration> {
    let started = Instant::now();
    agents.on("n1").wait_until(&format!("{id} is a peer: {peer}"), |status| {
        let all = status["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut its = all.iter().filter(|entry| entry["id"] == id).peekable();
        its.peek().is_some() && its.all(|entry| entry["reason"].is_null() == peer)
    })?;
    Ok(started.elapsed())
}

#[test]
fn backends_behind_a_router_serve_clients_on_both_sides() -> Result<()> {
    cluster(&BEHIND)?.explain(|cluster| {
        let far = Client::start(cluster.host("c2"))?;
        for vip in VIPS {
            for (client, host) in [(&cluster.client, "c1"), (&far, "c2")] {
                let report = client.connect(Burst::new((vip, 80), 1000))?;
                println!("{vip} from {host}: {report}");
                report.expect_all(1000)?;
                report.expect_even(&BEHIND, 0.3)?;
                report.expect_client(cluster.host(host).address_like(vip))?;
                let report = client.send(Burst::new((vip, 53), 500))?;
                report.expect_all(500)?;
                report.expect_even(&BEHIND, 0.3)?;
                report.expect_client(cluster.host(host).address_like(vip))?;
            }
        }
        let status = cluster.agents.on("n1").status()?;
        let ways = status["peers"].as_array().into_iter().flatten();
        let ways = ways.map(|peer| peer["way"].as_str().unwrap_or_default());
        ensure!(ways.eq(["tunnel"; 4]), "{}", status["peers"]);
        Ok(())
    })
}

#[test]
fn a_hundred_megabytes_need_no_mtu_set_by_hand() -> Result<()> {
    cluster(&["n2"])?.explain(|cluster| {
        for vip in VIPS {
            let mut connection = Connection::open(cluster.host("c1"), (vip, 80).into())?;
            connection.upload(100_000_000)?;
            connection.download(100_000_000)?;
            connection.echo("and still a connection")?;
        }
        let status = cluster.agents.on("n1").status()?;
        let count = |name: &str| status["counters"][name].as_u64().unwrap_or_default();
        println!("too big: {}, tunnelled: {}", count("too_big"), count("tunnelled"));
        ensure!(count("too_big") > 0, "links are at 1500, something had to be too big");
        // The client has learnt it: it is not told again and again.
        ensure!(count("too_big") < count("tunnelled") / 10, "{}", status["counters"]);
        Ok(())
    })
}

#[test]
fn a_tunnel_that_is_asked_for_is_taken_on_one_link_too() -> Result<()> {
    let lab = Lab::bridge(3, 1)?;
    let at = |name: &str, port| backends([lab.host(name)], port);
    let balancers = [
        Balancer::new("web", Transport::Tcp, 80, at("n2", BACKEND_PORT))
            .with("forwardingMethod: tunnel"),
        Balancer::new("straight", Transport::Tcp, 81, at("n2", BACKEND_PORT)),
    ];
    Cluster::start(lab, &balancers)?.explain(|cluster| {
        let tunnelled = |cluster: &mut Cluster| -> Result<u64> {
            let status = cluster.agents.on("n1").status()?;
            Ok(status["counters"]["tunnelled"].as_u64().unwrap_or_default())
        };
        let mut held = Vec::new();
        for vip in lab::VIPS {
            cluster.client.connect(Burst::new((vip, 81), 200))?.expect_all(200)?;
            let before = tunnelled(cluster)?;
            cluster.client.connect(Burst::new((vip, 80), 200))?.expect_all(200)?;
            let packets = tunnelled(cluster)? - before;
            ensure!(packets >= 200, "{packets} packets went through the tunnel to {vip}");
            let mut connection = Connection::open(cluster.host("c1"), (vip, 80).into())?;
            connection.upload(20_000_000)?;
            held.push(connection);
        }
        let status = cluster.agents.on("n1").status()?;
        let frontends = status["frontends"].as_array().into_iter().flatten();
        let ways = frontends.map(|frontend| {
            let port = frontend["port"].as_u64().unwrap_or_default();
            (port, frontend["backends"][0]["way"].as_str().unwrap_or_default().to_owned())
        });
        let ways: std::collections::BTreeSet<_> = ways.collect();
        ensure!(ways == [(80, "tunnel".into()), (81, "peer".into())].into(), "{ways:?}");
        // The next agent knows the peer's two ways apart.
        cluster.agents.on("n1").process().kill()?;
        cluster.agents.on("n1").restart()?;
        for mut connection in held {
            connection.echo("still there")?;
        }
        cluster.client.connect(Burst::new((lab::VIPS[0], 80), 200))?.expect_all(200)
    })
}

#[test]
fn tunnels_work_with_generic_programs_too() -> Result<()> {
    let adapt = |config: &mut lab::Config| {
        config.vips = VIPS.to_vec();
        config.xdp_mode = "generic";
    };
    cluster_as(&["n2"], Setup { adapt, ..Setup::default() })?.explain(|cluster| {
        for vip in VIPS {
            let mut connection = Connection::open(cluster.host("c1"), (vip, 80).into())?;
            let started = Instant::now();
            connection.upload(20_000_000)?;
            println!("{vip}: 20 MB up in {:?}", started.elapsed());
            connection.download(20_000_000)?;
            connection.echo("and still a connection")?;
        }
        Ok(())
    })
}

#[test]
fn a_smaller_mtu_on_the_way_is_learnt() -> Result<()> {
    // What is in the middle fits less than what is at both ends. The router says so, once asked.
    cluster(&["n2"])?.explain(|cluster| {
        cluster.host("core").shell(
            "ip route add 10.77.2.12/32 dev eth1 mtu lock 1350\n\
             ip -6 route add fd77:0:0:2::12/128 dev eth1 mtu lock 1350",
        )?;
        cluster.agents.on("n1").wait_until("the path MTU is known", |status| {
            let peers = status["peers"].as_array().into_iter().flatten();
            peers.filter(|peer| peer["id"] == "n2").all(|peer| peer["mtu"] == 1350)
        })?;
        for vip in VIPS {
            let mut connection = Connection::open(cluster.host("c1"), (vip, 80).into())?;
            connection.upload(20_000_000)?;
            connection.echo("and still a connection")?;
        }
        Ok(())
    })
}

/// An IPv4 packet with this protocol and content (RFC 791 §3.1).
fn packet(source: Ipv4Addr, destination: Ipv4Addr, ttl: u8, protocol: u8, data: &[u8]) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend((20 + data.len() as u16).to_be_bytes());
    header.extend([0, 0, 0x40, 0, ttl, protocol, 0, 0]);
    header.extend([source.octets(), destination.octets()].concat());
    let words = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let check = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&check.to_be_bytes());
    [&header, data].concat()
}

#[test]
fn nobody_but_a_peer_tunnels_to_a_host() -> Result<()> {
    cluster(&["n2"])?.explain(|cluster| {
        let (n1, n2, c2) = (cluster.host("n1"), cluster.host("n2"), cluster.host("c2"));
        let IpAddr::V4(vip) = VIPS[0] else { anyhow::bail!("the first VIP is IPv4") };
        // Port 40000 to 53, no checksum, as n1 would have marked it.
        let datagram = [&[0x9c, 0x40, 0, 53, 0, 12, 0, 0], &b"test"[..]].concat();
        let inner = packet(c2.v4(), vip, 240, 17, &datagram);
        let frame = |from: Ipv4Addr| {
            let outer = packet(from, n2.v4(), 64, 4, &inner);
            [&n2.mac().0[..], &c2.mac().0, &[8, 0], &outer].concat()
        };
        c2.send_frame("eth0", &frame(c2.v4()))?;
        // The same in a peer's name shows that nothing else is wrong with it. Nobody at c2 waits for
        // the answer; that it says so is for the backend to know and comes through n1's tunnel.
        c2.send_frame("eth0", &frame(n1.v4()))?;
        cluster.agents.on("n2").wait_until("one is refused and one is not", |status| {
            let count = |name: &str| status["counters"][name].as_u64().unwrap_or_default();
            count("tunnel_refused") == 1 && count("decapsulated") == 2
        })?;
        Ok(())
    })
}

/// New connections reach both hosts, n2 by address translation.
fn n2_is_a_plain_host(client: &Client, n1: &mut Agent) -> Result<()> {
    n1.wait_until("n2 is a host without agent", |status| {
        let frontends = status["frontends"].as_array().into_iter().flatten();
        let backends = frontends.flat_map(|frontend| frontend["backends"].as_array()).flatten();
        backends.into_iter().all(|backend| match backend["node"].as_str() {
            Some("n2") => backend["way"] == "nat",
            _ => backend["way"] == "peer",
        })
    })?;
    for vip in VIPS {
        let report = client.connect(Burst::new((vip, 80), 200))?;
        report.expect_all(200)?;
        report.expect_even(&BEHIND, 0.4)?;
    }
    Ok(())
}

#[test]
fn an_agent_that_is_stopped_is_no_black_hole() -> Result<()> {
    cluster(&BEHIND)?.explain(|cluster| {
        let status = cluster.agents.on("n2").stop()?;
        ensure!(status.success(), "n2 ended with {status}");
        let took = until_peer(&mut cluster.agents, "n2", false)?;
        println!("left out within {took:?} of its end");
        n2_is_a_plain_host(&cluster.client, cluster.agents.on("n1"))?;
        // And back.
        cluster.agents.on("n2").restart()?;
        let took = until_peer(&mut cluster.agents, "n2", true)?;
        println!("a peer again after {took:?}");
        let report = cluster.client.connect(Burst::new((VIPS[0], 80), 500))?;
        report.expect_all(500)?;
        report.expect_even(&BEHIND, 0.3)
    })
}

#[test]
fn an_agent_that_was_killed_is_none_either_after_half_a_minute() -> Result<()> {
    cluster(&BEHIND)?.explain(|cluster| {
        cluster.agents.on("n2").process().kill()?;
        let killed = Instant::now();
        // Its programs go on, and so do the connections they carry.
        let report = cluster.client.connect(Burst::new((VIPS[0], 80), 300))?;
        report.expect_all(300)?;
        report.expect_even(&BEHIND, 0.4)?;
        while killed.elapsed() < Duration::from_secs(28) {
            std::thread::sleep(Duration::from_secs(1));
        }
        until_peer(&mut cluster.agents, "n2", false)?;
        println!("left out after {:?}", killed.elapsed());
        n2_is_a_plain_host(&cluster.client, cluster.agents.on("n1"))
    })
}

#[test]
fn a_host_whose_agent_was_never_started_is_a_plain_host() -> Result<()> {
    let lab = Lab::new(&Topology::routed(&GROUPS)?)?;
    let balancers = served_by(&lab, &BEHIND);
    let _servers = BEHIND
        .iter()
        .map(|name| Server::on_port(lab.host(name), BACKEND_PORT))
        .collect::<Result<Vec<_>>>()?;
    let start = |name: &str| {
        let mut config = lab::Config::of(&lab, lab.host(name), &balancers);
        config.vips = VIPS.to_vec();
        Agent::start(lab.host(name), &config)
    };
    let (mut n1, mut n3) = (start("n1")?, start("n3")?);
    n3.wait_ready()?;
    let reason = |peer: &serde_json::Value| peer["reason"].as_str().unwrap_or_default().to_owned();
    n1.wait_until("n2 does not answer and n3 does", |status| {
        let peers = status["peers"].as_array().into_iter().flatten();
        status["ready"] == true
            && peers.into_iter().all(|peer| match peer["id"].as_str() {
                Some("n2") => reason(peer).contains("no data plane answers for n2"),
                _ => reason(peer).is_empty() && peer["answered_ms"].is_u64(),
            })
    })?;
    n2_is_a_plain_host(&Client::start(lab.host("c1"))?, &mut n1)
}

#[test]
fn clients_without_icmp_send_what_fits_if_told_to() -> Result<()> {
    let adapt = |config: &mut lab::Config| {
        config.vips = VIPS.to_vec();
        config.extra = "mssClamp: auto\n".into();
    };
    cluster_as(&BEHIND, Setup { adapt, ..Setup::default() })?.explain(|cluster| {
        // Nothing tells the client of the tunnel.
        cluster.host("c1").feed(
            &["nft", "-f", "-"],
            "table inet deaf {\n\
               chain in { type filter hook input priority 0;\n\
                 icmp type destination-unreachable drop;\n\
                 icmpv6 type packet-too-big drop;\n\
               }\n\
             }\n",
        )?;
        for vip in VIPS {
            let mut connection = Connection::open(cluster.host("c1"), (vip, 80).into())?;
            connection.upload(20_000_000)?;
            connection.download(20_000_000)?;
        }
        let counters = &cluster.agents.on("n1").status()?["counters"];
        ensure!(counters["too_big"].is_null(), "{counters}");
        ensure!(counters["tunnelled"].as_u64() > Some(10_000), "{counters}");
        Ok(())
    })
}

//! Packets that are not the usual ones: fragments, none at all in them, too big for the way.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{
    BACKEND_PORT, Balancer, Cluster, Connection, Host, Lab, Server, Setup, Topology, Transport,
    VIPS, backends, web,
};

const NODES: [&str; 3] = ["n1", "n2", "n3"];

fn dns(lab: &Lab) -> Vec<Balancer> {
    vec![Balancer::new("dns", Transport::Udp, 53, backends(lab.nodes(), BACKEND_PORT))]
}

/// Sends a datagram from a socket of its own and returns the answer.
fn ask(host: &Host, target: SocketAddr, content: &[u8]) -> Result<Vec<u8>> {
    host.in_net(|| {
        let any: IpAddr = match target {
            SocketAddr::V4(_) => [0, 0, 0, 0].into(),
            SocketAddr::V6(_) => [0u16; 8].into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(target)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.send(content)?;
        let mut buffer = vec![0; 64 << 10];
        let got = socket.recv(&mut buffer).with_context(|| {
            format!("waiting for the answer of {target} to {} bytes", content.len())
        })?;
        buffer.truncate(got);
        Ok(buffer)
    })
}

/// A datagram that comes back, of that length.
fn datagram(length: usize, seed: usize) -> Vec<u8> {
    let content = (0..length - 5).map(|n| ((n * 31 + seed) % 251) as u8);
    b"echo ".iter().copied().chain(content).collect()
}

#[test]
fn large_datagrams_arrive_in_fragments_both_ways() -> Result<()> {
    Cluster::run(3, dns, |cluster| {
        for vip in VIPS {
            let mut seen = std::collections::BTreeSet::new();
            for seed in 0..40 {
                for length in [1472, 1473, 3000, 9000, 30_000] {
                    let sent = datagram(length, seed);
                    let back = ask(cluster.host("c1"), (vip, 53).into(), &sent)?;
                    ensure!(back == sent, "{length} bytes came back as {}", back.len());
                }
            }
            for node in NODES {
                let clients = cluster.server(node)?.udp_clients();
                let like = cluster.host("c1").address_like(vip);
                seen.extend(clients.iter().any(|client| client.ip() == like).then_some(node));
            }
            ensure!(seen.len() == NODES.len(), "only {seen:?} got any");
        }
        Ok(())
    })
}

#[test]
fn fragments_arrive_on_hosts_that_track_connections() -> Result<()> {
    let lab = Lab::bridge(3, 1)?;
    for node in lab.nodes() {
        // Tracking puts fragments together, on their way in and out.
        node.feed(
            &["nft", "-f", "-"],
            "table inet track {\n\
               chain in { type filter hook prerouting priority 0; ct state new accept; }\n\
               chain out { type filter hook output priority 0; ct state new accept; }\n\
             }\n",
        )?;
    }
    let balancers = dns(&lab);
    Cluster::start(lab, &balancers)?.explain(|cluster| {
        for (vip, seed) in VIPS.into_iter().flat_map(|vip| (0..20).map(move |seed| (vip, seed))) {
            let sent = datagram(5000, seed);
            let back = ask(cluster.host("c1"), (vip, 53).into(), &sent)?;
            ensure!(back == sent, "5000 bytes came back as {}", back.len());
        }
        Ok(())
    })
}

#[test]
fn datagrams_without_content_are_datagrams() -> Result<()> {
    Cluster::run(3, dns, |cluster| {
        for vip in VIPS {
            for _ in 0..20 {
                let client = cluster.host("c1");
                let who = ask(client, (vip, 53).into(), b"")?;
                ensure!(who.starts_with(b"n"), "{who:?} is no answer");
                ensure!(ask(client, (vip, 53).into(), b"echo ")?.is_empty());
            }
        }
        Ok(())
    })
}

/// Where the routed lab has its virtual addresses: on the nodes' segment.
fn vips() -> [IpAddr; 2] {
    ["10.77.1.100", "fd77:0:0:1::100"].map(|ip| ip.parse().expect("an address"))
}

const FITS: &str = "1300";

/// What is for the client has less room at the router than the client's own link says.
fn narrow(lab: &Lab) -> Result<()> {
    let (core, client) = (lab.host("core"), lab.host("c1"));
    for address in [format!("{}/32", client.v4()), format!("{}/128", client.v6())] {
        core.run(&["ip", "route", "add", &address, "dev", "eth1", "mtu", FITS])?;
    }
    Ok(())
}

#[test]
fn backends_learn_what_fits_the_way_to_the_client() -> Result<()> {
    let lab = Lab::new(&Topology::routed(&[&NODES, &["c1"]])?)?;
    narrow(&lab)?;
    let balancers = web(&lab);
    let setup = Setup { adapt: |config| config.vips = vips().to_vec(), ..Setup::default() };
    Cluster::start_as(lab, &balancers, setup)?.explain(|cluster| {
        for vip in vips() {
            let mut reached = std::collections::BTreeSet::new();
            for _ in 0..100 {
                let mut connection = Connection::open(cluster.host("c1"), (vip, 80).into())?;
                let who = connection.who()?;
                if reached.insert(who.host.clone()) {
                    connection.download(5_000_000)?;
                    connection.upload(1_000_000)?;
                    let client = cluster.host("c1").address_like(vip).to_string();
                    let route = cluster.host(&who.host).run(&["ip", "route", "get", &client])?;
                    ensure!(route.contains(&format!("mtu {FITS}")), "{}: {route}", who.host);
                }
                if reached.len() == NODES.len() {
                    break;
                }
            }
            ensure!(reached.len() == NODES.len(), "only {reached:?} were reached");
        }
        Ok(())
    })
}

fn hears_that_nobody_listens(client: &Host) -> Result<()> {
    for vip in VIPS {
        // The kernel sends six such messages in a row, then one a second.
        for _ in 0..5 {
            let error = ask(client, (vip, 53).into(), b"who").err();
            let error = error.context("nobody listens, and somebody answers")?;
            let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            // From the address that the socket is connected to, or it would not be told.
            ensure!(kind == Some(std::io::ErrorKind::ConnectionRefused), "{error:#}");
        }
    }
    Ok(())
}

#[test]
fn clients_hear_that_nobody_listens_at_the_backend() -> Result<()> {
    let balancers = |lab: &Lab| {
        vec![Balancer::new("dns", Transport::Udp, 53, backends(lab.nodes(), BACKEND_PORT + 1))]
    };
    Cluster::run(2, balancers, |cluster| hears_that_nobody_listens(cluster.host("c1")))
}

#[test]
fn clients_hear_that_nobody_listens_on_a_host_without_agent() -> Result<()> {
    let lab = Lab::new(&Topology::bridge(1, 1)?.and("x1")?)?;
    let closed = backends([lab.host("x1")], BACKEND_PORT + 1);
    let balancers = vec![Balancer::new("dns", Transport::Udp, 53, closed)];
    Cluster::start(lab, &balancers)?
        .explain(|cluster| hears_that_nobody_listens(cluster.host("c1")))
}

#[test]
fn a_host_without_agent_learns_what_fits_the_way_to_the_client() -> Result<()> {
    let lab = Lab::new(&Topology::routed(&[&["n1", "x1"], &["c1"]])?)?;
    narrow(&lab)?;
    let _server = Server::on_port(lab.host("x1"), BACKEND_PORT)?;
    let balancers =
        vec![Balancer::new("web", Transport::Tcp, 80, backends([lab.host("x1")], BACKEND_PORT))];
    let setup = Setup { adapt: |config| config.vips = vips().to_vec(), ..Setup::default() };
    Cluster::start_as(lab, &balancers, setup)?.explain(|cluster| {
        for vip in vips() {
            let mut connection = Connection::open(cluster.host("c1"), (vip, 80).into())?;
            connection.download(5_000_000)?;
            connection.upload(1_000_000)?;
            // To the server the owner is the client, and the way to it is what it learns about.
            let route = cluster.host("x1").run(&["ip", "route", "get", &vip.to_string()])?;
            ensure!(route.contains(&format!("mtu {FITS}")), "{route}");
        }
        Ok(())
    })
}

//! Hosts without agent serve too, and clients on a backend's own host are served: the owner
//! translates addresses.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{
    BACKEND_PORT, Balancer, Burst, Client, Cluster, Connection, Host, Lab, Server, Setup, Topology,
    Transport, VIPS, backends, eventually,
};
use nix::sys::resource::{Resource, setrlimit};

/// Nodes with agents, a client c1, and x1 without an agent.
fn lab(nodes: usize) -> Result<Lab> {
    Lab::new(&Topology::bridge(nodes, 1)?.and("x1")?)
}

fn both(name: &str, backends: Vec<SocketAddr>) -> Vec<Balancer> {
    let tcp = Balancer::new(name, Transport::Tcp, 80, backends.clone());
    vec![tcp, Balancer::new(&format!("{name}-udp"), Transport::Udp, 53, backends)]
}

/// A cluster in which x1 serves alone.
fn plain(nodes: usize, test: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    let lab = lab(nodes)?;
    let _server = Server::on_port(lab.host("x1"), BACKEND_PORT)?;
    let balancers = both("plain", backends([lab.host("x1")], BACKEND_PORT));
    Cluster::start(lab, &balancers)?.explain(test)
}

#[test]
fn a_host_without_agent_serves_and_sees_the_virtual_address() -> Result<()> {
    plain(2, |cluster| {
        for vip in VIPS {
            let report = cluster.client.connect(Burst::new((vip, 80), 2000))?;
            println!("{report}");
            report.expect_all(2000)?;
            report.expect_even(&["x1"], 0.0)?;
            report.expect_client(vip)?;
            let report = cluster.client.send(Burst::new((vip, 53), 2000))?;
            println!("{report}");
            report.expect_all(2000)?;
            report.expect_client(vip)?;
        }
        Ok(())
    })
}

#[test]
fn twenty_megabytes_arrive_intact_in_both_directions() -> Result<()> {
    plain(1, |cluster| {
        for vip in VIPS {
            let mut connection = Connection::open(cluster.host("c1"), (vip, 80).into())?;
            connection.upload(20_000_000)?;
            connection.download(20_000_000)?;
            connection.echo("and still a connection")?;
        }
        Ok(())
    })
}

#[test]
fn plain_hosts_and_peers_share_what_comes() -> Result<()> {
    let lab = lab(2)?;
    let _server = Server::on_port(lab.host("x1"), BACKEND_PORT)?;
    let all = ["n1", "n2", "x1"].map(|name| lab.host(name));
    let balancers = both("mixed", backends(all, BACKEND_PORT));
    Cluster::start(lab, &balancers)?.explain(|cluster| {
        for vip in VIPS {
            let report = cluster.client.connect(Burst::new((vip, 80), 3000))?;
            println!("{report}");
            report.expect_all(3000)?;
            report.expect_even(&["n1", "n2", "x1"], 0.15)?;
        }
        Ok(())
    })
}

#[test]
fn a_process_on_the_backends_own_host_is_a_client_too() -> Result<()> {
    let lab = lab(2)?;
    let balancers = both("web", backends([lab.host("n1"), lab.host("n2")], BACKEND_PORT));
    // Its packets are to reach the owner, as those of a container's would.
    let setup = Setup { adapt: |config| config.local_clients = "none", ..Setup::default() };
    Cluster::start_as(lab, &balancers, setup)?.explain(|cluster| {
        let client = Client::start(cluster.host("n2"))?;
        for vip in VIPS {
            let own = cluster.host("n2").address_like(vip);
            let mut seen = [0; 2];
            let report = client.connect(Burst::new((vip, 80), 300).hold())?;
            report.expect_all(300)?;
            for (who, _) in &report.held {
                let expected = if who.host == "n2" { vip } else { own };
                ensure!(who.client.ip() == expected, "{who:?}");
                seen[usize::from(who.host == "n2")] += 1;
            }
            println!("{vip}: {} to n1, {} to n2", seen[0], seen[1]);
            ensure!(seen.iter().all(|count| *count > 60), "{seen:?}");
        }
        Ok(())
    })
}

#[test]
fn exhausted_ports_are_told_and_disturb_nobody() -> Result<()> {
    const PORTS: usize = 100;
    let lab = lab(1)?;
    let _server = Server::on_port(lab.host("x1"), BACKEND_PORT)?;
    let backends = backends([lab.host("x1")], BACKEND_PORT);
    let few = Balancer::new("few", Transport::Tcp, 80, backends.clone()).with("natSource: node");
    let balancers = [few, Balancer::new("many", Transport::Tcp, 81, backends)];
    let adapt = |config: &mut lab::Config| config.extra = "natPorts: 28000-28099\n".into();
    let setup = Setup { adapt, ..Setup::default() };
    Cluster::start_as(lab, &balancers, setup)?.explain(|cluster| {
        let vip = VIPS[0];
        let report = cluster.client.connect(Burst::new((vip, 80), PORTS).hold())?;
        report.expect_all(PORTS)?;
        report.expect_client(cluster.host("n1").v4())?;
        let mut held = report.held;
        let one_more = Burst::new((vip, 80), 1).patience(Duration::from_secs(3));
        let report = cluster.client.connect(one_more)?;
        ensure!(report.answers() == 0, "a connection more than there are ports");
        let agent = cluster.agents.on("n1");
        let status = agent.status()?;
        let count = status["counters"]["nat_ports_exhausted"].as_u64().unwrap_or(0);
        ensure!(count > 0, "not counted: {}", status["counters"]);
        eventually(Duration::from_secs(5), "the log tells", || {
            ensure!(agent.log().contains("no free port for another translated connection"));
            Ok(())
        })?;
        for (_, connection) in &mut held {
            connection.echo("undisturbed")?;
        }
        cluster.client.connect(Burst::new((vip, 81), 500))?.expect_all(500)?;
        // A port is free again a minute after its connection has ended; a reset frees it sooner.
        for (_, connection) in held.drain(..10) {
            connection.reset()?;
        }
        thread::sleep(Duration::from_secs(13));
        cluster.client.connect(Burst::new((vip, 80), 5).hold())?.expect_all(5)
    })
}

#[test]
fn connections_stay_translated_when_the_owner_serves_itself() -> Result<()> {
    plain(2, |cluster| {
        let mut open = Vec::new();
        for vip in VIPS {
            open.push(Connection::open(cluster.host("c1"), (vip, 80).into())?);
        }
        let here = backends([cluster.host("n1")], BACKEND_PORT);
        cluster.agents.rewrite(&cluster.lab, &both("plain", here))?;
        for connection in &mut open {
            connection.echo("as before")?;
            ensure!(connection.who()?.host == "x1");
        }
        for vip in VIPS {
            let who = Connection::open(cluster.host("c1"), (vip, 80).into())?.who()?;
            ensure!(who.host == "n1", "{who:?}");
        }
        Ok(())
    })
}

/// Each from a port of its own, on several addresses of the client.
fn open_all(host: &Host, sources: &[IpAddr], each: u16, to: SocketAddr) -> Result<Vec<TcpStream>> {
    host.in_net(|| {
        let mut open = Vec::new();
        for (source, n) in sources.iter().flat_map(|source| (0..each).map(move |n| (source, n))) {
            let socket = socket2::Socket::new(
                socket2::Domain::for_address(to),
                socket2::Type::STREAM,
                None,
            )?;
            // The same ports on each address: most need another one on the way.
            let from = SocketAddr::new(*source, 10_000 + n);
            socket.bind(&from.into()).with_context(|| format!("binding {from}"))?;
            socket
                .connect_timeout(&to.into(), Duration::from_secs(20))
                .with_context(|| format!("connection {} from {from} to {to}", open.len()))?;
            open.push(socket.into());
        }
        Ok(open)
    })
}

#[test]
fn sixty_thousand_connections_at_once_to_one_backend() -> Result<()> {
    const EACH: u16 = 20_000;
    const ALL: usize = 3 * EACH as usize;
    let files = 2 * ALL as u64 + 4096;
    setrlimit(Resource::RLIMIT_NOFILE, files, files)?;
    plain(1, |cluster| {
        let (vip, client, server) = (VIPS[0], cluster.lab.host("c1"), cluster.lab.host("x1"));
        let sources: Vec<IpAddr> = (1..=3).map(|n| IpAddr::from([10, 77, 0, 210 + n])).collect();
        for source in &sources {
            client.run(&["ip", "address", "add", &format!("{source}/24"), "dev", "eth0"])?;
        }
        let many = SocketAddr::from((server.v4(), 9000));
        let balancer = Balancer::new("many", Transport::Tcp, 90, vec![many]);
        cluster.agents.rewrite(&cluster.lab, &[balancer])?;
        let listener = server.in_net(|| Ok(TcpListener::bind(many)?))?;
        let accepted = thread::spawn(move || -> Result<Vec<TcpStream>> {
            let mut open = Vec::with_capacity(ALL);
            while open.len() < ALL {
                open.push(listener.accept()?.0);
            }
            Ok(open)
        });
        let began = Instant::now();
        let mut open = open_all(client, &sources, EACH, (vip, 90).into())?;
        println!("{ALL} connections after {:.1} s", began.elapsed().as_secs_f64());
        let mut accepted = accepted.join().expect("the server does not panic")?;
        // All of them are open now. Each carries its own number there and back.
        for (number, stream) in open.iter_mut().enumerate() {
            stream.write_all(&(number as u32).to_be_bytes())?;
        }
        let mut ports = std::collections::BTreeSet::new();
        for stream in &mut accepted {
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            let mut number = [0; 4];
            stream.read_exact(&mut number)?;
            stream.write_all(&number)?;
            let from = stream.peer_addr()?;
            ensure!(from.ip() == vip && from.port() >= 1024, "{from}");
            ensure!(ports.insert(from.port()), "{from} twice");
        }
        for (number, stream) in open.iter_mut().enumerate() {
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            let mut back = [0; 4];
            stream.read_exact(&mut back)?;
            ensure!(u32::from_be_bytes(back) as usize == number);
        }
        println!("all have answered after {:.1} s", began.elapsed().as_secs_f64());
        Ok(())
    })
}

//! Hosts without agent serve too, and clients on a backend's own host are served: the owner
//! translates addresses.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{
    BACKEND_PORT, Balancer, Burst, Client, Cluster, Connection, Lab, Server, Setup, Topology,
    Transport, VIPS, Worker, backends, eventually,
};
use socket2::{Domain, Socket, Type};

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
    let adapt = |config: &mut lab::Config| config.extra = "natPorts: 65100-65199\n".into();
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

const CONNECTIONS: u16 = 15_000;
const PROCESSES: usize = 4;

/// Not a test: one of the processes below.
#[test]
#[ignore = "a process of another test"]
fn one_of_many() -> Result<()> {
    let Some(role) = Worker::role() else { return Ok(()) };
    let words: Vec<&str> = role.split(' ').collect();
    let [what, address, peer] = words[..] else { anyhow::bail!("{role:?} is no role") };
    match what {
        "server" => serve(address.parse()?, peer.parse()?),
        _ => call(address.parse()?, peer.parse()?),
    }
}

fn serve(at: SocketAddr, client: IpAddr) -> Result<()> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    // Several processes share the port.
    socket.set_reuse_port(true)?;
    socket.bind(&at.into())?;
    socket.listen(4096)?;
    Worker::say("ready");
    let listener = TcpListener::from(socket);
    let (sender, accepted) = std::sync::mpsc::channel();
    thread::spawn(move || listener.incoming().try_for_each(|stream| sender.send(stream)));
    Worker::wait()?;
    let open = accepted.try_iter().collect::<Result<Vec<TcpStream>, _>>()?;
    // Numbers come in the clients' order, which is not that of the connections here.
    open.iter().try_for_each(|stream| stream.set_nonblocking(true))?;
    let mut waiting: Vec<&TcpStream> = open.iter().collect();
    let began = Instant::now();
    while let Some(first) = waiting.first() {
        let from = first.peer_addr()?;
        ensure!(began.elapsed() < Duration::from_secs(120), "no number from {from}");
        let mut still = Vec::new();
        for mut stream in waiting {
            let mut number = [0; 4];
            match stream.read(&mut number) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => still.push(stream),
                read => {
                    let from = stream.peer_addr()?;
                    ensure!(read? == number.len(), "part of a number from {from}");
                    ensure!(from.ip() == client && from.port() >= 1024, "{from}");
                    stream.write_all(&number)?;
                }
            }
        }
        waiting = still;
        thread::sleep(Duration::from_millis(1));
    }
    Worker::say(&format!("served {}", open.len()));
    Worker::wait()
}

fn call(from: IpAddr, to: SocketAddr) -> Result<()> {
    let mut open = Vec::new();
    for n in 0..CONNECTIONS {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        // The same ports on each address: most need another one on the way.
        let from = SocketAddr::new(from, 10_000 + n);
        socket.bind(&from.into()).with_context(|| format!("binding {from}"))?;
        let opened = socket.connect_timeout(&to.into(), Duration::from_secs(90));
        opened.with_context(|| format!("from {from} to {to}"))?;
        open.push(TcpStream::from(socket));
    }
    Worker::say("open");
    Worker::wait()?;
    // All at once would be more than the client's own interface takes: what it drops is sent again,
    // by all in the same moment, until they give up.
    let mut open: Vec<(u32, TcpStream)> = (0..).zip(open).collect();
    for some in open.chunks_mut(64) {
        for (number, stream) in &mut *some {
            stream.write_all(&number.to_be_bytes())?;
        }
        for (number, stream) in some {
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            let mut back = [0; 4];
            let from = stream.local_addr()?;
            stream.read_exact(&mut back).with_context(|| format!("the answer to {from}"))?;
            ensure!(u32::from_be_bytes(back) == *number);
        }
    }
    Worker::say("answered");
    Worker::wait()
}

#[test]
fn sixty_thousand_connections_at_once_to_one_backend() -> Result<()> {
    plain(1, |cluster| {
        let (vip, client, server) = (VIPS[0], cluster.lab.host("c1"), cluster.lab.host("x1"));
        let many = SocketAddr::from((server.v4(), 9000));
        // The servers count what they accept: a check would be one of them.
        let balancer =
            Balancer::new("many", Transport::Tcp, 90, vec![many]).with("healthCheck: {type: none}");
        cluster.agents.rewrite(&cluster.lab, &[balancer])?;
        let mut servers = (0..PROCESSES)
            .map(|_| Worker::start(server, "one_of_many", &format!("server {many} {vip}")))
            .collect::<Result<Vec<_>>>()?;
        servers.iter_mut().try_for_each(|server| server.says("ready").map(drop))?;
        let began = Instant::now();
        let mut clients = Vec::new();
        for n in 0..PROCESSES {
            let source = format!("10.77.0.{}", 211 + n);
            client.run(&["ip", "address", "add", &format!("{source}/24"), "dev", "eth0"])?;
            clients.push(Worker::start(
                client,
                "one_of_many",
                &format!("client {source} {vip}:90"),
            )?);
        }
        clients.iter_mut().try_for_each(|client| client.says("open").map(drop))?;
        println!("all are open after {:.1} s", began.elapsed().as_secs_f64());
        // Each carries its number there and back.
        clients.iter_mut().chain(&mut servers).try_for_each(Worker::go)?;
        let mut served = 0;
        for server in &mut servers {
            let said = server.says("served")?;
            served += said.split(' ').nth(1).context("a number")?.parse::<usize>()?;
        }
        clients.iter_mut().try_for_each(|client| client.says("answered").map(drop))?;
        println!("all have answered after {:.1} s", began.elapsed().as_secs_f64());
        ensure!(served == PROCESSES * usize::from(CONNECTIONS), "{served} were served");
        Ok(())
    })
}

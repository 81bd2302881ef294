//! The lab itself, with nothing but the kernel in it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::{Attempt, Burst, Client, Connection, Lab, Server, Topology, ask_by_datagram};

#[test]
fn hosts_reach_each_other_at_once() -> Result<()> {
    let began = Instant::now();
    let lab = Lab::bridge(3, 1)?;
    let built = began.elapsed();
    println!("built in {built:?}");
    ensure!(built < Duration::from_secs(1), "building took {built:?}");
    let client = lab.host("c1");
    for node in lab.nodes() {
        client.run(&["ping", "-c1", "-W1", &node.v4().to_string()])?;
        client.run(&["ping", "-c1", "-W1", &node.v6().to_string()])?;
    }
    Ok(())
}

#[test]
fn hosts_behind_a_router_reach_each_other() -> Result<()> {
    let lab = Lab::new(&Topology::routed(&[&["n1", "n2"], &["n3"], &["c1"]])?)?;
    let client = lab.host("c1");
    for node in lab.nodes() {
        client.run(&["ping", "-c1", "-W1", &node.v4().to_string()])?;
        client.run(&["ping", "-c1", "-W1", &node.v6().to_string()])?;
    }
    Ok(())
}

#[test]
fn ten_thousand_connections_take_seconds() -> Result<()> {
    let lab = Lab::bridge(1, 1)?;
    let (node, client) = (lab.host("n1"), Client::start(lab.host("c1"))?);
    let server = Server::on_port(node, 8080)?;
    for address in [node.v4().into(), node.v6().into()] {
        let target = SocketAddr::new(address, 8080);
        let report = client.connect(Burst::new(target, 10_000))?;
        println!("{report}");
        report.expect_all(10_000)?;
        report.expect_even(&["n1"], 0.0)?;
        report.expect_client(client.host().address_like(address))?;
        let report = client.send(Burst::new(target, 1000))?;
        println!("UDP: {report}");
        report.expect_all(1000)?;
        ensure!(ask_by_datagram(client.host(), target, 4711)?.client.port() == 4711);
    }
    ensure!(server.tcp_clients().len() == 20_000 && server.udp_clients().len() == 2002);
    let mut report = client.connect(Burst::new((node.v4(), 8080), 3000).hold())?;
    let began = Instant::now();
    for (who, connection) in &mut report.held {
        ensure!(connection.who()? == *who && who.client == connection.local()?);
    }
    println!("3000 held connections asked in {:?}", began.elapsed());
    Ok(())
}

#[test]
fn content_arrives_as_it_was_sent() -> Result<()> {
    let lab = Lab::bridge(1, 1)?;
    let (node, client) = (lab.host("n1"), lab.host("c1"));
    let _server = Server::on_port(node, 8080)?;
    for address in [SocketAddr::from((node.v4(), 8080)), (node.v6(), 8080).into()] {
        let mut connection = Connection::open(client, address)?;
        let began = Instant::now();
        connection.upload(100_000_000)?;
        let up = began.elapsed();
        connection.download(100_000_000)?;
        println!("100 MB up in {up:?}, down in {:?}", began.elapsed() - up);
        connection.echo("still there")?;
    }
    let nobody = (node.v4(), 8081).into();
    ensure!(Attempt::to(client, nobody, Duration::from_secs(1))? == Attempt::Refused);
    Ok(())
}

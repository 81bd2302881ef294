//! Connections and datagrams through the virtual addresses reach the backends.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use lab::{
    BACKEND_PORT, Balancer, Burst, Cluster, Connection, Transport, VIPS, backends, owner, web,
};

const NODES: [&str; 3] = ["n1", "n2", "n3"];

fn ten_thousand(vip: IpAddr) -> Result<()> {
    Cluster::run(3, web, |cluster| {
        let report = cluster.client.connect(Burst::new((vip, 80), 10_000))?;
        println!("{report}");
        report.expect_all(10_000)?;
        report.expect_even(&NODES, 0.1)?;
        report.expect_client(cluster.host("c1").address_like(vip))
    })
}

#[test]
fn ten_thousand_tcp_connections_on_ipv4_spread_over_all_backends() -> Result<()> {
    ten_thousand(VIPS[0])
}

#[test]
fn ten_thousand_tcp_connections_on_ipv6_spread_over_all_backends() -> Result<()> {
    ten_thousand(VIPS[1])
}

/// A connection to each of the nodes, through the virtual address.
fn one_to_each(cluster: &Cluster, vip: IpAddr) -> Result<Vec<(String, Connection)>> {
    let mut found = Vec::<(String, Connection)>::new();
    for _ in 0..200 {
        let mut connection = Connection::open(cluster.host("c1"), (vip, 80).into())?;
        let who = connection.who()?;
        if found.iter().all(|(host, _)| *host != who.host) {
            found.push((who.host, connection));
        }
        if found.len() == NODES.len() {
            return Ok(found);
        }
    }
    anyhow::bail!("200 connections reached only {:?}", found.iter().map(|(host, _)| host))
}

#[test]
fn a_hundred_megabytes_arrive_intact_in_both_directions() -> Result<()> {
    Cluster::run(3, web, |cluster| {
        for vip in VIPS {
            for (_, mut connection) in one_to_each(cluster, vip)? {
                connection.upload(100_000_000)?;
                connection.download(100_000_000)?;
                connection.echo("and still a connection")?;
            }
        }
        Ok(())
    })
}

#[test]
fn idle_connections_stay_with_their_backend() -> Result<()> {
    Cluster::run(3, web, |cluster| {
        for vip in VIPS {
            let mut report = cluster.client.connect(Burst::new((vip, 80), 2000).hold())?;
            report.expect_all(2000)?;
            // Others come and go in between.
            cluster.client.connect(Burst::new((vip, 80), 2000))?.expect_all(2000)?;
            for (who, connection) in &mut report.held {
                let now = connection.who()?;
                ensure!(now == *who, "{who:?} has become {now:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn datagrams_are_answered_from_the_address_they_were_sent_to() -> Result<()> {
    let balancers = |lab: &lab::Lab| {
        vec![Balancer::new("dns", Transport::Udp, 53, backends(lab.nodes(), BACKEND_PORT))]
    };
    Cluster::run(3, balancers, |cluster| {
        for vip in VIPS {
            // Sockets of the client are connected: an answer from elsewhere would not arrive.
            let report = cluster.client.send(Burst::new((vip, 53), 3000))?;
            println!("{report}");
            report.expect_all(3000)?;
            report.expect_even(&NODES, 0.15)?;
            report.expect_client(cluster.host("c1").address_like(vip))?;
            let first = lab::ask_by_datagram(cluster.host("c1"), (vip, 53).into(), 4711)?;
            for _ in 0..50 {
                let again = lab::ask_by_datagram(cluster.host("c1"), (vip, 53).into(), 4711)?;
                ensure!(again == first, "one flow went to {first:?} and to {again:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn the_backend_sees_the_clients_address_and_port() -> Result<()> {
    Cluster::run(3, web, |cluster| {
        for vip in VIPS {
            for (host, mut connection) in one_to_each(cluster, vip)? {
                let (local, who) = (connection.local()?, connection.who()?);
                ensure!(who.client == local, "{host} saw {} instead of {local}", who.client);
                ensure!(cluster.server(&host)?.tcp_clients().contains(&local));
            }
        }
        Ok(())
    })
}

#[test]
fn the_owner_carries_less_than_five_percent_of_replies_from_elsewhere() -> Result<()> {
    const BYTES: u64 = 30_000_000;
    Cluster::run(3, web, |cluster| {
        for vip in VIPS {
            let owner = owner(cluster.host("c1"), vip)?;
            ensure!(owner == cluster.host("n1").mac(), "n1 should own {vip}, {owner} does");
            let elsewhere = one_to_each(cluster, vip)?;
            let mut elsewhere = elsewhere.into_iter().filter(|(host, _)| host != "n1");
            let before = cluster.host("n1").counters("eth0")?;
            elsewhere.try_for_each(|(_, mut connection)| connection.download(BYTES))?;
            let carried = (cluster.host("n1").counters("eth0")? - before).tx_bytes;
            let share = carried as f64 / (2 * BYTES) as f64 * 100.0;
            println!("{vip}: the owner sent {carried} bytes, {share:.2}% of the replies");
            ensure!(share < 5.0, "the owner sent {share:.1}% of the replies of {vip}");
        }
        Ok(())
    })
}

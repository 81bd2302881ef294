//! Changes of the configuration file while traffic flows.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{
    BACKEND_PORT, Balancer, Burst, Cluster, Connection, Lab, Transport, VIPS, backends, eventually,
    web,
};

/// The balancer of [`web`], served by some of the nodes.
fn served_by(lab: &Lab, nodes: &[&str]) -> Vec<Balancer> {
    let hosts = nodes.iter().map(|name| lab.host(name));
    vec![Balancer::new("web", Transport::Tcp, 80, backends(hosts, BACKEND_PORT))]
}

#[test]
fn new_connections_follow_a_backend_that_is_added_and_one_that_is_removed() -> Result<()> {
    let two = |lab: &Lab| served_by(lab, &["n1", "n2"]);
    Cluster::run(3, two, |cluster| {
        let stages: [&[&str]; 4] = [&["n1", "n2"], &["n1", "n2", "n3"], &["n1", "n3"], &["n3"]];
        for nodes in stages {
            // The servers of those left out keep running: only the agents keep clients away.
            cluster.agents.rewrite(&cluster.lab, &served_by(&cluster.lab, nodes))?;
            for vip in VIPS {
                let report = cluster.client.connect(Burst::new((vip, 80), 3000))?;
                report.expect_all(3000).with_context(|| format!("{vip} served by {nodes:?}"))?;
                report.expect_even(nodes, 0.15)?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_frontend_that_is_added_works_and_one_that_is_removed_is_refused() -> Result<()> {
    Cluster::run(2, web, |cluster| {
        let mut balancers = web(&cluster.lab);
        let own = backends(cluster.lab.nodes(), BACKEND_PORT);
        balancers.push(Balancer::new("second", Transport::Tcp, 8443, own));
        cluster.agents.rewrite(&cluster.lab, &balancers)?;
        for (vip, port) in VIPS.into_iter().flat_map(|vip| [(vip, 80), (vip, 8443)]) {
            cluster.client.connect(Burst::new((vip, port), 500))?.expect_all(500)?;
        }
        cluster.agents.rewrite(&cluster.lab, &balancers[1..])?;
        for vip in VIPS {
            let gone = lab::Attempt::to(cluster.host("c1"), (vip, 80).into(), lab::PATIENCE)?;
            ensure!(gone == lab::Attempt::Refused, "{vip} at its removed port: {gone:?}");
            cluster.client.connect(Burst::new((vip, 8443), 500))?.expect_all(500)?;
        }
        Ok(())
    })
}

#[test]
fn a_broken_file_is_refused_whole_and_the_old_one_stays() -> Result<()> {
    Cluster::run(2, web, |cluster| {
        let whole = lab::Config::of(&cluster.lab, cluster.host("n1"), &web(&cluster.lab));
        let text = whole.to_string();
        let broken = [
            ("backnds", text.replace("backends:", "backnds:")),
            ("10.77.0.999", text.replace("10.77.0.100", "10.77.0.999")),
            ("port", text.replace("port: 80\n", "port: 0\n")),
            ("", "a: [".to_owned()),
        ];
        for (named, file) in broken {
            ensure!(file != text, "{named} changes nothing");
            let before = cluster.agents.on("n1").log().len();
            cluster.agents.on("n1").rewrite_with(&file)?;
            eventually(lab::PATIENCE, "a word about the broken file", || {
                let log = cluster.agents.on("n1").log();
                let new = log.get(before..).unwrap_or_default();
                ensure!(!new.is_empty() && new.contains(named), "{named:?} is not in {new:?}");
                Ok(())
            })?;
            cluster.agents.on("n1").wait_for(&web(&cluster.lab))?;
            for vip in VIPS {
                cluster.client.connect(Burst::new((vip, 80), 300))?.expect_all(300)?;
            }
        }
        // And it still listens: the next good file is taken up.
        let only = served_by(&cluster.lab, &["n2"]);
        cluster.agents.rewrite(&cluster.lab, &only)?;
        let report = cluster.client.connect(Burst::new((VIPS[0], 80), 300))?;
        report.expect_all(300)?;
        report.expect_even(&["n2"], 0.0)
    })
}

#[test]
fn a_connection_that_moves_no_slot_survives_changes_beside_it() -> Result<()> {
    Cluster::run(3, web, |cluster| {
        let mut held = Connection::open(cluster.host("c1"), (VIPS[0], 80).into())?;
        let who = held.who()?;
        let mut balancers = web(&cluster.lab);
        for port in [81, 82, 83] {
            let own = backends(cluster.lab.nodes(), BACKEND_PORT);
            balancers.push(Balancer::new(&format!("web{port}"), Transport::Tcp, port, own));
            cluster.agents.rewrite(&cluster.lab, &balancers)?;
            ensure!(held.who()? == who);
            std::thread::sleep(Duration::from_millis(50));
        }
        held.download(10_000_000)
    })
}

//! Hosts come and go while others own VIPs, and VIPs move when somebody says so.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::{
    Agent, Cluster, Config, Lab, Questions, STATE_DIR, Setup, VIPS, by_quorum, electing,
    eventually, expect_one_answer, web,
};
use serde_json::Value;

/// What is added where a machine may be busy.
const GENEROUS: Duration = Duration::from_secs(10);

/// Hosts that take part with a vote, as this agent knows.
fn voters(agent: &Agent) -> Result<Vec<String>> {
    let text = agent.cli(&["peers", "list", "-o", "json"])?;
    let quorum: Value = serde_json::from_str(&text)?;
    let hosts = quorum["hosts"].as_array().context("hosts")?;
    let voting = hosts.iter().filter(|host| host["role"] == "voter" || host["role"] == "leader");
    Ok(voting.filter_map(|host| host["id"].as_str().map(str::to_owned)).collect())
}

/// A command that must fail; what it said.
fn refused(agent: &Agent, arguments: &[&str]) -> Result<String> {
    match agent.cli(arguments) {
        Ok(said) => bail!("{arguments:?} worked: {said}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

/// Three hosts that know nothing of n4, which has neither agent nor server.
fn three_of_four() -> Result<Cluster> {
    let lab = Lab::bridge(4, 1)?;
    let balancers: Vec<_> = web(&lab)
        .into_iter()
        .map(|mut balancer| {
            let fourth = lab.host("n4").v4();
            let fourth6 = lab.host("n4").v6();
            balancer.backends.retain(|it| it.ip() != fourth && it.ip() != fourth6);
            balancer
        })
        .collect();
    let adapt = |config: &mut Config| {
        by_quorum(config);
        config.remotes.retain(|peer| peer.id != "n4");
    };
    let setup = Setup { adapt, hosts: Some(3), ..Setup::default() };
    Cluster::start_as(lab, &balancers, setup)
}

/// n4 with the file that names the three others.
fn fourth(cluster: &Cluster) -> Result<Agent> {
    let mut config = Config::of(&cluster.lab, cluster.host("n4"), &web(&cluster.lab));
    by_quorum(&mut config);
    Agent::start(cluster.host("n4"), &config)
}

/// The host that they were given to answers a few milliseconds after it was decided.
fn all_at(cluster: &Cluster, host: &str) -> Result<()> {
    VIPS.iter().try_for_each(|vip| {
        eventually(GENEROUS, "the new owner", || {
            let owner = cluster.lab.owner_of(*vip)?;
            ensure!(owner == host, "{owner} owns {vip}");
            Ok(())
        })
    })
}

#[test]
fn a_host_joins_by_command_and_by_file_and_goes_again() -> Result<()> {
    three_of_four()?.explain(|cluster| {
        let questions = Questions::start(cluster.host("c1"), VIPS[0])?;
        let mut fourth = fourth(cluster)?;
        fourth.wait_until("n4 is told how to join", |status| {
            let trouble = status["quorum"]["trouble"].as_str().unwrap_or_default();
            trouble.contains("kube-vip peers add n4")
        })?;
        let began = Instant::now();
        cluster.agents.on("n2").cli(&["peers", "add", "n4"])?;
        fourth.wait_until("n4 votes", |status| status["quorum"]["role"] == "voter")?;
        println!("n4 votes {:?} after `kube-vip peers add`", began.elapsed());
        let all = ["n1", "n2", "n3", "n4"].map(str::to_owned);
        eventually(GENEROUS, "four voters", || {
            let voters = voters(cluster.agents.on("n1"))?;
            ensure!(voters == all, "{voters:?}");
            Ok(())
        })?;
        // Frames to n4 need no file that names it.
        cluster.agents.on("n1").wait_until("n4 is a peer of n1's data plane", |status| {
            let peers = status["peers"].as_array().into_iter().flatten();
            peers.into_iter().any(|peer| {
                peer["id"] == "n4" && peer["way"] == "link" && peer["answered_ms"].is_u64()
            })
        })?;
        cluster.agents.on("n3").cli(&["peers", "remove", "n4"])?;
        eventually(GENEROUS, "three voters", || {
            let voters = voters(cluster.agents.on("n1"))?;
            ensure!(voters == all[..3], "{voters:?}");
            Ok(())
        })?;
        fourth.wait_until("n4 is told that it is outside", |status| {
            let trouble = status["quorum"]["trouble"].as_str().unwrap_or_default();
            trouble.contains("kube-vip peers add n4")
        })?;

        // By one file that names it, whoever leads.
        let began = Instant::now();
        for name in ["n1", "n2", "n3"] {
            let mut config = Config::of(&cluster.lab, cluster.host(name), &web(&cluster.lab));
            by_quorum(&mut config);
            cluster.agents.on(name).rewrite(&config)?;
        }
        fourth.wait_until("n4 votes again", |status| status["quorum"]["role"] == "voter")?;
        println!("n4 votes {:?} after the files named it", began.elapsed());
        let mut config = Config::of(&cluster.lab, cluster.host("n2"), &web(&cluster.lab));
        by_quorum(&mut config);
        config.remotes.retain(|peer| peer.id != "n4");
        cluster.agents.on("n2").rewrite(&config)?;
        eventually(GENEROUS, "three voters", || {
            let voters = voters(cluster.agents.on("n1"))?;
            ensure!(voters == all[..3], "{voters:?}");
            Ok(())
        })?;
        cluster.agents.on("n1").wait_until("n1 says that its file names a stranger", |status| {
            status["quorum"]["strangers"] == serde_json::json!(["n4"])
        })?;
        expect_one_answer(&questions.finish()?)
    })
}

#[test]
fn a_replaced_host_with_an_empty_disk_comes_back_and_votes() -> Result<()> {
    electing(3)?.explain(|cluster| {
        let questions = Questions::start(cluster.host("c1"), VIPS[0])?;
        // The one that began the cluster, and may begin one: it must join instead.
        let agent = cluster.agents.on("n1");
        agent.process().kill()?;
        agent.host().run(&["rm", "-r", STATE_DIR])?;
        agent.restart()?;
        agent.wait_until("n1 votes", |status| {
            matches!(status["quorum"]["role"].as_str(), Some("voter" | "leader"))
        })?;
        for name in ["n1", "n2", "n3"] {
            eventually(GENEROUS, "three voters", || {
                let voters = voters(cluster.agents.on(name))?;
                ensure!(voters == ["n1", "n2", "n3"], "{voters:?}");
                Ok(())
            })?;
        }
        expect_one_answer(&questions.finish()?)
    })
}

#[test]
fn vips_move_when_asked_and_a_drained_host_has_none() -> Result<()> {
    electing(3)?.explain(|cluster| {
        let vip = VIPS[0];
        let questions = Questions::start(cluster.host("c1"), VIPS[0])?;
        let mut moved = Vec::new();
        for round in 0..12 {
            let to = format!("n{}", 1 + round % 3);
            let asked = cluster.agents.on(["n1", "n2", "n3"][round / 3 % 3]);
            let text = asked.cli(&["move", &vip.to_string(), &to, "-o", "json"])?;
            let said: Value = serde_json::from_str(&text)?;
            ensure!(said["to"] == to.as_str(), "{said}");
            moved.push(said["milliseconds"].as_u64().context("milliseconds")?);
            eventually(GENEROUS, "the new owner", || {
                let owner = cluster.lab.owner_of(vip)?;
                ensure!(owner == to, "{owner} answers, {to} was told to");
                Ok(())
            })?;
        }
        println!("moved after {moved:?} ms");
        cluster.agents.on("n2").cli(&["drain", "n1"])?;
        cluster.agents.on("n2").cli(&["drain"])?;
        all_at(cluster, "n3")?;
        let agent = cluster.agents.on("n1");
        let list = agent.cli(&["peers", "list"])?;
        ensure!(list.matches("drained").count() == 2, "{list}");
        for (arguments, named) in [
            (vec!["move", "10.77.0.100", "n1"], "cannot hold a VIP now: it is drained"),
            (vec!["move", "10.77.0.100", "n9"], "no host is called \"n9\""),
            (vec!["move", "10.9.9.9", "n1"], "10.9.9.9 is none of the virtual addresses here"),
            (vec!["drain", "n9"], "no host is called \"n9\"; there are n1, n2, n3"),
            (vec!["peers", "remove", "n9"], "no host is called \"n9\"; there are n1, n2, n3"),
        ] {
            let said = refused(agent, &arguments)?;
            ensure!(said.contains(named), "{arguments:?}: {said}");
        }
        // It outlasts a restart.
        ensure!(agent.stop()?.success(), "n1 ended badly");
        agent.restart()?;
        agent.wait_ready()?;
        std::thread::sleep(Duration::from_secs(1));
        cluster.agents.on("n2").cli(&["drain", "--undo"])?;
        cluster.agents.on("n3").cli(&["drain"])?;
        all_at(cluster, "n2")?;
        expect_one_answer(&questions.finish()?)
    })
}

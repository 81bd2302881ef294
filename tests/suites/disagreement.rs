//! Hosts that elect and whose files do not agree: said in one line, and the others go on.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::{
    Agent, Cluster, Config, Lab, SECRET, STATE_DIR, VIPS, by_quorum, electing, eventually, owner,
    web,
};
use serde_json::Value;

const GENEROUS: Duration = Duration::from_secs(15);

fn config(lab: &Lab, name: &str) -> Config {
    let mut config = Config::of(lab, lab.host(name), &web(lab));
    by_quorum(&mut config);
    config
}

/// Waits until a host says what keeps it from taking part.
fn troubled(agent: &mut Agent, named: &[&str]) -> Result<()> {
    let said = |status: &Value| status["quorum"]["trouble"].as_str().unwrap_or_default().to_owned();
    let status = agent.wait_until(&format!("{named:?}"), |status| {
        let said = said(status);
        named.iter().all(|name| said.contains(name))
    })?;
    println!("{}", said(&status));
    ensure!(status["vips"].as_array().context("vips")?.iter().all(|vip| vip["owned"] == false));
    ensure!(agent.cli(&["status"])?.contains(&said(&status)), "it is not in the table");
    Ok(())
}

/// n3 ends and comes back with another file; the others own the VIPs all the time.
fn comes_back(
    cluster: &mut Cluster,
    change: impl FnOnce(String) -> String,
    named: &[&str],
) -> Result<()> {
    let text = config(&cluster.lab, "n3").to_string();
    let changed = change(text.clone());
    ensure!(text != changed, "nothing was changed");
    let agent = cluster.agents.on("n3");
    ensure!(agent.stop()?.success());
    agent.rewrite_with(&changed)?;
    agent.restart()?;
    troubled(agent, named)?;
    for vip in VIPS {
        let name = cluster.lab.owner_of(vip)?;
        ensure!(name != "n3", "n3 owns {vip}");
    }
    Ok(())
}

#[test]
fn a_host_with_another_secret_or_lease_is_told_so_and_the_others_go_on() -> Result<()> {
    electing(3)?.explain(|cluster| {
        let other = SECRET.replace('p', "q");
        comes_back(cluster, |text| text.replace(SECRET, &other), &["does not know the secret"])?;
        let lease = "quorum: {lease: 400ms, ";
        comes_back(cluster, |text| text.replace("quorum: {", lease), &["lease of 180ms", "400ms"])?;
        let open = format!("secret: {SECRET}");
        comes_back(cluster, |text| text.replace(&open, "insecurePeers: true"), &["secret"])
    })
}

#[test]
fn the_leaders_list_of_vips_counts_and_a_host_holds_none_that_it_does_not_know() -> Result<()> {
    electing(3)?.explain(|cluster| {
        let mut short = config(&cluster.lab, "n3");
        short.vips = vec![VIPS[0]];
        let extra = "192.0.2.7".parse()?;
        short.vips.push(extra);
        // Whoever leads now, n3 does not when it comes back.
        let agent = cluster.agents.on("n3");
        ensure!(agent.stop()?.success());
        agent.rewrite(&short)?;
        agent.restart()?;
        let status = agent.wait_until("the difference shown", |status| {
            let differing = status["quorum"]["differing"].as_array().cloned().unwrap_or_default();
            differing.len() == 2 && status["quorum"]["role"] == "voter"
        })?;
        println!("{}", status["quorum"]["differing"]);
        ensure!(agent.cli(&["status"])?.contains("the hosts' files differ: 192.0.2.7, fd77::100"));
        ensure!(agent.log().contains("the leader's list counts"), "not in the log");
        let ours = |status: &Value| {
            let vips = status["vips"].as_array().cloned().unwrap_or_default();
            vips.into_iter().find(|vip| vip["address"] == "192.0.2.7")
        };
        ensure!(ours(&status).context("its own")?["owned"] == false);
        let refusal = agent.cli(&["move", &VIPS[1].to_string(), "n3"]);
        ensure!(refusal.is_err(), "it was moved to a host that does not know it");
        // n1 leads, and goes on leading.
        for (drained, other) in [("n1", "n2"), ("n2", "n1")] {
            cluster.agents.on("n1").cli(&["drain", drained])?;
            eventually(GENEROUS, "an owner that knows it", || {
                let name = cluster.lab.owner_of(VIPS[1])?;
                ensure!(name == other, "{name} owns it");
                Ok(())
            })?;
            cluster.agents.on("n1").cli(&["drain", drained, "--undo"])?;
        }
        Ok(())
    })
}

#[test]
fn state_of_another_cluster_is_named_and_changes_nothing() -> Result<()> {
    let lab = Lab::bridge(3, 1)?;
    let votes = |agent: &mut Agent| {
        agent.wait_until("a vote", |status| {
            let role = status["quorum"]["role"].as_str();
            role == Some("voter") || role == Some("leader")
        })
    };
    // n3 and n2 have had a cluster, and n2 has lost its part of it.
    let mut old = config(&lab, "n3");
    old.start_as_leader = true;
    let mut third = Agent::start(lab.host("n3"), &old)?;
    let mut second = Agent::start(lab.host("n2"), &config(&lab, "n2"))?;
    votes(&mut third)?;
    votes(&mut second)?;
    ensure!(second.stop()?.success() && third.stop()?.success());
    lab.host("n2").run(&["rm", "-r", STATE_DIR])?;

    let mut first = Agent::start(lab.host("n1"), &config(&lab, "n1"))?;
    second.restart()?;
    votes(&mut first)?;
    votes(&mut second)?;
    for vip in VIPS {
        eventually(GENEROUS, "an owner", || owner(lab.host("c1"), vip))?;
    }
    third.rewrite(&config(&lab, "n3"))?;
    third.restart()?;
    troubled(&mut third, &["belongs to cluster", "empty the state directory"])?;
    for vip in VIPS {
        ensure!(lab.owner_of(vip)? != "n3");
    }
    Ok(())
}

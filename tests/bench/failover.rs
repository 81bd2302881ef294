//! How long nobody answers for a VIP: after its owner's host is lost, also when that host led, and when
//! it hands over. keepalived does the first on the same lab in the same run.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{
    Cluster, Host, Lab, Process, Questions, VIPS, electing, eventually, expect_one_answer, outage,
};
use serde_json::Value;

use crate::measure::Samples;
use crate::progress;
use crate::report::Row;

/// A change has settled by then: in the measured lab, and in keepalived's.
const PATIENCE: Duration = Duration::from_secs(20);

/// Targets in milliseconds.
const LOSS_MEDIAN: f64 = 350.0;
const LOSS_P99: f64 = 500.0;
const HANDOVER_P99: f64 = 50.0;

/// How often.
pub(crate) struct Plan {
    pub(crate) losses: usize,
    pub(crate) handovers: usize,
}

impl Plan {
    pub(crate) fn new(quick: bool) -> Self {
        if quick { Self { losses: 24, handovers: 8 } } else { Self { losses: 200, handovers: 50 } }
    }
}

pub(crate) fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let vip = VIPS[0];
    let mut cluster = electing(3)?;
    let (mut lost, mut lost_leader) = (Samples::default(), Samples::default());
    let (mut ended, mut moved) = (Samples::default(), Samples::default());
    for round in 0..plan.losses {
        if round.is_multiple_of(10) {
            progress(&format!("loss {round} of {}", plan.losses));
        }
        let leads = round.is_multiple_of(2);
        let owner = place(&mut cluster, vip, leads)?;
        let lab = &cluster.lab;
        let outage = during(lab.host("c1"), vip, || {
            lab.unplug(&owner)?;
            other_owner(lab, vip, &owner)
        })?;
        cluster.lab.plug_in(&owner)?;
        let samples = if leads { &mut lost_leader } else { &mut lost };
        samples.add(milliseconds(outage));
        whole(&mut cluster)?;
    }
    for round in 0..plan.handovers {
        if round.is_multiple_of(10) {
            progress(&format!("handover {round} of {}", plan.handovers));
        }
        let owner = place(&mut cluster, vip, round.is_multiple_of(2))?;
        let host = cluster.host("c1").clone();
        let outage = during(&host, vip, || {
            cluster.agents.on(&owner).stop()?;
            other_owner(&cluster.lab, vip, &owner)
        })?;
        ended.add(milliseconds(outage));
        cluster.agents.on(&owner).restart()?;
        whole(&mut cluster)?;

        let owner = place(&mut cluster, vip, round.is_multiple_of(2))?;
        let to = ["n1", "n2", "n3"].into_iter().find(|name| *name != owner).context("three")?;
        let outage = during(&host, vip, || {
            cluster.agents.on("n2").cli(&["move", &vip.to_string(), to])?;
            other_owner(&cluster.lab, vip, &owner)
        })?;
        moved.add(milliseconds(outage));
    }
    drop(cluster);
    let peer = keepalived(plan.losses.min(50)).context("keepalived");

    let mut rows = Vec::new();
    for (what, samples) in
        [("owner's host lost", &lost), ("owner's and leader's host lost", &lost_leader)]
    {
        rows.push(Row::of(format!("{what}, median"), "ms", samples).at_most(LOSS_MEDIAN));
        rows.push(quantile(what, samples, 0.9, None));
        rows.push(quantile(what, samples, 0.99, Some(LOSS_P99)));
    }
    for (what, samples) in [("owner ended (SIGTERM)", &ended), ("VIP moved", &moved)] {
        rows.push(Row::of(format!("{what}, median"), "ms", samples));
        rows.push(quantile(what, samples, 0.99, Some(HANDOVER_P99)));
    }
    match peer {
        Ok(peer) => {
            rows.push(Row::of("keepalived, adverts of 100 ms, median", "ms", &peer));
            rows.push(quantile("keepalived, adverts of 100 ms", &peer, 0.99, None));
        }
        Err(error) => progress(&format!("not measured: {error:#}")),
    }
    Ok(rows)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn quantile(what: &str, samples: &Samples, part: f64, target: Option<f64>) -> Row {
    let what = format!("{what}, p{}", (part * 100.0).round());
    let row = Row::single(what, "ms", samples.quantile(part));
    match target {
        Some(target) => row.at_most(target),
        None => row,
    }
}

/// How long nobody answered while that happened. One question is asked every ten milliseconds, so
/// that long it is without a change, too.
fn during(host: &Host, vip: IpAddr, happen: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let questions = Questions::start(host, vip)?;
    std::thread::sleep(Duration::from_millis(200));
    let from = Instant::now();
    happen()?;
    let to = Instant::now();
    std::thread::sleep(Duration::from_millis(200));
    let questions = questions.finish()?;
    expect_one_answer(&questions)?;
    outage(&questions, from, to)
}

fn other_owner(lab: &Lab, vip: IpAddr, than: &str) -> Result<()> {
    eventually(PATIENCE, "another owner", || {
        let owner = lab.owner_of(vip)?;
        ensure!(owner != than, "{owner} still owns {vip}");
        Ok(())
    })
}

/// Has the VIP owned by the host that leads, or by one that does not; the owner's name.
fn place(cluster: &mut Cluster, vip: IpAddr, leads: bool) -> Result<String> {
    let status = cluster.agents.on("n1").status()?;
    let leader = status["quorum"]["leader"].as_str().context("nobody leads")?.to_owned();
    let names = ["n1", "n2", "n3"];
    let to = names.into_iter().find(|name| (*name == leader) == leads).context("three hosts")?;
    // A host that is back may hold VIPs once its agent has seen its link.
    eventually(PATIENCE, "a move", || {
        cluster.agents.on("n1").cli(&["move", &vip.to_string(), to]).map(drop)
    })?;
    eventually(PATIENCE, "the VIP to move", || {
        let owner = cluster.lab.owner_of(vip)?;
        ensure!(owner == to, "{owner} owns {vip}");
        Ok(())
    })?;
    Ok(to.to_owned())
}

/// Waits until all hosts vote and hear each other.
fn whole(cluster: &mut Cluster) -> Result<()> {
    for agent in cluster.agents.all() {
        agent.wait_until("all hosts are there", |status| {
            let hosts = status["quorum"]["hosts"].as_array().cloned().unwrap_or_default();
            let votes = |host: &Value| matches!(host["role"].as_str(), Some("voter" | "leader"));
            let peers = status["peers"].as_array().cloned().unwrap_or_default();
            status["ready"] == true
                && status["quorum"]["trouble"].is_null()
                && status["quorum"]["leader"].is_string()
                && hosts.iter().filter(|host| votes(host)).count() == 3
                && peers.iter().all(|peer| peer["reason"].is_null())
        })?;
    }
    Ok(())
}

/// The same with keepalived on three hosts.
fn keepalived(losses: usize) -> Result<Samples> {
    let vip = VIPS[0];
    let lab = Lab::bridge(3, 1)?;
    let daemons: Vec<Process> = lab
        .nodes()
        .enumerate()
        .map(|(at, node)| {
            let file = node.directory().join("keepalived.conf");
            std::fs::write(
                &file,
                format!(
                    "global_defs {{\n  vrrp_version 3\n  vrrp_garp_master_delay 0\n}}\n\
                     vrrp_instance v {{\n  state BACKUP\n  nopreempt\n  interface eth0\n  \
                     virtual_router_id 51\n  priority {}\n  advert_int 0.1\n  \
                     virtual_ipaddress {{\n    {vip}/32\n  }}\n}}\n",
                    100 - 10 * at
                ),
            )?;
            let mut command = node.command("keepalived");
            let pid = node.directory().join("keepalived.pid");
            let vrrp = node.directory().join("vrrp.pid");
            command.args(["--dont-fork", "--log-console", "--vrrp", "--use-file"]).arg(&file);
            command.arg("--pid").arg(pid).arg("--vrrp_pid").arg(vrrp);
            node.spawn("keepalived", command)
        })
        .collect::<Result<_>>()?;
    let said = || daemons.iter().map(Process::log).collect::<String>();
    eventually(PATIENCE, "an owner", || lab.owner_of(vip)).with_context(said)?;
    let mut samples = Samples::default();
    for round in 0..losses {
        if round.is_multiple_of(10) {
            progress(&format!("keepalived, loss {round} of {losses}"));
        }
        let owner = lab.owner_of(vip)?;
        let outage = during(lab.host("c1"), vip, || {
            lab.unplug(&owner)?;
            other_owner(&lab, vip, &owner)
        })?;
        samples.add(milliseconds(outage));
        lab.plug_in(&owner)?;
        // Until it has heard the new owner.
        std::thread::sleep(Duration::from_secs(2));
    }
    Ok(samples)
}

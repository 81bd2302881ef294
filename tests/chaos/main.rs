//! Random faults on real agents, while one host asks who owns the VIPs and another one transfers.
//!
//! `cargo xtask chaos --minutes N --seed S`. The seed determines which faults come in which order; what
//! they meet differs from run to run.

mod clients;
mod faults;
mod report;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{
    Cluster, Dice, Intervals, Lab, Questions, STATE_DIR, Setup, VIPS, by_quorum, eventually,
    expect_one_answer, expect_one_owner, outage, web, who_has,
};

use self::clients::Clients;
use self::faults::Faults;
use self::report::Report;

/// Three minutes unless said.
const MINUTES: &str = "KUBE_VIP_CHAOS_MINUTES";
const SEED: &str = "KUBE_VIP_CHAOS_SEED";
/// Set where the clock of the whole machine may be stepped.
const STEP_CLOCK: &str = "KUBE_VIP_CHAOS_STEP_CLOCK";

/// After the end of a fault every VIP has an owner within this time, on a machine however busy.
const SETTLED: Duration = Duration::from_secs(15);

fn number(variable: &str, usual: f64) -> Result<f64> {
    match std::env::var(variable) {
        Ok(text) if !text.is_empty() => {
            text.parse().with_context(|| format!("{variable} is {text:?}, not a number"))
        }
        _ => Ok(usual),
    }
}

/// Three hosts that elect, each with a small disk for what it must not forget.
fn cluster() -> Result<Cluster> {
    let lab = Lab::bridge(3, 2)?;
    for node in lab.nodes() {
        node.shell(&format!("mkdir {STATE_DIR} && mount -t tmpfs -o size=4m state {STATE_DIR}"))?;
    }
    let balancers = web(&lab);
    let setup = Setup { adapt: by_quorum, ..Setup::default() };
    let cluster = Cluster::start_as(lab, &balancers, setup)?;
    settle(&cluster)?;
    Ok(cluster)
}

/// Waits until every VIP has an owner; two of them are an error even if it passes.
fn settle(cluster: &Cluster) -> Result<()> {
    let mut two = None;
    let owned = VIPS.iter().try_for_each(|vip| {
        eventually(SETTLED, "every VIP to have an owner", || {
            let answered = who_has(cluster.host("c1"), *vip)?;
            if answered.len() > 1 {
                two = Some(answered.clone());
            }
            ensure!(
                answered.len() == 1,
                "one host should answer for {vip}, these did: {answered:?}"
            );
            Ok(())
        })
    });
    ensure!(two.is_none(), "two hosts answered one question: {two:?}");
    owned
}

#[test]
fn never_two_owners_and_no_lost_connection_under_random_faults() -> Result<()> {
    let minutes = number(MINUTES, 3.0)?;
    let seed = number(SEED, 1.0)? as u64;
    let steps_clock = std::env::var_os(STEP_CLOCK).is_some_and(|it| !it.is_empty());
    println!("chaos for {minutes} minutes, seed {seed}");
    cluster()?.explain(|cluster| {
        let intervals = Intervals::start(&cluster.lab)?;
        let questions: Vec<_> = VIPS
            .iter()
            .map(|vip| Questions::start(cluster.host("c1"), *vip))
            .collect::<Result<_>>()?;
        let clients = Clients::start(cluster.host("c2"))?;
        let end = Instant::now() + Duration::from_secs_f64(minutes * 60.0);
        let mut faults = Faults::new(Dice::new(seed), steps_clock);
        while Instant::now() < end {
            faults.next(cluster)?;
            settle(cluster)?;
            faults.calm();
        }
        // The last announcements, and the clients' last retransmissions.
        std::thread::sleep(Duration::from_secs(3));
        let transfers = clients.finish()?;
        let questions: Vec<_> =
            questions.into_iter().map(Questions::finish).collect::<Result<_>>()?;
        let intervals = intervals.finish()?;

        let mut report = Report::new(&intervals, &questions, &transfers);
        for fault in faults.done() {
            for asked in &questions {
                report.outage(fault.name, outage(asked, fault.from, fault.settled)?);
            }
        }
        println!("{report}");
        questions.iter().try_for_each(|asked| expect_one_answer(asked))?;
        expect_one_owner(&intervals)?;
        ensure!(intervals.len() > faults.done().len() / 2, "few changes: {intervals:?}");
        transfers.expect_unharmed(faults.done())
    })
}

//! Agents that elect are restarted, one after the other: nothing that works is lost.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::{
    Burst, Cluster, Connection, Intervals, Lab, Questions, Setup, VIPS, by_quorum, eventually,
    expect_one_answer, expect_one_owner, web,
};

const RESTARTS: usize = 20;
/// Connections that are open all the time, at each VIP.
const HELD: usize = 4000;
const PATIENCE: Duration = Duration::from_secs(20);

fn cluster() -> Result<Cluster> {
    let lab = Lab::bridge(3, 2)?;
    let balancers = web(&lab);
    let adapt = |config: &mut lab::Config| {
        by_quorum(config);
        config.extra.push_str("keepOnExit: true\n");
    };
    let cluster = Cluster::start_as(lab, &balancers, Setup { adapt, ..Setup::default() })?;
    for vip in VIPS {
        eventually(PATIENCE, "an owner", || cluster.lab.owner_of(vip))?;
    }
    Ok(cluster)
}

#[test]
fn restarts_break_no_connection_and_vips_are_handed_over() -> Result<()> {
    cluster()?.explain(|cluster| {
        let mut held = Vec::new();
        for vip in VIPS {
            let report = cluster.client.connect(Burst::new((vip, 80), HELD).hold())?;
            report.expect_all(HELD)?;
            held.extend(report.held);
        }
        let mut transfer = Connection::open(cluster.host("c1"), (VIPS[0], 80).into())?;
        let intervals = Intervals::start(&cluster.lab)?;
        let questions = Questions::start(cluster.host("c2"), VIPS[0])?;
        let began = Instant::now();
        for round in 0..RESTARTS {
            let agent = cluster.agents.on(["n1", "n2", "n3"][round % 3]);
            if round.is_multiple_of(4) {
                agent.process().kill()?;
            } else {
                ensure!(agent.stop()?.success(), "an agent ended badly");
            }
            transfer.download(5_000_000)?;
            agent.restart()?;
            agent.wait_ready()?;
            agent.wait_until("a vote", |status| {
                matches!(status["quorum"]["role"].as_str(), Some("voter" | "leader"))
            })?;
            transfer.upload(5_000_000)?;
        }
        println!("{RESTARTS} restarts in {:?}", began.elapsed());
        let questions = questions.finish()?;
        expect_one_answer(&questions)?;
        let unanswered = questions.iter().filter(|asked| asked.answered.is_empty()).count();
        println!("{unanswered} of {} questions unanswered", questions.len());
        expect_one_owner(&intervals.finish()?)?;
        let mut lost = Vec::new();
        for (who, connection) in &mut held {
            match connection.who() {
                Ok(now) if now == *who => {}
                result => lost.push(format!("{who:?}: {result:?}")),
            }
        }
        println!("{} of {} connections lost", lost.len(), held.len());
        ensure!(lost.is_empty(), "{} lost: {:?}", lost.len(), lost.first());
        Ok(())
    })
}

//! The owner is lost, and then its successor's agent hangs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{
    Agent, Connection, Lab, Question, Questions, VIPS, eventually, expect_one_answer, outage,
};

use crate::paint::Paint;
use crate::story::PLAIN;

/// What is shown of the time before and after, and how much a column of it is.
const BEFORE: Duration = Duration::from_millis(200);
const AFTER: Duration = Duration::from_millis(800);
const COLUMN: Duration = Duration::from_millis(20);

/// Bytes of a transfer, over and over.
const TRANSFER: u64 = 500_000;
const PATIENCE: Duration = Duration::from_secs(10);

/// The owner's cable is pulled, while a transfer through another host goes on.
pub(crate) fn lose_owner(paint: &Paint, lab: &Lab) -> Result<()> {
    let vip = VIPS[0];
    let owner = lab.owner_of(vip)?;
    paint.title(&format!("The cable of {owner} is pulled, which owns {vip}"));
    let (connection, through) = connected_elsewhere(lab, vip, &owner)?;
    let transfer = Transfer::start(connection);
    let next = shown(paint, lab, vip, &owner, || lab.unplug(&owner))?;
    // The new owner has told the client where the address is.
    thread::sleep(Duration::from_millis(300));
    let (megabytes, pause) = transfer.finish()?;
    paint.line(&format!(
        "a transfer from {through} {}, {megabytes} MB in all, content correct; it paused for {} ms",
        paint.good("went on"),
        pause.as_millis(),
    ));
    paint.line(&format!("{owner} is plugged in again; {next} keeps the address"));
    lab.plug_in(&owner)
}

/// The owner's agent stands still, and goes on later.
pub(crate) fn freeze_owner(paint: &Paint, lab: &Lab, agents: &mut [Agent]) -> Result<()> {
    let vip = VIPS[0];
    // Three hosts that vote: with one of them out there would be no majority without the frozen one.
    for agent in agents.iter_mut() {
        agent.wait_until("all hosts vote", |status| {
            let hosts = status["quorum"]["hosts"].as_array().cloned().unwrap_or_default();
            let voting =
                hosts.iter().filter(|it| it["role"] == "voter" || it["role"] == "leader").count();
            status["quorum"]["trouble"].is_null() && voting == 3
        })?;
    }
    let owner = lab.owner_of(vip)?;
    let agent = agents.iter_mut().find(|agent| agent.host().name() == owner);
    let agent = agent.with_context(|| format!("no agent on {owner}"))?;
    paint.title(&format!("The agent of {owner} stands still (SIGSTOP), its host goes on"));
    let next = shown(paint, lab, vip, &owner, || agent.process().freeze())?;
    paint.line("nobody told it: the kernel programs look at the deadline at each answer");
    agent.process().thaw()?;
    agent.wait_until("the thawed agent owns nothing of it", |status| {
        let vips = status["vips"].as_array().into_iter().flatten();
        vips.into_iter().all(|it| it["address"] != vip.to_string() || it["owned"] == false)
    })?;
    let now = lab.owner_of(vip)?;
    ensure!(now == next, "{now} owns {vip} after {owner} was thawed");
    paint.line(&format!("{owner} goes on (SIGCONT): {}", paint.good("still exactly one answer")));
    Ok(())
}

/// Has something happen to the owner and draws who answered; the new owner.
fn shown(
    paint: &Paint,
    lab: &Lab,
    vip: IpAddr,
    owner: &str,
    happen: impl FnOnce() -> Result<()>,
) -> Result<String> {
    let questions = Questions::start(lab.host("c1"), vip)?;
    thread::sleep(BEFORE + Duration::from_millis(50));
    let from = Instant::now();
    happen()?;
    let next = eventually(PATIENCE, "another owner", || {
        let next = lab.owner_of(vip)?;
        ensure!(next != owner, "{next} still answers");
        Ok(next)
    })?;
    let to = Instant::now();
    thread::sleep(AFTER.saturating_sub(from.elapsed()).max(Duration::from_millis(100)));
    let questions = questions.finish()?;
    expect_one_answer(&questions)?;
    let outage = outage(&questions, from, to)?;
    for (name, line) in timeline(lab, &questions, from)? {
        paint.line(&format!("{name:>4} {}", paint.host(&name, &line)));
    }
    let (before, after) = (BEFORE.as_millis(), AFTER.as_millis());
    paint.line(&paint.dim(&format!(
        "     who answered, from {before} ms before to {after} ms after, never two at once"
    )));
    paint.line(&format!(
        "nobody answered for {}, then {}",
        paint.good(&format!("{} ms", outage.as_millis())),
        paint.bold(&next)
    ));
    Ok(next)
}

/// A line for each host that answered: full where it did. On a busy machine there are columns in which
/// nobody asked; they are as the one before.
fn timeline(lab: &Lab, questions: &[Question], at: Instant) -> Result<BTreeMap<String, String>> {
    let columns = ((BEFORE + AFTER).as_millis() / COLUMN.as_millis()) as usize;
    let mut asked: Vec<Option<BTreeSet<&str>>> = vec![None; columns];
    for question in questions {
        let since = (question.at + BEFORE).checked_duration_since(at);
        let column = since.map(|since| (since.as_millis() / COLUMN.as_millis()) as usize);
        let Some(column) = column.and_then(|column| asked.get_mut(column)) else { continue };
        let answered = column.get_or_insert_default();
        for mac in &question.answered {
            answered.insert(lab.node_at(*mac)?);
        }
    }
    let names: BTreeSet<&str> = asked.iter().flatten().flatten().copied().collect();
    let line = |name: &str| {
        let mut full = false;
        let column = |column: &Option<BTreeSet<&str>>| {
            full = column.as_ref().map_or(full, |answered| answered.contains(name));
            if full { '█' } else { ' ' }
        };
        asked.iter().map(column).collect()
    };
    Ok(names.into_iter().map(|name| (name.to_owned(), line(name))).collect())
}

/// Connects until the backend is on neither that host nor the one without agent.
fn connected_elsewhere(lab: &Lab, vip: IpAddr, than: &str) -> Result<(Connection, String)> {
    for _ in 0..200 {
        let mut connection = Connection::open(lab.host("c1"), (vip, 80).into())?;
        let who = connection.who()?.host;
        if who != than && who != PLAIN {
            return Ok((connection, who));
        }
    }
    anyhow::bail!("200 connections to {vip} all ended at {than} or {PLAIN}")
}

/// A connection that transfers all the time.
struct Transfer {
    stop: std::sync::Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<(u64, Duration)>>,
}

impl Transfer {
    fn start(mut connection: Connection) -> Self {
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let stopped = std::sync::Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (mut bytes, mut pause) = (0, Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                connection.download(TRANSFER)?;
                pause = pause.max(began.elapsed());
                bytes += TRANSFER;
                thread::sleep(Duration::from_millis(10));
            }
            Ok((bytes / 1_000_000, pause))
        });
        Self { stop, thread }
    }

    /// Megabytes that came, and the longest time that one took.
    fn finish(self) -> Result<(u64, Duration)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

//! What became of a burst.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tokio::time::error::Elapsed;

use crate::connection::{Connection, Who};

/// What became of a burst of connections or datagrams.
#[derive(Debug, Default)]
pub struct Report {
    /// How many were answered by each host.
    pub by_host: BTreeMap<String, usize>,
    /// How many times servers saw each client address.
    pub by_client: BTreeMap<IpAddr, usize>,
    /// What failed, and why.
    pub failures: Vec<Failure>,
    /// Open connections, when they were to be held.
    pub held: Vec<(Who, Connection)>,
    /// How long all of it took.
    pub elapsed: Duration,
    connects: Vec<Duration>,
    wholes: Vec<Duration>,
}

impl Report {
    pub(crate) fn answered(&mut self, who: &Who, connect: Duration, whole: Duration) {
        *self.by_host.entry(who.host.clone()).or_default() += 1;
        *self.by_client.entry(who.client.ip()).or_default() += 1;
        self.connects.push(connect);
        self.wholes.push(whole);
    }

    pub(crate) fn finish(&mut self, elapsed: Duration) {
        self.elapsed = elapsed;
        self.connects.sort_unstable();
        self.wholes.sort_unstable();
    }

    /// How many were answered.
    pub fn answers(&self) -> usize {
        self.wholes.len()
    }

    /// The time to connect that this share of them (0.5, 0.99, 1.0) stayed within.
    pub fn connect_time(&self, share: f64) -> Duration {
        percentile(&self.connects, share)
    }

    /// The time from the first packet to the answer that this share of them stayed within.
    pub fn answer_time(&self, share: f64) -> Duration {
        percentile(&self.wholes, share)
    }

    /// An error naming the first reasons unless all `count` were answered.
    pub fn expect_all(&self, count: usize) -> Result<()> {
        if self.failures.is_empty() && self.answers() == count {
            return Ok(());
        }
        let mut reasons = BTreeMap::<_, usize>::new();
        for failure in &self.failures {
            *reasons.entry((failure.stage, failure.reason.as_str())).or_default() += 1;
        }
        let untried = count - self.answers() - self.failures.len();
        bail!(
            "{} of {count} failed: {reasons:?}, {untried} not tried; {self}",
            self.failures.len()
        );
    }

    /// An error unless exactly these hosts answered, each within `tolerance` of its equal share.
    pub fn expect_even(&self, hosts: &[&str], tolerance: f64) -> Result<()> {
        let names = self.by_host.keys().map(String::as_str).collect::<Vec<_>>();
        ensure!(names == hosts, "{hosts:?} should have answered, {names:?} did; {self}");
        let share = self.answers() as f64 / hosts.len() as f64;
        for (host, &count) in &self.by_host {
            let off = (count as f64 / share - 1.0).abs();
            ensure!(off <= tolerance, "{host} is {:.1}% off its share; {self}", off * 100.0);
        }
        Ok(())
    }

    /// An error unless servers saw `client` and nobody else.
    pub fn expect_client(&self, client: impl Into<IpAddr>) -> Result<()> {
        let client = client.into();
        let only = self.by_client.len() == 1 && self.by_client.contains_key(&client);
        ensure!(only, "servers should have seen {client} only, they saw {:?}", self.by_client);
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} answers in {:.2?} by {:?}, connect p50 {:.2?} p99 {:.2?} max {:.2?}, {} failures",
            self.answers(),
            self.elapsed,
            self.by_host,
            self.connect_time(0.5),
            self.connect_time(0.99),
            self.connect_time(1.0),
            self.failures.len(),
        )
    }
}

fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
}

/// One connection or datagram that failed.
#[derive(Clone, Debug, Default)]
pub struct Failure {
    /// `connect`, `request` or `answer`.
    pub stage: &'static str,
    /// What the kernel said, or that nothing came in time.
    pub reason: String,
    /// Its own address, if it had one.
    pub source: Option<SocketAddr>,
    /// When it began, counted from the beginning of the burst.
    pub at: Duration,
}

impl Failure {
    pub(crate) fn settle<T>(
        mut self,
        result: Result<Result<T>, Elapsed>,
        patience: Duration,
    ) -> Result<T, Self> {
        self.reason = match result {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("nothing within {patience:?}"),
        };
        Err(self)
    }
}

/// Answers counted while a burst runs, for somebody who watches.
#[derive(Debug, Default)]
pub struct Progress(Mutex<BTreeMap<String, usize>>);

impl Progress {
    pub(crate) fn count(&self, host: Option<&str>) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(host.unwrap_or("failed").to_owned()).or_default() += 1;
    }

    /// Answers by host so far; those that failed are under `failed`.
    pub fn so_far(&self) -> BTreeMap<String, usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

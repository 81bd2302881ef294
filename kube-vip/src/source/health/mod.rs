//! Whether backends serve: each is asked again and again, from this host.
//!
//! One task per check; checks that two load balancers share are made once. A backend is up until
//! it has failed often enough, so the start of an agent drops nothing that worked. What says more
//! about this host than about the backend (no file descriptor left, a CA file that cannot be read,
//! an agent that got no processor time) counts neither way.

mod http;
mod probe;
mod tally;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::{info, warn};

pub(crate) use self::http::status as http_status;
use self::probe::{Outcome, Prober};
use self::tally::{Change, Tally};
pub(crate) use self::tls::{Settings as TlsSettings, check_ca_file};
use crate::view::{Check, Health};

/// Probes under way at once: each is a socket, and an agent has about a thousand file descriptors.
/// When thousands of backends hang at once, rounds take longer.
const AT_ONCE: usize = 512;

/// What is known of each check.
pub type Healths = BTreeMap<Check, Health>;

/// Makes the wanted checks until every receiver is gone. A receiver wakes when a backend goes up
/// or down.
pub fn follow(mut wanted: watch::Receiver<BTreeSet<Check>>) -> watch::Receiver<Healths> {
    let (healths, receiver) = watch::channel(Healths::new());
    let mut watchers = Watchers {
        healths: Arc::new(healths),
        slots: Arc::new(Semaphore::new(AT_ONCE)),
        tasks: BTreeMap::new(),
    };
    tokio::spawn(async move {
        let healths = Arc::clone(&watchers.healths);
        loop {
            let now = wanted.borrow_and_update().clone();
            watchers.want(&now);
            tokio::select! {
                () = healths.closed() => return,
                changed = wanted.changed() => if changed.is_err() { return },
            }
        }
    });
    receiver
}

struct Watchers {
    healths: Arc<watch::Sender<Healths>>,
    slots: Arc<Semaphore>,
    tasks: BTreeMap<Check, AbortHandle>,
}

impl Watchers {
    /// These are made, and no others.
    fn want(&mut self, wanted: &BTreeSet<Check>) {
        let mut before = BTreeMap::new();
        self.tasks.retain(|check, task| {
            let stays = wanted.contains(check);
            if !stays {
                task.abort();
                let health = self.healths.borrow().get(check).cloned();
                before.extend(health.map(|health| (question(check), health)));
            }
            stays
        });
        let now = Instant::now();
        let mut new = Healths::new();
        for check in wanted.iter().filter(|check| !self.tasks.contains_key(check)) {
            // Other times for the same question: what is known stays known.
            let known = before.get(&question(check)).cloned();
            new.insert(check.clone(), known.unwrap_or_else(|| Health::unknown(now)));
        }
        let started: Vec<_> =
            new.iter().map(|(check, health)| (check.clone(), health.up)).collect();
        self.healths.send_if_modified(|healths| {
            healths.retain(|check, _| wanted.contains(check));
            healths.extend(new);
            false
        });
        for (check, up) in started {
            let watch =
                watch_over(check.clone(), up, Arc::clone(&self.healths), Arc::clone(&self.slots));
            self.tasks.insert(check, tokio::spawn(watch).abort_handle());
        }
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        self.tasks.values().for_each(AbortHandle::abort);
    }
}

/// What is asked of whom, however often.
fn question(check: &Check) -> (std::net::SocketAddr, crate::config::Probe) {
    (check.address(), check.how.probe.clone())
}

/// Asks one backend until the task is aborted.
async fn watch_over(
    check: Check,
    up: bool,
    healths: Arc<watch::Sender<Healths>>,
    slots: Arc<Semaphore>,
) {
    let mut prober = Prober::new(&check);
    let mut tally = Tally::new(up, check.how.fall, check.how.rise);
    let mut ticks = interval_at(Instant::now() + phase(check.how.period), check.how.period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut trouble = None;
    loop {
        ticks.tick().await;
        let Ok(_permit) = slots.acquire().await else { return };
        let error = match prober.probe().await {
            Outcome::Passed => None,
            Outcome::Failed(error) => Some(error),
            Outcome::Unknown(error) => {
                if trouble.as_ref() != Some(&error) {
                    warn!("{check} could not be made, its last result stays: {error}");
                    trouble = Some(error);
                }
                continue;
            }
        };
        trouble = None;
        let change = tally.take(error.is_none());
        match (change, &error) {
            (Some(Change::Down), Some(error)) => {
                warn!("{check} has failed {} times, the backend is down: {error}", check.how.fall);
            }
            (Some(Change::Up), _) => {
                info!("{check} has passed {} times, the backend is up again", check.how.rise);
            }
            _ => {}
        }
        healths.send_if_modified(|healths| {
            if let Some(health) = healths.get_mut(&check) {
                health.error = error;
                if change.is_some() {
                    health.up = change == Some(Change::Up);
                    health.since = Instant::now();
                }
            }
            change.is_some()
        });
    }
}

/// A random part of the period, so that thousands of probes do not go out together.
fn phase(period: Duration) -> Duration {
    let random = RandomState::new().hash_one(0) >> 40;
    period.mul_f64(random as f64 / f64::from(1 << 24))
}

#[cfg(test)]
mod tests;

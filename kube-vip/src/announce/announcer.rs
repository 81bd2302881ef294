//! What is being announced, and the task that does it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::frames;
use super::pace::Pace;
use super::socket::PacketSocket;
use crate::plan::Announcement;

/// Rounds sent before the lock is given up for a moment: bounds how long `apply` waits.
const BATCH: usize = 64;

/// A longer interval than this is cut to it, so that no sum of times can overflow.
const LONGEST: Duration = Duration::from_secs(86_400);

/// Takes frames out.
pub trait Wire: Send {
    /// Sends one frame, without waiting for anything.
    fn send(&mut self, interface: u32, frame: &[u8]) -> io::Result<()>;
}

/// Announces VIPs in the background until they are taken away or it is dropped.
pub struct Announcer {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

/// Frames are sent with this locked: whatever `apply` takes away is silent when it returns.
struct State {
    wire: Box<dyn Wire>,
    interval: Duration,
    running: BTreeMap<Announcement, Running>,
    /// The same announcements, by when they are due.
    queue: BTreeSet<(Instant, Announcement)>,
    sent: BTreeMap<IpAddr, u64>,
    /// Interfaces that take no frames now: said once, not at every try.
    refusing: BTreeSet<u32>,
}

struct Running {
    pace: Pace,
    due: Instant,
    frames: Vec<Vec<u8>>,
}

impl Announcer {
    /// Starts with nothing to announce. Needs `CAP_NET_RAW` and a tokio runtime.
    pub fn new() -> io::Result<Self> {
        Ok(Self::on(PacketSocket::open()?))
    }

    /// The same, over another way out.
    pub fn on(wire: impl Wire + 'static) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                wire: Box::new(wire),
                interval: Duration::from_secs(3),
                running: BTreeMap::new(),
                queue: BTreeSet::new(),
                sent: BTreeMap::new(),
                refusing: BTreeSet::new(),
            }),
            changed: Notify::new(),
        });
        let task = tokio::spawn(run(Arc::clone(&shared)));
        Self { shared, task }
    }

    /// Announces exactly these from now on. What is new goes out at once and in a burst, what
    /// stays keeps its rhythm; when this returns, nothing more is sent for what was taken away.
    pub fn apply(&mut self, desired: &BTreeSet<Announcement>, interval: Duration) {
        self.shared.lock().apply(desired, interval, Instant::now());
        self.shared.changed.notify_one();
    }

    /// Announces a VIP once more, now, where it is announced at all.
    pub fn defend(&self, address: IpAddr) {
        self.shared.lock().hasten(address, Instant::now());
        self.shared.changed.notify_one();
    }

    /// Frames sent for each VIP since the start.
    pub fn sent(&self) -> BTreeMap<IpAddr, u64> {
        self.shared.lock().sent.clone()
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.shared.lock().apply(&BTreeSet::new(), Duration::MAX, Instant::now());
        self.task.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock leaves the state whole: a panic elsewhere is no reason to stop.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(shared: Arc<Shared>) {
    loop {
        let next = shared.lock().send_due(Instant::now());
        match next {
            Some(at) if at <= Instant::now() => tokio::task::yield_now().await,
            Some(at) => tokio::select! {
                () = sleep_until(at) => {}
                () = shared.changed.notified() => {}
            },
            None => shared.changed.notified().await,
        }
    }
}

impl State {
    fn apply(&mut self, desired: &BTreeSet<Announcement>, interval: Duration, now: Instant) {
        let Self { running, queue, refusing, .. } = self;
        running.retain(|announcement, entry| {
            let stays = desired.contains(announcement);
            if !stays {
                queue.remove(&(entry.due, announcement.clone()));
            }
            stays
        });
        refusing.retain(|interface| desired.iter().any(|one| one.interface == *interface));

        for announcement in desired {
            running.entry(announcement.clone()).or_insert_with(|| {
                queue.insert((now, announcement.clone()));
                Running { pace: Pace::new(now), due: now, frames: frames::of(announcement) }
            });
        }

        let interval = interval.min(LONGEST);
        if interval != self.interval {
            self.interval = interval;
            self.shorten(now);
        }
    }

    /// Announcements that wait for a longer interval than the new one need not.
    fn shorten(&mut self, now: Instant) {
        let latest = now + self.interval;
        for (announcement, entry) in &mut self.running {
            if entry.pace.settled() && entry.due > latest {
                self.queue.remove(&(entry.due, announcement.clone()));
                self.queue.insert((latest, announcement.clone()));
                entry.due = latest;
            }
        }
    }

    /// What is due later is due now; the rhythm stays.
    fn hasten(&mut self, address: IpAddr, now: Instant) {
        for (announcement, entry) in &mut self.running {
            if announcement.address == address && entry.due > now {
                self.queue.remove(&(entry.due, announcement.clone()));
                self.queue.insert((now, announcement.clone()));
                entry.due = now;
            }
        }
    }

    /// Sends what is due, some of it at least, and says when there is more to do.
    fn send_due(&mut self, now: Instant) -> Option<Instant> {
        for _ in 0..BATCH {
            if self.queue.first()?.0 > now {
                break;
            }
            let (_, announcement) = self.queue.pop_first()?;
            self.send(announcement, now);
        }
        self.queue.first().map(|(due, _)| *due)
    }

    fn send(&mut self, announcement: Announcement, now: Instant) {
        let Self { wire, interval, running, queue, sent, refusing } = self;
        let Some(entry) = running.get_mut(&announcement) else { return };
        let Announcement { interface, address, .. } = announcement;
        let mut result = Ok(());
        for frame in &entry.frames {
            match wire.send(interface, frame) {
                Ok(()) => *sent.entry(address).or_default() += 1,
                Err(error) => result = Err(error),
            }
        }
        entry.due = match result {
            Ok(()) => {
                if refusing.remove(&interface) {
                    info!(interface, "the interface takes announcements again");
                }
                entry.pace.sent(now, *interval)
            }
            Err(error) => {
                if refusing.insert(interface) {
                    warn!(interface, %address, %error, "cannot announce, trying again until it works");
                }
                entry.pace.failed(now)
            }
        };
        queue.insert((entry.due, announcement));
    }
}

#[cfg(test)]
#[path = "announcer_tests.rs"]
mod tests;

//! What one other host has yet to be told. No I/O.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::dataplane::{Flow, Key};

/// Most changes that wait for a host; of more it is told by going through all.
const MOST: usize = 1 << 16;

/// What one other host has yet to be told.
#[derive(Default)]
pub(super) struct Outbox {
    inner: Mutex<Inner>,
    pub(super) work: Notify,
}

#[derive(Default)]
struct Inner {
    changes: HashSet<Key>,
    /// When the oldest of the changes that are not known there was noticed.
    since: Option<Instant>,
    /// Of a message under way.
    flying: Option<Instant>,
    strays: Vec<Flow>,
    sweep: Option<Sweep>,
    sweeping: bool,
    reached: bool,
    life: Option<u64>,
    lag: Duration,
    translations: u64,
    told: u64,
}

/// Which of the translated flows are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sweep {
    /// Those that were used since that second of the clock.
    Since(u32),
    /// All.
    All,
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The host answers.
    pub reached: bool,
    /// Translated flows it was told of, each time it was told.
    pub translations: u64,
    /// Strays it was told of, each time it was told.
    pub strays: u64,
    /// Changes that it has yet to be told.
    pub behind: u64,
    /// All flows are being gone through for it.
    pub sweeping: bool,
    /// How long the last change took to be known there; or how old the oldest is that is not, where
    /// that is more.
    pub lag: Duration,
}

/// What is to be said next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Changes(Vec<Key>),
    Strays(Vec<Flow>),
    Sweep(Sweep),
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Translated flows have changed, which was noticed at that moment.
    pub(super) fn changed(&self, keys: &[Key], noticed: Instant) {
        let mut inner = self.lock();
        // Who is not reached is told of all afterwards.
        if !inner.reached {
            return;
        }
        if inner.changes.len() + keys.len() > MOST {
            inner.changes.clear();
            inner.sweep = Some(Sweep::All);
        } else {
            inner.changes.extend(keys);
        }
        inner.since.get_or_insert(noticed);
        drop(inner);
        self.work.notify_one();
    }

    /// The strays that are there; those from before that were not told are no more.
    pub(super) fn strays(&self, flows: Vec<Flow>) {
        self.lock().strays = flows;
        self.work.notify_one();
    }

    /// All translated flows are to be told.
    pub(super) fn sweep(&self) {
        self.sweep_by(Sweep::All);
    }

    pub(super) fn sweep_by(&self, sweep: Sweep) {
        let mut inner = self.lock();
        inner.sweep = inner.sweep.max(Some(sweep));
        drop(inner);
        self.work.notify_one();
    }

    /// Takes what is to be said next, at most so many records: changes first, they make the lag.
    pub(super) fn next(&self, most: usize) -> Option<Next> {
        let mut inner = self.lock();
        if !inner.changes.is_empty() {
            let keys: Vec<_> = inner.changes.iter().take(most).copied().collect();
            for key in &keys {
                inner.changes.remove(key);
            }
            inner.flying = inner.since;
            if inner.changes.is_empty() {
                inner.since = None;
            }
            return Some(Next::Changes(keys));
        }
        if !inner.strays.is_empty() {
            let rest = inner.strays.len().saturating_sub(most);
            return Some(Next::Strays(inner.strays.split_off(rest)));
        }
        let sweep = inner.sweep.filter(|_| !inner.sweeping)?;
        (inner.sweep, inner.sweeping) = (None, true);
        Some(Next::Sweep(sweep))
    }

    /// The host has taken a message; whether its agent is another one than before.
    pub(super) fn taken(&self, life: u64, translations: usize, strays: usize) -> bool {
        let mut inner = self.lock();
        inner.translations += translations as u64;
        inner.told += strays as u64;
        if let Some(since) = inner.flying.take() {
            inner.lag = since.elapsed();
        }
        inner.reached = true;
        let anew = inner.life != Some(life);
        inner.life = Some(life);
        anew
    }

    /// Everything has been gone through.
    pub(super) fn swept(&self) {
        self.lock().sweeping = false;
    }

    /// The host does not answer: what it does not know now it is told when it does.
    pub(super) fn lost(&self) {
        let mut inner = self.lock();
        inner.changes.clear();
        inner.strays.clear();
        (inner.since, inner.flying) = (None, None);
        inner.sweep = Some(Sweep::All);
        (inner.sweeping, inner.reached, inner.life) = (false, false, None);
    }

    /// Whether the host has answered the last message.
    pub(super) fn is_reached(&self) -> bool {
        self.lock().reached
    }

    /// Whether a host that is reached knows of everything.
    pub(super) fn is_settled(&self) -> bool {
        let inner = self.lock();
        let waits = !inner.changes.is_empty() || inner.flying.is_some();
        !inner.reached || !waits && inner.sweep.is_none() && !inner.sweeping
    }

    pub(super) fn progress(&self) -> Progress {
        let inner = self.lock();
        let oldest = inner.flying.or(inner.since).map_or(Duration::ZERO, |since| since.elapsed());
        Progress {
            reached: inner.reached,
            translations: inner.translations,
            strays: inner.told,
            behind: inner.changes.len() as u64,
            sweeping: inner.sweeping || inner.sweep.is_some(),
            lag: inner.lag.max(oldest),
        }
    }
}

#[cfg(test)]
mod tests {
    use kube_vip_common::flow::Tuple4;

    use super::*;

    fn key(port: u16) -> Key {
        Key::V4(Tuple4 { source_port: port, ..Tuple4::default() })
    }

    fn flow(port: u16) -> Flow {
        let at = |port| ([10, 0, 0, 1], port).into();
        Flow { client: at(port), vip: at(80), protocol: 6 }
    }

    fn reached() -> Outbox {
        let outbox = Outbox::default();
        assert!(outbox.taken(1, 0, 0), "the first time");
        outbox
    }

    #[tokio::test(start_paused = true)]
    async fn changes_go_first_and_are_told_once() {
        let outbox = reached();
        outbox.strays(vec![flow(1), flow(2), flow(3)]);
        outbox.sweep();
        outbox.changed(&[key(1), key(2), key(1)], Instant::now());
        let Some(Next::Changes(keys)) = outbox.next(10) else { panic!("no changes") };
        assert_eq!(keys.len(), 2);
        assert_eq!(outbox.next(2), Some(Next::Strays(vec![flow(2), flow(3)])));
        assert_eq!(outbox.next(2), Some(Next::Strays(vec![flow(1)])));
        assert_eq!(outbox.next(2), Some(Next::Sweep(Sweep::All)));
        assert_eq!(outbox.next(2), None);
        outbox.sweep_by(Sweep::Since(7));
        assert_eq!(outbox.next(2), None, "one at a time");
        outbox.swept();
        assert_eq!(outbox.next(2), Some(Next::Sweep(Sweep::Since(7))));
    }

    #[tokio::test(start_paused = true)]
    async fn lag_is_that_of_the_oldest_change() {
        let outbox = reached();
        outbox.changed(&[key(1), key(2)], Instant::now());
        tokio::time::advance(Duration::from_millis(5)).await;
        outbox.next(1);
        assert!(!outbox.is_settled());
        tokio::time::advance(Duration::from_millis(2)).await;
        assert_eq!(outbox.progress().lag, Duration::from_millis(7));
        assert!(!outbox.taken(1, 1, 0), "the same agent");
        tokio::time::advance(Duration::from_millis(3)).await;
        let progress = outbox.progress();
        assert_eq!((progress.behind, progress.lag), (1, Duration::from_millis(10)));
        outbox.next(1);
        outbox.taken(1, 1, 0);
        assert!(outbox.is_settled());
        tokio::time::advance(Duration::from_secs(1)).await;
        let progress = outbox.progress();
        assert_eq!((progress.behind, progress.lag), (0, Duration::from_millis(10)));
        assert_eq!(progress.translations, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_lost_or_far_behind_is_told_of_all() {
        let outbox = reached();
        outbox.changed(&[key(1)], Instant::now());
        outbox.lost();
        assert!(outbox.is_settled(), "nothing helps a host that is gone");
        outbox.changed(&[key(2)], Instant::now());
        assert_eq!(outbox.next(9), Some(Next::Sweep(Sweep::All)));
        assert_eq!(outbox.next(9), None);
        assert!(outbox.taken(1, 0, 0), "perhaps another agent");
        outbox.swept();
        let many: Vec<_> = (0..=u16::MAX).map(key).collect();
        outbox.changed(&many, Instant::now());
        outbox.changed(&[Key::V6(Default::default())], Instant::now());
        assert_eq!(outbox.next(9), Some(Next::Sweep(Sweep::All)));
    }
}

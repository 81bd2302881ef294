//! When an announcement is said again. No I/O, no clock of its own.

use std::time::Duration;

use tokio::time::Instant;

/// After taking over. Linux takes no second change of an entry within `locktime` (1 s; `arp_process`
/// in net/ipv4/arp.c), so a burst that is over sooner can be missed as a whole by a host that has
/// just heard the old owner; and switches learn late after a link came up.
const BURST: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(150),
    Duration::from_millis(400),
    Duration::from_millis(900),
    Duration::from_millis(1200),
    Duration::from_millis(2000),
];

/// After a frame could not be sent.
const RETRY: Duration = Duration::from_millis(500);

/// A shorter interval than this is a mistake that would only load the network.
const SHORTEST: Duration = Duration::from_millis(100);

/// The times of one announcement.
#[derive(Debug)]
pub(super) struct Pace {
    started: Instant,
    round: usize,
    failures: u32,
}

impl Pace {
    /// The first round is due at once.
    pub(super) fn new(now: Instant) -> Self {
        Self { started: now, round: 0, failures: 0 }
    }

    /// Whether the burst is over.
    pub(super) fn settled(&self) -> bool {
        self.round >= BURST.len() && self.failures == 0
    }

    /// A round went out; says when the next one is due. Rounds that were missed meanwhile
    /// (a suspended host, a busy one) are left out, not caught up with.
    pub(super) fn sent(&mut self, now: Instant, interval: Duration) -> Instant {
        // The link was gone for a while: whoever is behind it now has heard nothing.
        if self.failures > 1 {
            *self = Self::new(now);
        }
        self.failures = 0;
        let due = |round: usize| BURST.get(round).map(|offset| self.started + *offset);
        let next = (self.round + 1..BURST.len()).find(|round| due(*round) > Some(now));
        self.round = next.unwrap_or(BURST.len());
        due(self.round).unwrap_or(now + interval.max(SHORTEST))
    }

    /// A round could not be sent; says when to try again.
    pub(super) fn failed(&mut self, now: Instant) -> Instant {
        self.failures = self.failures.saturating_add(1);
        now + RETRY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(3);

    fn rounds(pace: &mut Pace, first: Instant, count: usize) -> Vec<u128> {
        let mut at = first;
        let mut times = Vec::new();
        for _ in 0..count {
            times.push((at - first).as_millis());
            at = pace.sent(at, INTERVAL);
        }
        times
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_then_the_interval() {
        let now = Instant::now();
        let times = rounds(&mut Pace::new(now), now, 9);
        assert_eq!(times, [0, 50, 150, 400, 900, 1200, 2000, 5000, 8000]);
    }

    #[tokio::test(start_paused = true)]
    async fn missed_rounds_are_left_out() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.sent(start, INTERVAL);
        let late = start + Duration::from_millis(500);
        assert_eq!(pace.sent(late, INTERVAL), start + Duration::from_millis(900));
        let later = start + Duration::from_secs(60);
        assert_eq!(pace.sent(later, INTERVAL), later + INTERVAL);
        assert!(pace.settled());
    }

    #[tokio::test(start_paused = true)]
    async fn one_failure_delays_more_begin_again() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.failed(start), start + RETRY);
        let second = start + RETRY;
        assert_eq!(pace.sent(second, INTERVAL), start + Duration::from_millis(900));

        pace.failed(second);
        pace.failed(second);
        let back = start + Duration::from_secs(30);
        let times = rounds(&mut pace, back, 8);
        assert_eq!(times, [0, 50, 150, 400, 900, 1200, 2000, 5000]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_interval_of_zero_does_not_spin() {
        let now = Instant::now();
        let mut pace = Pace::new(now - Duration::from_secs(60));
        assert_eq!(pace.sent(now, Duration::ZERO), now + SHORTEST);
    }
}

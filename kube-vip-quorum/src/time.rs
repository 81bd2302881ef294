//! Moments, drift, and the settings that are lengths of time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment in nanoseconds of `CLOCK_BOOTTIME`, the clock that the kernel programs compare
/// deadlines with. It means something only on the host that read it, and only until that host
/// boots again.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Boot(pub u64);

impl Boot {
    /// That much later.
    pub const fn plus(self, length: Duration) -> Self {
        Self(self.0.saturating_add(nanoseconds(length)))
    }

    /// How long ago `earlier` was; nothing where it was not earlier.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Where moments come from.
pub trait Clock: Send + Sync + 'static {
    /// The present moment.
    fn now(&self) -> Boot;
}

/// `CLOCK_BOOTTIME` as this process sees it. In a time namespace of its own that is not what the
/// kernel programs see.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Boot {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
        // Linux has had this clock since 2.6.39.
        let now = now.map(Duration::from).unwrap_or_default();
        Boot(nanoseconds(now))
    }
}

/// No clock runs more than this many percent faster or slower than true time.
pub const DRIFT_PERCENT: u32 = 1;

/// The part of a length that has passed for sure, in true time, before a clock has counted it:
/// what a host may use of a length that another host has granted it.
pub fn shortened(length: Duration) -> Duration {
    length * (100 - DRIFT_PERCENT) / 100
}

/// What a clock has to count before another clock has counted `length` for sure, if one is as fast
/// and the other as slow as they may be.
pub fn lengthened(length: Duration) -> Duration {
    let grown = nanoseconds(length) as u128 * (100 + DRIFT_PERCENT) as u128;
    let counted = grown.div_ceil((100 - DRIFT_PERCENT) as u128);
    Duration::from_nanos(counted.min(u64::MAX as u128) as u64)
}

const fn nanoseconds(length: Duration) -> u64 {
    let all = length.as_nanos();
    if all > u64::MAX as u128 { u64::MAX } else { all as u64 }
}

/// Lengths of time that all hosts of a cluster must have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Between two heartbeats of the leader, and between two questions of a host.
    pub heartbeat: Duration,
    /// How long after the sending of a heartbeat a grant that rests on it ends.
    pub lease: Duration,
    /// A host that has not asked for this long is taken for dead.
    pub dead_after: Duration,
    /// Candidates wait for a random part of this before they ask for votes.
    pub election: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(40),
            lease: Duration::from_millis(180),
            dead_after: Duration::from_millis(120),
            election: Duration::from_millis(60),
        }
    }
}

/// A setting that does not go with the others, and the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {value:?} {problem}")]
pub struct TimingError {
    /// Which setting.
    pub setting: &'static str,
    /// What it was set to.
    pub value: Duration,
    /// Why that does not work, and what would.
    pub problem: String,
}

impl Timing {
    /// How long a voter withholds its vote after an acknowledgement, and how long a leader waits
    /// after the sending of a heartbeat before what was granted on it has ended on every clock.
    pub fn withheld(&self) -> Duration {
        lengthened(self.lease)
    }

    /// Checks the settings against each other.
    ///
    /// # Errors
    ///
    /// The first setting that does not work, with the bound it breaks.
    pub fn checked(self) -> Result<Self, TimingError> {
        let refuse = |setting, value, problem| Err(TimingError { setting, value, problem });
        let Self { heartbeat, lease, dead_after, election } = self;
        if heartbeat < Duration::from_millis(5) {
            let problem = "is too short, hosts would do nothing else; take 5 ms or more".to_owned();
            return refuse("heartbeat", heartbeat, problem);
        }
        if lease < heartbeat * 3 {
            let problem = format!(
                "would end between two heartbeats of {heartbeat:?}; take {:?} or more, \
                 or a shorter heartbeat",
                heartbeat * 3
            );
            return refuse("lease", lease, problem);
        }
        if lease > Duration::from_secs(60) {
            let problem = "leaves a VIP without owner for longer than a minute; take less";
            return refuse("lease", lease, problem.to_owned());
        }
        if dead_after < heartbeat * 2 {
            let problem = format!(
                "would take a host for dead that has missed one question; take {:?} or more",
                heartbeat * 2
            );
            return refuse("deadAfter", dead_after, problem);
        }
        if election < Duration::from_millis(10) {
            let problem = "lets all candidates start at once; take 10 ms or more".to_owned();
            return refuse("election", election, problem);
        }
        if election > lease * 10 {
            let problem = format!("is out of all proportion to a lease of {lease:?}; take less");
            return refuse("election", election, problem);
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn drift_is_taken_off_and_added() {
        assert_eq!(shortened(MS * 100), MS * 99);
        assert_eq!(lengthened(MS * 99), MS * 101);
        assert_eq!(lengthened(Duration::from_nanos(1)), Duration::from_nanos(2), "rounded up");
        assert!(lengthened(Duration::MAX) <= Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn moments_do_not_overflow() {
        assert_eq!(Boot(u64::MAX).plus(MS), Boot(u64::MAX));
        assert_eq!(Boot(3).since(Boot(5)), Duration::ZERO);
        assert_eq!(Boot(5).since(Boot(3)), Duration::from_nanos(2));
    }

    #[test]
    fn settings_are_checked_against_each_other() {
        let timing = Timing::default();
        assert_eq!(timing.checked(), Ok(timing));
        let cases = [
            (Timing { heartbeat: MS, ..timing }, "heartbeat: 1ms is too short"),
            (Timing { lease: MS * 119, ..timing }, "lease: 119ms would end between"),
            (Timing { lease: MS * 60_001, ..timing }, "lease: 60.001s leaves a VIP"),
            (Timing { dead_after: MS * 79, ..timing }, "deadAfter: 79ms would take a host"),
            (Timing { election: MS * 9, ..timing }, "election: 9ms lets all candidates"),
            (Timing { election: MS * 1801, ..timing }, "election: 1.801s is out of all"),
        ];
        for (timing, begins) in cases {
            let error = timing.checked().unwrap_err().to_string();
            assert!(error.starts_with(begins), "{error}");
        }
    }
}

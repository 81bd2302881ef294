//! `RATES`: how much of its allowance a client has used up, where a frontend limits it.
//!
//! One number does what a bucket with tokens does (the generic cell rate algorithm, ITU-T I.371,
//! annex A): the time at which the bucket would be full again. Each new connection moves it on by
//! the frontend's interval; where it would come to lie more than a second ahead the bucket is
//! empty.

use crate::address::Address;
use crate::assert_size;

/// Key of `RATES`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// Its address.
    pub address: Address,
    /// Id of the frontend.
    pub frontend: u32,
    /// Always 0.
    pub pad: u32,
}

/// Value of `RATES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// When it is whole again, nanoseconds since boot.
    pub whole: u64,
}

assert_size!(Client: 24, Allowance: 8);

/// A bucket holds as much as flows into it in this time, in nanoseconds.
const DEPTH: u64 = 1_000_000_000;

/// Nanoseconds from one new connection to the next, of `rate` in a second.
pub const fn interval(rate: u32) -> u32 {
    (DEPTH / rate as u64) as u32
}

impl Allowance {
    /// After one more at `now`; nothing where it is used up.
    #[inline(always)]
    pub const fn take(self, now: u64, interval: u32) -> Option<Self> {
        let from = if self.whole > now { self.whole } else { now };
        let whole = from + interval as u64;
        if whole > now + DEPTH { None } else { Some(Self { whole }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_once_and_so_many_a_second_after_that() {
        for rate in [1, 2, 3, 7, 10, 999, 100_000, 1_000_000] {
            let (interval, start) = (interval(rate), 1 << 40);
            let mut allowance = Allowance::default();
            let mut take = |now| match allowance.take(now, interval) {
                Some(after) => {
                    allowance = after;
                    true
                }
                None => false,
            };
            let at_once = (0..2 * rate).filter(|_| take(start)).count() as u32;
            // The interval is rounded down, which lets one more in at most.
            assert!((rate..=rate + 1).contains(&at_once), "{at_once} of {rate}");
            // Ten seconds of too much.
            let late = (0..20 * u64::from(rate))
                .filter(|n| take(start + n * DEPTH / (2 * u64::from(rate))))
                .count() as u32;
            assert!((10 * rate - 2..=10 * rate + 2).contains(&late), "{late} of {rate}");
        }
    }

    #[test]
    fn time_that_has_passed_is_not_saved_up() {
        let allowance = Allowance { whole: 5 };
        let mut after = Some(allowance);
        let mut count = 0;
        while let Some(next) = after.and_then(|one| one.take(1 << 50, interval(10))) {
            after = Some(next);
            count += 1;
        }
        assert_eq!(count, 10);
    }
}

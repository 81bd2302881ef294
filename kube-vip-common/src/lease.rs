//! `LEASES`: until when this host owns what it owns.

use crate::assert_size;

/// Elements of `LEASES`.
pub const LEASES: usize = 1024;

/// Value of `LEASES`; times in nanoseconds of `CLOCK_BOOTTIME`, which `bpf_ktime_get_boot_ns`
/// (Linux 5.8) reads too.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Ownership began.
    pub since: u64,
    /// Ownership ends, or has ended; 0 where it never began, `u64::MAX` where it has no end.
    pub until: u64,
    /// Number of the grant.
    pub epoch: u64,
}

assert_size!(Lease: 24);

impl Lease {
    /// Whether the VIPs of this lease are owned at that moment.
    #[inline(always)]
    pub const fn holds_at(&self, now: u64) -> bool {
        self.since <= now && now < self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_ends_at_its_deadline() {
        let lease = Lease { since: 10, until: 20, epoch: 1 };
        assert_eq!(
            [9, 10, 19, 20, 21].map(|now| lease.holds_at(now)),
            [false, true, true, false, false]
        );
        assert!(!Lease::default().holds_at(0));
    }
}

//! Who else claims a VIP of this host's, and whether to stand up for it. No I/O, no clock of its own.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::view::Mac;

/// `DEFEND_INTERVAL` of RFC 5227 §1.1: an address is defended at most this often.
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// A claim is told of for this long after it was last heard.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Most claims that are told of: whoever forges addresses must not fill memory.
const MOST: usize = 64;

/// Somebody says that a VIP is at their place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// The VIP.
    pub address: IpAddr,
    /// Where it is said to be.
    pub mac: Mac,
    /// Where that was heard.
    pub interface: String,
    /// How it was said: `ARP` or `neighbour discovery`.
    pub by: &'static str,
}

/// When a claim was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// For the first time.
    pub first: Instant,
    /// For the last time.
    pub last: Instant,
}

/// Claims of others, and what was done about them.
#[derive(Debug, Default)]
pub struct Conflicts {
    claims: BTreeMap<Claim, Heard>,
    defended: BTreeMap<IpAddr, Instant>,
}

impl Conflicts {
    /// Notes a claim. Whether it is to be answered with an announcement: RFC 5227 §2.4 (c), for an
    /// address that is never given up. `of_ours` is whether another agent makes it, which learns from
    /// the election who owns what, and not from a quarrel.
    pub fn note(&mut self, claim: Claim, of_ours: bool, now: Instant) -> bool {
        self.forget(now);
        let address = claim.address;
        let known = self.claims.len();
        match self.claims.get_mut(&claim) {
            Some(heard) => heard.last = now,
            None if known < MOST => {
                self.claims.insert(claim, Heard { first: now, last: now });
            }
            None => {}
        }
        let recent = |at: &Instant| now.duration_since(*at) < DEFEND_INTERVAL;
        if of_ours || self.defended.get(&address).is_some_and(recent) {
            return false;
        }
        self.defended.insert(address, now);
        true
    }

    /// Claims to a VIP that were heard not long ago.
    pub fn of(&self, address: IpAddr, now: Instant) -> impl Iterator<Item = (&Claim, &Heard)> {
        let claims = self.claims.iter().filter(move |(claim, _)| claim.address == address);
        claims.filter(move |(_, heard)| now.duration_since(heard.last) < REMEMBERED)
    }

    fn forget(&mut self, now: Instant) {
        self.claims.retain(|_, heard| now.duration_since(heard.last) < REMEMBERED);
        self.defended.retain(|_, at| now.duration_since(*at) < DEFEND_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(last: u8) -> Claim {
        let (address, mac) = ([10, 0, 0, 100].into(), Mac([2, 0, 0, 0, 0, last]));
        Claim { address, mac, interface: "eth0".into(), by: "ARP" }
    }

    #[test]
    fn a_vip_is_defended_once_in_ten_seconds_whoever_claims_it() {
        let (mut conflicts, start) = (Conflicts::default(), Instant::now());
        let mut at =
            |seconds, who| conflicts.note(claim(who), false, start + Duration::from_secs(seconds));
        assert_eq!(
            [at(0, 1), at(1, 1), at(9, 2), at(10, 2), at(19, 1), at(20, 1)],
            [true, false, false, true, false, true]
        );
        let mut other = claim(1);
        other.address = [10, 0, 0, 101].into();
        assert!(conflicts.note(other, false, start + Duration::from_secs(20)));
    }

    #[test]
    fn agents_of_ours_have_no_war() {
        let (mut conflicts, now) = (Conflicts::default(), Instant::now());
        assert!(!conflicts.note(claim(1), true, now));
        assert_eq!(conflicts.of(claim(1).address, now).count(), 1);
        assert!(conflicts.note(claim(2), false, now), "a stranger is answered all the same");
    }

    #[test]
    fn claims_are_told_of_for_a_while_and_not_without_bound() {
        let (mut conflicts, start) = (Conflicts::default(), Instant::now());
        for who in 0..=u8::MAX {
            conflicts.note(claim(who), false, start);
        }
        let later = start + Duration::from_secs(60);
        conflicts.note(claim(0), false, later);
        let count = |at: Instant| conflicts.of(claim(0).address, at).count();
        assert_eq!(
            [count(later), count(start + REMEMBERED), count(later + REMEMBERED)],
            [MOST, 1, 0]
        );
        let (_, heard) = conflicts.of(claim(0).address, later).next().expect("a claim");
        assert_eq!((heard.first, heard.last), (start, later));
    }
}

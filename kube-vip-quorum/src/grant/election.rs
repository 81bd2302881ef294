//! When a host stands for leader. It first asks the others whether they would vote at all, which
//! changes nothing for them: a host that was cut off comes back without deposing anybody.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Voters;
use crate::cluster::NodeId;
use crate::time::{Boot, Timing};

/// A host's patience, and the round of questions it is in.
#[derive(Clone, Debug)]
pub struct Election {
    spread: Duration,
    at: Option<Boot>,
    round: u64,
    willing: BTreeSet<NodeId>,
}

impl Election {
    /// Nothing is under way.
    pub fn new(timing: &Timing) -> Self {
        Self { spread: timing.election, at: None, round: 0, willing: BTreeSet::new() }
    }

    /// Whether to ask the voters now whether they would vote: the number of the round, in which
    /// `own` is willing. `free` is when the host's own vote is no longer withheld; `random` is any
    /// number. To be called every few milliseconds.
    pub fn canvass(&mut self, own: NodeId, free: Boot, random: u64, now: Boot) -> Option<u64> {
        if now < free {
            self.at = None;
            return None;
        }
        let at = *self.at.get_or_insert(now.plus(part(self.spread, random)));
        if now < at {
            return None;
        }
        // Asking again is cheap: an answer may be lost, or others withhold a little longer.
        self.at = Some(now.plus(self.spread / 4 + part(self.spread, random) / 2));
        self.round += 1;
        self.willing = BTreeSet::from([own]);
        Some(self.round)
    }

    /// A host would vote; true if that makes a majority, once for each round.
    pub fn willing(&mut self, node: NodeId, round: u64, voters: &Voters) -> bool {
        if round != self.round || self.willing.is_empty() {
            return false;
        }
        self.willing.insert(node);
        let enough = voters.agree(|node| self.willing.contains(&node));
        if enough {
            self.willing.clear();
        }
        enough
    }

    /// This host has told another that it would vote: that one goes first.
    pub fn encouraged(&mut self, random: u64, now: Boot) {
        let pause = self.spread / 2 + part(self.spread, random) / 2;
        self.at = self.at.max(Some(now.plus(pause)));
    }

    /// This host has voted for another, which now gets the time to win and to be heard. Its own
    /// round ends, or it would depose the one it has just elected.
    pub fn voted(&mut self, random: u64, now: Boot) {
        self.willing.clear();
        self.at = Some(now.plus(self.spread * 2 + part(self.spread, random)));
    }
}

fn part(length: Duration, random: u64) -> Duration {
    let nanoseconds = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(random % nanoseconds.max(1))
}

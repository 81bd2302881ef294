//! A voter's refusal: what it has acknowledged, and until when it votes for nobody.

use std::time::Duration;

use crate::cluster::TenureId;
use crate::time::{Boot, Timing, lengthened};

/// The vote is withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("withholds its vote for another {left:?}: a leader's grants may still hold")]
pub struct Withheld {
    /// For how long, by the voter's clock.
    pub left: Duration,
}

/// What a voter remembers of heartbeats since its own start. Hosts that do not vote keep one too,
/// because a leader may make voters of them.
#[derive(Clone, Debug)]
pub struct Voter {
    withheld: Duration,
    until: Boot,
    deserted: Option<TenureId>,
}

impl Voter {
    /// A voter that starts now. What it acknowledged before is forgotten, so it withholds its vote
    /// as if it had acknowledged something just now; `earlier` is how long leases were then, 0 if
    /// that is not known to have been different.
    pub fn new(timing: &Timing, earlier: Duration, now: Boot) -> Self {
        let withheld = timing.withheld();
        Self { withheld, until: now.plus(withheld.max(lengthened(earlier))), deserted: None }
    }

    /// A heartbeat of `from` has arrived; `follows` is the leader that this host's vote on disk
    /// names, if it names one that was elected. Tells whether to acknowledge it.
    pub fn heartbeat(&mut self, from: TenureId, follows: Option<TenureId>, now: Boot) -> bool {
        if follows != Some(from) || self.deserted >= Some(from) {
            return false;
        }
        self.until = self.until.max(now.plus(self.withheld));
        true
    }

    /// Whether this host may vote now, for whomever: itself included, and a leader that wants to
    /// be one anew. `claim` is the leader that has named the candidate its successor.
    ///
    /// # Errors
    ///
    /// The vote is withheld; asking again later may help.
    pub fn may_vote(
        &self,
        claim: Option<TenureId>,
        follows: Option<TenureId>,
        now: Boot,
    ) -> Result<(), Withheld> {
        // The only grants that this vote could overtake are those of the leader that was followed
        // last, and it has said that it gives no more.
        let exempt = claim.is_some() && claim == follows;
        let left = self.until.since(now);
        if exempt || left.is_zero() { Ok(()) } else { Err(Withheld { left }) }
    }

    /// This host votes for itself: it acknowledges nothing more of the leader it followed, even
    /// before that vote is on disk.
    pub fn stands(&mut self, follows: Option<TenureId>) {
        self.deserted = self.deserted.max(follows);
    }

    /// When this host may vote again.
    pub fn until(&self) -> Boot {
        self.until
    }
}

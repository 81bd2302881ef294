//! Which heartbeats the voters have acknowledged.

use std::collections::BTreeMap;

use super::Voters;
use crate::cluster::NodeId;
use crate::time::Boot;

/// For each voter, when the newest heartbeat that it has acknowledged was *sent*, by the leader's
/// clock.
#[derive(Clone, Debug)]
pub struct Ledger {
    voters: Voters,
    sent: Option<Boot>,
    acknowledged: BTreeMap<NodeId, Boot>,
}

impl Ledger {
    /// A ledger in which nobody has acknowledged anything.
    pub fn new(voters: Voters) -> Self {
        Self { voters, sent: None, acknowledged: BTreeMap::new() }
    }

    /// Whose majority counts from now on. To be called before a change of voters is proposed, with
    /// both the old and the new ones, and after it is complete.
    pub fn set_voters(&mut self, voters: Voters) {
        self.voters = voters;
    }

    /// Whose majority counts.
    pub fn voters(&self) -> &Voters {
        &self.voters
    }

    /// A heartbeat leaves at that moment.
    pub fn sending(&mut self, at: Boot) {
        self.sent = self.sent.max(Some(at));
    }

    /// A voter has acknowledged the heartbeat that was sent at that moment.
    pub fn acknowledged(&mut self, voter: NodeId, sent: Boot) {
        // An acknowledgement of what was never sent would be a grant without end.
        if Some(sent) > self.sent {
            return;
        }
        let newest = self.acknowledged.entry(voter).or_insert(sent);
        *newest = (*newest).max(sent);
    }

    /// When the newest heartbeat that a majority has acknowledged was sent.
    pub fn majority(&self) -> Option<Boot> {
        self.voters.agreed(|voter| self.acknowledged.get(&voter).copied())
    }
}

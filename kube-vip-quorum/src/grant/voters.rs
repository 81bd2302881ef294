//! Whose votes count.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::cluster::NodeId;

/// One set of voters, or several while the set is changed: then a majority of each is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voters(Vec<BTreeSet<NodeId>>);

impl Voters {
    /// Voters in several sets; empty sets say nothing and are left out.
    pub fn new(sets: impl IntoIterator<Item = BTreeSet<NodeId>>) -> Self {
        Self(sets.into_iter().filter(|set| !set.is_empty()).collect())
    }

    /// These and those: what holds for both while one follows the other.
    pub fn and(&self, others: &Self) -> Self {
        let mut sets = self.0.clone();
        sets.extend(others.0.iter().filter(|set| !self.0.contains(set)).cloned());
        Self(sets)
    }

    /// The sets, in the order they were given.
    pub fn sets(&self) -> &[BTreeSet<NodeId>] {
        &self.0
    }

    /// Everybody who is in one of the sets.
    pub fn all(&self) -> BTreeSet<NodeId> {
        self.0.iter().flatten().copied().collect()
    }

    /// Whether that host votes.
    pub fn contains(&self, node: NodeId) -> bool {
        self.0.iter().any(|set| set.contains(&node))
    }

    /// Whether a majority of every set says yes.
    pub fn agree(&self, yes: impl Fn(NodeId) -> bool) -> bool {
        self.agreed(|node| yes(node).then_some(())).is_some()
    }

    /// The greatest value that a majority of every set has reached, where each voter has reached
    /// one or none.
    pub fn agreed<T: Ord>(&self, reached: impl Fn(NodeId) -> Option<T>) -> Option<T> {
        let of = |set: &BTreeSet<NodeId>| {
            let mut values: Vec<_> = set.iter().map(|node| reached(*node)).collect();
            values.sort_unstable();
            // Ascending: this many voters at the end are a majority.
            values.swap_remove(set.len() - (set.len() / 2 + 1))
        };
        self.0.iter().map(of).min().flatten()
    }
}

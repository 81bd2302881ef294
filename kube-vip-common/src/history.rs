//! Second chance: where the connections of a slot may still be.
//!
//! A slot that has changed remembers the hosts it led to before ([`Past`], behind the slots of its
//! table). A segment in the middle of a connection that the receiving host does not know goes on to
//! the host that the slot leads to, then to those it led to before, one after the other. How far it
//! has come is in the frame's [`mark`](crate::mark): the position.
//!
//! Tables and histories may differ from host to host, and still a packet ends: every position that
//! [`next`] sends to is closer to the last one than the position before, so that after the host that
//! a client's packet reached first and the one its table named, at most [`DEPTH`] more see it. Where
//! hosts do not know each other either and take an agent's frame for a client's, it goes on at the
//! last position ([`mark`](crate::mark)): it may come to the owner once more, and to one host from
//! there.
//!
//! ```text
//! 0 the table's host ─┬──────────────────> 2 ─> 3 ─> 4 ─> 5    hosts before, most recent first
//!                     └─> 1 another table's ─> 6 ─> 7 ────^    … one fewer, after a detour
//! ```

use crate::assert_size;
use crate::node::THIS_NODE;

/// Hosts a slot remembers.
pub const DEPTH: usize = 4;

/// The hosts a slot led to before.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// Indices into `NODES`, all different, most recent first; 0 behind the last.
    pub nodes: [u8; DEPTH],
}

assert_size!(Past: 4);

impl Past {
    /// No other host.
    pub const NONE: Self = Self { nodes: [0; DEPTH] };

    /// Whether there is any host.
    pub const fn is_some(self) -> bool {
        self.nodes[0] != 0
    }

    /// Whether a host is among them.
    pub fn names(self, node: u8) -> bool {
        node != 0 && self.nodes.contains(&node)
    }

    /// What the slot remembers once it leads from `old` to `new` (0: nowhere). Hosts that are not
    /// `kept` any more are forgotten.
    #[must_use]
    pub fn after(self, old: u8, new: u8, kept: impl Fn(u8) -> bool) -> Self {
        let mut nodes = [0; DEPTH];
        let mut length = 0;
        for node in [old].into_iter().chain(self.nodes) {
            let wanted = node != 0 && node != new && kept(node);
            if wanted && length < DEPTH && !nodes[..length].contains(&node) {
                nodes[length] = node;
                length += 1;
            }
        }
        Self { nodes }
    }
}

/// Index of the first host to be tried: the slot's own is 0, those before it follow.
#[inline(always)]
const fn first(position: u8) -> u8 {
    match position {
        6 => 2,
        7 => 3,
        position => position,
    }
}

/// The position of a packet that goes on from `position` to the host with that index.
#[inline(always)]
const fn after(position: u8, index: u8) -> u8 {
    match (position, index) {
        (1, 1) => 6,
        (1 | 6, 2) => 7,
        (1 | 6 | 7, _) => 5,
        _ => index + 1,
    }
}

/// The host that gets a connection's segment next, and the position it travels with; nothing where
/// all have been tried.
///
/// `slots` is the index into `NODES` of the slot's own host. `reaches` says whether a host can be
/// sent to and is not where the segment came from.
#[inline(always)]
pub fn next(position: u8, slots: u8, past: Past, reaches: impl Fn(u8) -> bool) -> Option<(u8, u8)> {
    let [a, b, c, d] = past.nodes;
    let mut index = 0;
    for node in [slots, a, b, c, d] {
        let tried = index < first(position) || index > 0 && node == slots;
        if !tried && node != 0 && node != THIS_NODE as u8 && reaches(node) {
            return Some((node, after(position, index)));
        }
        index += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::mark::{self, POSITIONS};

    /// Hosts in the model; each numbers the others as it likes.
    const HOSTS: usize = 9;

    /// What one host believes about a slot: by its own numbers, this host being 1.
    #[derive(Clone, Debug)]
    struct Belief {
        slots: u8,
        past: Past,
    }

    #[derive(Debug)]
    struct Walk {
        /// Hosts in the order they were visited.
        visited: Vec<usize>,
        /// Where the packet was delivered.
        found: Option<usize>,
    }

    /// The name that host `here` has for host `host`.
    fn number(here: usize, host: usize) -> u8 {
        let distance = (host + HOSTS - here) % HOSTS;
        distance as u8 + 1
    }

    fn named(here: usize, number: u8) -> usize {
        (here + usize::from(number) - 1) % HOSTS
    }

    /// Which host takes frames of which other one for an agent's, and who owns the address.
    #[derive(Clone, Debug)]
    struct Trust {
        known: Vec<Vec<bool>>,
        owner: Option<usize>,
    }

    impl Trust {
        fn full() -> Self {
            Self { known: std::vec![std::vec![true; HOSTS]; HOSTS], owner: None }
        }

        /// As `agent` has it: the position that `here` believes of a frame.
        fn position(&self, here: usize, sender: Option<usize>, marked: Option<u8>) -> Option<u8> {
            let known = sender.is_some_and(|sender| self.known[here][sender]);
            marked.filter(|marked| known || *marked == mark::LAST && self.owner != Some(here))
        }
    }

    /// A client's segment arrives at `first`, perhaps from so far away that it looks like an agent's;
    /// its connection is at `home`.
    fn walk(
        beliefs: &[Belief],
        trust: &Trust,
        (first, ttl): (usize, u8),
        home: Option<usize>,
    ) -> Walk {
        let mut visited = std::vec![first];
        let (mut here, mut sender, mut ttl) = (first, None, ttl);
        loop {
            if home == Some(here) {
                return Walk { visited, found: home };
            }
            let Belief { slots, past } = beliefs[here];
            // Only of hosts that it knows a host can say that they sent something.
            let from = sender.filter(|sender| trust.known[here][*sender]);
            let reaches = |node: u8| Some(named(here, node)) != from;
            let step = match trust.position(here, sender, mark::position(ttl)) {
                // As `forward`: the table's host, without a look at anything else.
                None if slots > 1 => Some((slots, mark::entry(ttl))),
                position => next(position.unwrap_or(mark::entry(ttl)), slots, past, reaches),
            };
            let Some((node, marked)) = step else {
                return Walk { visited, found: None };
            };
            assert!(marked < POSITIONS);
            let there = named(here, node);
            assert!(there != here, "to itself: {visited:?}");
            (sender, here, ttl) = (Some(here), there, mark::ttl(marked));
            visited.push(there);
            assert!(visited.len() < 100, "it goes round: {visited:?}");
        }
    }

    fn belief() -> impl Strategy<Value = Belief> {
        let node = 0..=HOSTS as u8;
        (node.clone(), any::<[u8; DEPTH]>(), node).prop_map(|(slots, nodes, wrap)| Belief {
            slots,
            // Not even that hosts are all different is taken for granted.
            past: Past { nodes: nodes.map(|node| node % (wrap + 1)) },
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn a_packet_visits_at_most_two_and_depth_hosts(
            beliefs in proptest::collection::vec(belief(), HOSTS),
            first in 0..HOSTS,
            home in proptest::option::of(0..HOSTS),
        ) {
            let Walk { visited, .. } = walk(&beliefs, &Trust::full(), (first, 64), home);
            prop_assert!(visited.len() <= 2 + DEPTH, "{visited:?}");
        }

        #[test]
        fn one_more_where_hosts_do_not_know_each_other(
            beliefs in proptest::collection::vec(belief(), HOSTS),
            known in proptest::collection::vec(proptest::collection::vec(any::<bool>(), HOSTS), HOSTS),
            owner in proptest::option::of(0..HOSTS),
            arrives in (0..HOSTS, any::<u8>()),
        ) {
            let Walk { visited, .. } = walk(&beliefs, &Trust { known, owner }, arrives, None);
            prop_assert!(visited.len() <= 3 + DEPTH, "{visited:?}");
        }

        #[test]
        fn where_tables_agree_every_host_before_is_tried(
            moves in proptest::collection::vec(0..HOSTS, 1..12),
            first in 0..HOSTS,
        ) {
            // All hosts saw the same moves of the slot.
            let mut past: Vec<_> = (0..HOSTS).map(|_| Past::NONE).collect();
            for pair in moves.windows(2) {
                for (here, past) in past.iter_mut().enumerate() {
                    *past = past.after(number(here, pair[0]), number(here, pair[1]), |_| true);
                }
            }
            let last = *moves.last().expect("one at least");
            let beliefs: Vec<_> = (0..HOSTS)
                .map(|here| Belief { slots: number(here, last), past: past[here] })
                .collect();
            let mut distinct = Vec::new();
            for host in moves.iter().rev() {
                if !distinct.contains(host) {
                    distinct.push(*host);
                }
            }
            for home in distinct.into_iter().take(1 + DEPTH) {
                // A first host whose history names it looks for the flow before it forwards.
                let walk = walk(&beliefs, &Trust::full(), (first, 64), Some(home));
                prop_assert_eq!(walk.found, Some(home), "{:?}", walk.visited);
            }
        }

        #[test]
        fn a_host_one_change_behind_still_leads_to_the_connection(
            moves in proptest::collection::vec(0..HOSTS - 1, 2..12),
            back in 0..DEPTH,
        ) {
            // The owner, say, without a backend of its own.
            let behind = HOSTS - 1;
            let at = |here: usize, moves: &[usize]| {
                let past = moves.windows(2).fold(Past::NONE, |past, pair| {
                    past.after(number(here, pair[0]), number(here, pair[1]), |_| true)
                });
                let slots = number(here, *moves.last().expect("one at least"));
                Belief { slots, past }
            };
            let mut beliefs: Vec<_> = (0..HOSTS).map(|here| at(here, &moves)).collect();
            beliefs[behind] = at(behind, &moves[..moves.len() - 1]);
            let mut distinct = Vec::new();
            for host in moves.iter().rev() {
                if !distinct.contains(host) {
                    distinct.push(*host);
                }
            }
            // The detour costs one of the hosts before.
            for home in distinct.into_iter().take(back + 1) {
                let walk = walk(&beliefs, &Trust::full(), (behind, 64), Some(home));
                prop_assert_eq!(walk.found, Some(home), "{:?}", walk.visited);
            }
        }
    }

    #[test]
    fn history_is_distinct_and_forgets_hosts_that_are_gone() {
        let all = |_| true;
        let mut past = Past::NONE;
        assert!(!past.is_some());
        for (old, new) in [(1, 2), (2, 3), (3, 4), (4, 5), (5, 6)] {
            past = past.after(old, new, all);
        }
        assert_eq!(past.nodes, [5, 4, 3, 2]);
        assert!(past.names(2) && !past.names(1) && !past.names(0));
        assert_eq!(past.after(6, 6, all).nodes, [5, 4, 3, 2], "nothing changed");
        assert_eq!(past.after(6, 3, all).nodes, [6, 5, 4, 2], "back to an earlier one");
        assert_eq!(past.after(6, 7, |node| node != 4).nodes, [6, 5, 3, 2], "4 is gone");
        assert_eq!(past.after(6, 0, all).nodes, [6, 5, 4, 3], "nobody serves it now");
        assert_eq!(Past::NONE.after(0, 3, all), Past::NONE, "nobody served it before");
    }

    #[test]
    fn each_position_leads_closer_to_the_end() {
        // How many hosts can still follow.
        let left: BTreeMap<u8, u8> =
            [(0, 4), (1, 3), (2, 3), (3, 2), (4, 1), (5, 0), (6, 2), (7, 1)].into();
        for position in 0..POSITIONS {
            for index in first(position)..=DEPTH as u8 {
                let follows = after(position, index);
                assert!(left[&follows] < left[&position], "{position} → {follows}");
                assert!(first(follows) > index, "{position} → {follows} tries {index} again");
            }
        }
        for slots in 0..=3 {
            let past = Past { nodes: [2, 3, 4, 5] };
            assert_eq!(next(mark::LAST, slots, past, |_| true), None);
        }
    }
}

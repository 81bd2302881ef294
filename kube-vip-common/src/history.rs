//! Second chance: where the connections of a slot may still be.
//!
//! A slot that has changed remembers the hosts it led to before ([`Past`], behind the slots of its
//! table). A segment in the middle of a connection that the receiving host does not know goes on to
//! the next of the hosts that the slot leads or led to. Next is meant in an order of all hosts that
//! all agree on, behind the last comes the first again: then it matters little that tables differ
//! while they change, nobody is left out and nobody visited twice. The position in the frame's
//! [`mark`](crate::mark) says how many were tried after the one that the table named.
//!
//! ```text
//! the slot leads to D, and led to A, C and E before
//!
//! client ─> owner ── 0 ──> D ── 1 ──> E ── 2 ──> A ── 3 ──> C, which has the connection
//! ```
//!
//! Positions only grow, up to [`LAST`](crate::mark::LAST). So a packet visits the host that a client
//! sends it to, the one that host's table names, and at most [`DEPTH`] more, whatever their tables
//! say. Where hosts do not know each other and take an agent's frame for a client's, it goes on at the
//! last position: it may come to the owner once more, and to one host from there.

use crate::assert_size;
use crate::mark::LAST;
use crate::node::THIS_NODE;

/// Hosts a slot remembers.
pub const DEPTH: usize = LAST as usize;

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

/// The same where a host has said that it has the connection ([`stray`](crate::stray)), and can be
/// sent to: `told` is its index into `NODES`, or 0.
#[inline(always)]
pub fn straight(position: u8, told: u8) -> Option<(u8, u8)> {
    let is_another = told != 0 && told != THIS_NODE as u8;
    (is_another && position < LAST).then_some((told, position + 1))
}

/// The host that gets a connection's segment next, and the position it travels with; nothing where
/// all that may be have been tried.
///
/// `slots` is the index into `NODES` of the slot's own host, `here` this host's place in the order of
/// all. `place` is that of another host which can be sent to and is not where the segment came from.
#[inline(always)]
pub fn next(
    position: u8,
    here: u32,
    slots: u8,
    past: Past,
    place: impl Fn(u8) -> Option<u32>,
) -> Option<(u8, u8)> {
    if position >= LAST {
        return None;
    }
    let [a, b, c, d] = past.nodes;
    // How far behind this host, and the host below it: one number, for the sake of the verifier.
    let mut next = u64::MAX;
    for node in [slots, a, b, c, d] {
        if node != 0
            && node != THIS_NODE as u8
            && let Some(place) = place(node)
        {
            let behind = place.wrapping_sub(here) & 0xff;
            next = next.min(u64::from(behind) << 8 | u64::from(node));
        }
    }
    (next != u64::MAX).then_some((next as u8, position + 1))
}

#[cfg(test)]
mod tests {
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
        /// The host that is said to have the connection; 0: nobody says so.
        told: u8,
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
            marked.filter(|marked| known || *marked == LAST && self.owner != Some(here))
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
            let Belief { slots, past, told } = beliefs[here];
            // Only of hosts that it knows a host can say that they sent something.
            let from = sender.filter(|sender| trust.known[here][*sender]);
            let place = |node: u8| {
                let node = named(here, node);
                (Some(node) != from).then_some(node as u32)
            };
            let step = match trust.position(here, sender, mark::position(ttl)) {
                // As `forward`: the table's host, without a look at anything else.
                None if slots > 1 => Some((slots, mark::entry(ttl))),
                position => {
                    let position = position.unwrap_or(mark::entry(ttl));
                    let told = if told != 0 && place(told).is_some() { told } else { 0 };
                    straight(position, told)
                        .or_else(|| next(position, here as u32, slots, past, place))
                }
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
        let slot = (node.clone(), any::<[u8; DEPTH]>(), node.clone());
        (slot, node).prop_map(|((slots, nodes, wrap), told)| Belief {
            slots,
            // Not even that hosts are all different is taken for granted.
            past: Past { nodes: nodes.map(|node| node % (wrap + 1)) },
            told,
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
            let beliefs: Vec<_> = (0..HOSTS).map(|here| seen(here, &moves)).collect();
            for home in remembered(&moves) {
                let walk = walk(&beliefs, &Trust::full(), (first, 64), Some(home));
                prop_assert_eq!(walk.found, Some(home), "{:?}", walk.visited);
            }
        }

        #[test]
        fn where_it_has_said_it_is_it_is_found_though_nobody_remembers(
            slots in 0..HOSTS,
            home in 0..HOSTS,
            first in 0..HOSTS,
            forgotten in proptest::collection::vec(belief(), HOSTS),
        ) {
            // The host that the slot leads to knows what it was told, and may have other ideas.
            let mut beliefs = forgotten;
            for (here, belief) in beliefs.iter_mut().enumerate() {
                (belief.slots, belief.told) = (number(here, slots), 0);
            }
            beliefs[slots].told = number(slots, home);
            // A host that has a connection looks before it sends its packets away.
            let walk = walk(&beliefs, &Trust::full(), (first, 64), Some(home));
            prop_assert_eq!(walk.found, Some(home), "{:?}", walk.visited);
            prop_assert!(walk.visited.len() <= 3);
        }

        #[test]
        fn while_a_change_is_under_way_a_slot_is_no_hosts_loss(
            moves in proptest::collection::vec(0..=DEPTH, 2..12),
            behind in proptest::collection::vec(any::<bool>(), HOSTS),
            first in 0..HOSTS,
        ) {
            // As many hosts as slots remember ever had it; some have not seen the last move.
            let until = |here: usize| &moves[..moves.len() - usize::from(behind[here])];
            let beliefs: Vec<_> = (0..HOSTS).map(|here| seen(here, until(here))).collect();
            // What began by a newer table than the first host's is none of its connections.
            for home in remembered(until(first)) {
                let walk = walk(&beliefs, &Trust::full(), (first, 64), Some(home));
                prop_assert_eq!(walk.found, Some(home), "{:?}", walk.visited);
            }
        }
    }

    /// What a host believes of a slot whose moves it has seen.
    fn seen(here: usize, moves: &[usize]) -> Belief {
        let past = moves.windows(2).fold(Past::NONE, |past, pair| {
            past.after(number(here, pair[0]), number(here, pair[1]), |_| true)
        });
        Belief { slots: number(here, *moves.last().expect("one at least")), past, told: 0 }
    }

    /// The hosts whose connections are to be found.
    fn remembered(moves: &[usize]) -> Vec<usize> {
        let mut distinct = Vec::new();
        for host in moves.iter().rev() {
            if !distinct.contains(host) {
                distinct.push(*host);
            }
        }
        distinct.truncate(1 + DEPTH);
        distinct
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
    fn the_next_in_the_order_of_all_is_tried() {
        let past = Past { nodes: [7, 3, 9, 1] };
        let all = |node: u8| Some(u32::from(node));
        let but = |gone: u8| move |node: u8| (node != gone).then_some(node.into());
        assert_eq!(next(0, 1, 5, past, all), Some((3, 1)));
        assert_eq!(next(0, 1, 5, past, but(3)), Some((5, 1)));
        assert_eq!(next(1, 4, 5, past, all), Some((5, 2)));
        assert_eq!(next(2, 8, 5, past, all), Some((9, 3)));
        assert_eq!(next(3, 10, 5, past, all), Some((3, 4)), "behind the last comes the first");
        assert_eq!(next(3, 10, 0, Past::NONE, all), None);
        for position in LAST..POSITIONS {
            assert_eq!(next(position, 1, 5, past, all), None);
        }
    }
}

//! What slots remember when a table changes. The rule itself is [`Past::after`].

use kube_vip_common::history::Past;
use kube_vip_common::node::THIS_NODE;
use kube_vip_common::table::{SLOTS_PER_LINE, Slot};

/// A line of a table, as the kernel gives it.
pub(super) type Words = [u32; SLOTS_PER_LINE as usize];

/// Where the slots of a table led, and before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Before {
    nodes: Vec<u8>,
    pasts: Vec<Past>,
    /// Slots that led to this host at some time, however long ago.
    here: Vec<bool>,
}

impl Before {
    /// A table without a history: one that never was in the kernel.
    pub(super) fn of(slots: &[Slot]) -> Self {
        let nodes: Vec<_> = slots.iter().map(|slot| node(*slot)).collect();
        Self { pasts: vec![Past::NONE; nodes.len()], here: vec![false; nodes.len()], nodes }
    }

    /// The table in the kernel, if it has that many slots. Its layout is in
    /// [`kube_vip_common::table`].
    pub(super) fn read(lines: &[Words], slots: u32) -> Option<Self> {
        let [found, _, histories, ..] = *lines.first()?;
        let length = slots as usize;
        let words = |start: usize| {
            let rest = lines.get(start..)?;
            let words: Vec<u32> = rest.iter().flatten().take(length).copied().collect();
            (words.len() == length).then_some(words)
        };
        if found != slots {
            return None;
        }
        let slots: Vec<_> = words(1)?.into_iter().map(Slot::from_bits).collect();
        let nodes = slots.iter().map(|slot| node(*slot)).collect();
        let here = slots.iter().map(|slot| slot.was_here()).collect();
        let pasts = match histories as usize {
            0 => vec![Past::NONE; length],
            start => {
                let past = |word: u32| Past { nodes: word.to_ne_bytes() };
                words(start)?.into_iter().map(past).collect()
            }
        };
        Some(Self { nodes, pasts, here })
    }

    /// Whether any slot remembers a host that is not kept.
    pub(super) fn names_other_than(&self, kept: impl Fn(u8) -> bool) -> bool {
        self.pasts.iter().flat_map(|past| past.nodes).any(|node| node != 0 && !kept(node))
    }

    /// Gives the slots that follow their history. Returns it, or nothing where no slot has one.
    pub(super) fn follow(&self, slots: &mut [Slot], kept: impl Fn(u8) -> bool) -> Vec<Past> {
        let before = self.nodes.iter().zip(&self.pasts);
        let pasts: Vec<_> = slots
            .iter()
            .zip(before)
            .map(|(slot, (old, past))| past.after(*old, node(*slot), &kept))
            .collect();
        for ((slot, past), was_here) in slots.iter_mut().zip(&pasts).zip(&self.here) {
            // Connections outlive the history: as other hosts send here what they are told is here,
            // this one must not send it away.
            let was_here = past.names(THIS_NODE as u8) || *was_here && slot.node() != THIS_NODE;
            if past.is_some() || was_here {
                *slot = slot.with_history(was_here);
            }
        }
        if pasts.iter().any(|past| past.is_some()) { pasts } else { Vec::new() }
    }
}

/// A slot's host; hosts have numbers below 256.
fn node(slot: Slot) -> u8 {
    slot.node() as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sys::words;
    use super::super::tables::Table;
    use super::*;

    const HERE: u16 = THIS_NODE;

    fn slots(nodes: &[u16]) -> Vec<Slot> {
        let slot = |(backend, node): (u32, &u16)| match node {
            0 => Slot::NONE,
            node => Slot::new(backend, *node),
        };
        (7..).zip(nodes).map(slot).collect()
    }

    fn past(nodes: &[u8]) -> Past {
        let mut past = Past::NONE;
        past.nodes[..nodes.len()].copy_from_slice(nodes);
        past
    }

    #[test]
    fn slots_that_change_remember_and_say_so() {
        let before = Before::of(&slots(&[2, 2, HERE, 3, 0]));
        let mut now = slots(&[2, 3, 3, HERE, 2]);
        let pasts = before.follow(&mut now, |_| true);
        assert_eq!(pasts, [past(&[]), past(&[2]), past(&[1]), past(&[3]), past(&[])]);
        assert_eq!(
            [0, 1, 2, 3, 4].map(|n| (now[n].has_history(), now[n].was_here())),
            [(false, false), (true, false), (true, true), (true, false), (false, false)]
        );
        assert_eq!(now[1].backend(), 8);
    }

    #[test]
    fn nothing_is_kept_where_nothing_changed() {
        let before = Before::of(&slots(&[2, 3, 0]));
        let mut now = slots(&[2, 3, 0]);
        assert_eq!(before.follow(&mut now, |_| true), []);
        assert!(now.iter().all(|slot| !slot.has_history()));
    }

    #[test]
    fn hosts_that_are_gone_are_forgotten() {
        let pasts = vec![past(&[4, 3]), past(&[])];
        let before = Before { nodes: vec![2, 3], pasts, here: vec![false; 2] };
        assert!(before.names_other_than(|node| node != 4));
        assert!(!before.names_other_than(|node| node != 5));
        let mut now = slots(&[2, 3]);
        assert_eq!(before.follow(&mut now, |node| node != 4), [past(&[3]), past(&[])]);
        assert_eq!(before.follow(&mut now, |node| node == 2), []);
    }

    #[test]
    fn that_a_slot_was_here_outlives_its_history() {
        let mut kept = slots(&[HERE]);
        let mut before = Before::of(&kept);
        for other in 2..9 {
            kept = slots(&[other]);
            let pasts = before.follow(&mut kept, |_| true);
            assert!(kept[0].was_here() && kept[0].has_history(), "{other}");
            let table = Table { slots: kept.clone(), locals: vec![] };
            let lines: Vec<_> = table.lines(&pasts, 7).iter().map(words).collect();
            before = Before::read(&lines, 1).expect("a table");
        }
        assert!(before.pasts.iter().all(|past| !past.names(HERE as u8)));
        let mut back = slots(&[HERE]);
        before.follow(&mut back, |_| true);
        assert!(!back[0].was_here(), "it is here");
    }

    fn tables() -> impl Strategy<Value = Vec<Vec<u16>>> {
        (1usize..70).prop_flat_map(|slots| {
            let table = proptest::collection::vec(0u16..6, slots);
            proptest::collection::vec(table, 1..8)
        })
    }

    proptest! {
        #[test]
        fn what_the_kernel_has_is_what_was_written(tables in tables(), locals in 0usize..40) {
            let mut before = Before::of(&slots(&tables[0]));
            for nodes in &tables {
                let mut now = slots(nodes);
                let pasts = before.follow(&mut now, |_| true);
                let table = Table { slots: now.clone(), locals: vec![Slot::new(1, HERE); locals] };
                let lines: Vec<_> = table.lines(&pasts, 7).iter().map(words).collect();
                let read = Before::read(&lines, now.len() as u32).expect("a table");
                let expected = if pasts.is_empty() { Before::of(&now).pasts } else { pasts };
                prop_assert_eq!(&read.nodes, &now.iter().map(|slot| node(*slot)).collect::<Vec<_>>());
                prop_assert_eq!(&read.pasts, &expected);
                for ((slot, past), ever) in now.iter().zip(&expected).zip(&before.here) {
                    let was_here = past.names(HERE as u8) || *ever && slot.node() != HERE;
                    prop_assert_eq!(slot.has_history(), past.is_some() || was_here);
                    prop_assert_eq!(slot.was_here(), was_here);
                    prop_assert!(!past.names(node(*slot)), "a slot's own host is no history");
                }
                before = read;
            }
            prop_assert_eq!(Before::read(&[], 251), None);
        }
    }
}

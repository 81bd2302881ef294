//! A frontend's table, ready for the kernel.

use std::net::SocketAddr;

use kube_vip_common::history::Past;
use kube_vip_common::maglev::{self, Candidate};
use kube_vip_common::node::THIS_NODE;
use kube_vip_common::table::{
    Geometry, Line, MAX_MEMBERS, SLOTS_PER_LINE, Slot, TableSize, USUAL_LOCALS,
};

/// A backend as a table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its identity.
    pub address: SocketAddr,
    /// Its share.
    pub weight: u16,
    /// Index into `BACKENDS`.
    pub backend: u32,
    /// Index into `NODES`.
    pub node: u16,
}

/// Everything a table depends on: as long as it is the same, the table is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recipe {
    /// Number of slots.
    pub size: TableSize,
    /// Agreed among all hosts.
    pub seed: u64,
    /// The backends, in any order.
    pub entries: Vec<Entry>,
}

/// A table on its way into the kernel.
pub(super) struct Table {
    /// By the flow's hash.
    pub slots: Vec<Slot>,
    /// Backends here.
    pub locals: Vec<Slot>,
}

impl Recipe {
    /// Computes the table. Entries beyond what slots can name are left out.
    pub(super) fn table(&self) -> Table {
        let entries = &self.entries[..self.entries.len().min(MAX_MEMBERS)];
        let mut candidates: Vec<_> = (0..)
            .zip(entries)
            .map(|(tag, Entry { address, weight, .. })| {
                let (ip, port) = (address.ip().into(), address.port());
                Candidate::new(ip, port, *weight, tag, self.seed, self.size)
            })
            .collect();
        let mut indices = vec![0; self.size.slots() as usize];
        maglev::fill(&mut indices, &mut candidates);

        // The numbers in `indices` count in the order that `fill` left the candidates in.
        let slot_of = |candidate: &Candidate| {
            let Entry { backend, node, .. } = entries[candidate.tag as usize];
            Slot::new(backend, node)
        };
        let members: Vec<_> = candidates.iter().map(slot_of).collect();
        let slots = indices
            .iter()
            .map(|index| members.get(usize::from(*index)).copied().unwrap_or(Slot::NONE))
            .collect();
        let serves = |candidate: &&Candidate| {
            entries[candidate.tag as usize].node == THIS_NODE && candidate.weight > 0
        };
        let room = if self.size.is_usual() { USUAL_LOCALS } else { MAX_MEMBERS };
        let locals = candidates.iter().filter(serves).take(room).map(slot_of).collect();
        Table { slots, locals }
    }

    /// The index into `NODES` that each slot leads to; 0 where it leads nowhere.
    pub(super) fn nodes(&self) -> Vec<u8> {
        self.table().slots.iter().map(|slot| slot.node() as u8).collect()
    }

    /// The recipe of the others, as they used it before this host took part; nothing where this host
    /// takes none.
    pub(super) fn without_this_host(&self) -> Option<Self> {
        let elsewhere = self.entries.iter().filter(|entry| entry.node != THIS_NODE);
        let entries: Vec<_> = elsewhere.cloned().collect();
        (entries.len() < self.entries.len()).then_some(Self { entries, ..*self })
    }
}

impl Table {
    /// What the kernel gets, at the beginning of the table, with the histories of the slots if any has one; `changed` is the second
    /// in which it gets it.
    pub(super) fn lines(&self, pasts: &[Past], changed: u32) -> Vec<Line> {
        let Self { slots, locals } = self;
        let geometry = Geometry {
            slots: slots.len() as u32,
            locals: locals.len() as u32,
            histories: !pasts.is_empty(),
        };
        let mut lines =
            vec![Line { slots: [Slot::NONE; SLOTS_PER_LINE as usize] }; geometry.lines() as usize];
        geometry.write(&mut lines, slots, locals, pasts, changed);
        lines
    }
}

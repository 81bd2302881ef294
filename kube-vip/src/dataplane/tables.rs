//! A frontend's table, ready for the kernel.

use std::net::SocketAddr;

use kube_vip_common::maglev::{self, Candidate};
use kube_vip_common::node::THIS_NODE;
use kube_vip_common::table::{Geometry, Line, MAX_MEMBERS, Member, TableSize};

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

impl Recipe {
    /// Computes the table. Entries beyond what slots can name are left out.
    pub(super) fn lines(&self) -> Vec<Line> {
        let entries = &self.entries[..self.entries.len().min(MAX_MEMBERS)];
        let mut candidates: Vec<_> = (0..)
            .zip(entries)
            .map(|(tag, Entry { address, weight, .. })| {
                let (ip, port) = (address.ip().into(), address.port());
                Candidate::new(ip, port, *weight, tag, self.seed, self.size)
            })
            .collect();
        let mut slots = vec![0; self.size.slots() as usize];
        maglev::fill(&mut slots, &mut candidates);

        // Slots count in the order that `fill` left the candidates in.
        let members: Vec<_> = candidates
            .iter()
            .map(|candidate| {
                let Entry { backend, node, .. } = entries[candidate.tag as usize];
                Member { backend, node, flags: 0 }
            })
            .collect();
        let serving = |(index, candidate): (u16, &Candidate)| {
            let local = members[usize::from(index)].node == THIS_NODE && candidate.weight > 0;
            local.then_some(index)
        };
        let locals: Vec<_> = (0..).zip(&candidates).filter_map(serving).collect();
        let geometry = Geometry {
            slots: self.size.slots(),
            members: members.len() as u32,
            locals: locals.len() as u32,
        };
        let mut lines = vec![Line { slots: [0; 32] }; geometry.lines() as usize];
        geometry.write(&mut lines, &slots, &members, &locals);
        lines
    }
}

//! Slot → backend. The layout is in [`kube_vip_common::table`].

use aya_ebpf::btf_maps::Array;
use kube_vip_common::hash::FlowHash;
use kube_vip_common::table::{
    Geometry, INDEX_MASK, Line, MEMBERS_PER_LINE, Member, NO_MEMBER, SLOTS_PER_LINE, members_start,
};

use crate::maps::line;

type Table<const N: usize, const FLAGS: usize> = Array<Line, N, FLAGS>;

/// The backend in the packet's slot.
#[inline(always)]
pub(super) fn member<const N: usize, const FLAGS: usize>(
    table: &Table<N, FLAGS>,
    slots: u32,
    hash: FlowHash,
) -> Option<Member> {
    let slot = hash.slot(slots);
    let index = line::slot(table.get(1 + slot / SLOTS_PER_LINE)?, slot) & INDEX_MASK;
    if index == NO_MEMBER {
        return None;
    }
    nth(table, members_start(slots), index)
}

/// One of the backends on this host, where the slot's own is elsewhere.
#[inline(always)]
pub(super) fn local<const N: usize, const FLAGS: usize>(
    table: &Table<N, FLAGS>,
    hash: FlowHash,
) -> Option<Member> {
    let header = *line::header(table.get(0)?);
    let geometry =
        Geometry { slots: header.slots, members: header.members, locals: header.locals };
    if geometry.locals == 0 {
        return None;
    }
    let nth_local = hash.slot(geometry.locals);
    let at = table.get(geometry.locals_start() + nth_local / SLOTS_PER_LINE)?;
    nth(table, geometry.members_start(), line::slot(at, nth_local))
}

#[inline(always)]
fn nth<const N: usize, const FLAGS: usize>(
    table: &Table<N, FLAGS>,
    members_start: u32,
    index: u16,
) -> Option<Member> {
    let index = u32::from(index);
    table.get(members_start + index / MEMBERS_PER_LINE).map(|at| line::member(at, index))
}

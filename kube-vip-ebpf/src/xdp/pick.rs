//! Slot → backend. The layout is in [`kube_vip_common::table`].

use aya_ebpf::btf_maps::Array;
use kube_vip_common::hash::FlowHash;
use kube_vip_common::table::{
    Geometry, Header, INDEX_MASK, Line, MEMBERS_PER_LINE, Member, NO_MEMBER, SLOTS_PER_LINE,
    members_start,
};

use crate::maps::line;

type Table<const N: usize, const FLAGS: usize> = Array<Line, N, FLAGS>;

/// The backend in the packet's slot.
#[inline(always)]
pub(super) fn member<const N: usize, const FLAGS: usize>(
    table: &Table<N, FLAGS>,
    slots: u32,
    hash: FlowHash,
) -> Member {
    let slot = hash.slot(slots);
    match table.get(1 + slot / SLOTS_PER_LINE) {
        Some(at) => nth(table, members_start(slots), line::slot(at, slot) & INDEX_MASK),
        None => Member::NONE,
    }
}

/// One of the backends on this host, where the slot's own is elsewhere.
#[inline(always)]
pub(super) fn local<const N: usize, const FLAGS: usize>(
    table: &Table<N, FLAGS>,
    hash: FlowHash,
) -> Member {
    let Some(first) = table.get(0) else {
        return Member::NONE;
    };
    let Header { slots, members, locals, .. } = *line::header(first);
    let geometry = Geometry { slots, members, locals };
    let nth_local = hash.slot(locals);
    match table.get(geometry.locals_start() + nth_local / SLOTS_PER_LINE) {
        Some(at) => nth(table, geometry.members_start(), line::slot(at, nth_local)),
        None => Member::NONE,
    }
}

/// A slot without a backend has an index that no table is long enough for.
#[inline(always)]
fn nth<const N: usize, const FLAGS: usize>(
    table: &Table<N, FLAGS>,
    members_start: u32,
    index: u16,
) -> Member {
    let index = u32::from(index);
    match table.get(members_start + index / MEMBERS_PER_LINE) {
        Some(at) if index != NO_MEMBER.into() => line::member(at, index),
        _ => Member::NONE,
    }
}

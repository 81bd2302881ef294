//! Slot → backend. The layout is in [`kube_vip_common::table`].

use aya_ebpf::btf_maps::Array;
use kube_vip_common::hash::FlowHash;
use kube_vip_common::history::Past;
use kube_vip_common::table::{Geometry, Line, SLOTS_PER_LINE, Slot};

use crate::maps::line;

type Table<const N: usize, const FLAGS: usize> = Array<Line, N, FLAGS>;

/// The packet's slot.
#[inline(always)]
pub(crate) fn slot<const N: usize, const FLAGS: usize>(
    table: &Table<N, FLAGS>,
    slots: u32,
    hash: FlowHash,
) -> Slot {
    nth(table, 1, hash.slot(slots))
}

/// One of the backends on this host, where the slot's own is elsewhere.
#[inline(always)]
pub(super) fn local<const N: usize, const FLAGS: usize>(
    table: &Table<N, FLAGS>,
    hash: FlowHash,
) -> Slot {
    let Some(first) = table.get(0) else {
        return Slot::NONE;
    };
    let geometry = Geometry::of(line::header(first));
    if geometry.locals == 0 {
        return Slot::NONE;
    }
    nth(table, geometry.locals_start(), hash.slot(geometry.locals))
}

/// Whether the table has just changed.
#[inline(always)]
pub(super) fn is_settling<const N: usize, const FLAGS: usize>(
    table: &Table<N, FLAGS>,
    now: u32,
) -> bool {
    table.get(0).is_some_and(|first| line::header(first).is_settling(now))
}

/// The hosts that the packet's slot led to before.
#[inline(always)]
pub(super) fn past<const N: usize, const FLAGS: usize>(
    table: &Table<N, FLAGS>,
    slots: u32,
    hash: FlowHash,
) -> Past {
    let start = table.get(0).map_or(0, |first| line::header(first).histories);
    if start == 0 {
        return Past::NONE;
    }
    let index = hash.slot(slots);
    match table.get(start + index / SLOTS_PER_LINE) {
        Some(at) => line::past(at, index),
        None => Past::NONE,
    }
}

#[inline(always)]
fn nth<const N: usize, const FLAGS: usize>(
    table: &Table<N, FLAGS>,
    start: u32,
    index: u32,
) -> Slot {
    match table.get(start + index / SLOTS_PER_LINE) {
        Some(at) => line::slot(at, index),
        None => Slot::NONE,
    }
}

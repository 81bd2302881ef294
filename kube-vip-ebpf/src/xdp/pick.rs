//! Slot → backend. The layout is in [`kube_vip_common::table`].

use kube_vip_common::frontend::Frontend;
use kube_vip_common::hash::FlowHash;
use kube_vip_common::history::Past;
use kube_vip_common::table::{Geometry, SLOTS_PER_LINE, Slot};

use crate::maps::{line, table_line};

/// The packet's slot.
#[inline(always)]
pub(crate) fn slot(frontend: &Frontend, hash: FlowHash) -> Slot {
    nth(frontend, 1, hash.slot(frontend.slots))
}

/// One of the backends on this host, where the slot's own is elsewhere.
#[inline(always)]
pub(super) fn local(frontend: &Frontend, hash: FlowHash) -> Slot {
    let Some(first) = table_line(frontend, 0) else {
        return Slot::NONE;
    };
    let geometry = Geometry::of(line::header(first));
    if geometry.locals == 0 {
        return Slot::NONE;
    }
    nth(frontend, geometry.locals_start(), hash.slot(geometry.locals))
}

/// Whether the table has just changed.
#[inline(always)]
pub(super) fn is_settling(frontend: &Frontend, now: u32) -> bool {
    table_line(frontend, 0).is_some_and(|first| line::header(first).is_settling(now))
}

/// The hosts that the packet's slot led to before.
#[inline(always)]
pub(super) fn past(frontend: &Frontend, hash: FlowHash) -> Past {
    let start = table_line(frontend, 0).map_or(0, |first| line::header(first).histories);
    if start == 0 {
        return Past::NONE;
    }
    let index = hash.slot(frontend.slots);
    match table_line(frontend, start + index / SLOTS_PER_LINE) {
        Some(at) => line::past(at, index),
        None => Past::NONE,
    }
}

#[inline(always)]
fn nth(frontend: &Frontend, start: u32, index: u32) -> Slot {
    match table_line(frontend, start + index / SLOTS_PER_LINE) {
        Some(at) => line::slot(at, index),
        None => Slot::NONE,
    }
}

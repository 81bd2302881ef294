//! Counters. Each CPU has its own, so adding needs no lock.

use aya_ebpf::btf_maps::PerCpuArray;
use kube_vip_common::stats::{BackendTraffic, Count, Reason, Traffic};

use crate::maps::{BACKEND_STATS, FRONTEND_STATS, STATS};

/// Counts one packet for a reason.
#[inline(always)]
pub fn reason(reason: Reason) {
    numbered(reason as u32);
}

/// Counts one packet for the reason with that number.
#[inline(always)]
pub fn numbered(reason: u32) {
    next(&STATS, reason);
}

/// Counts one packet more and returns how many there were before on this CPU.
#[inline(always)]
pub fn next<const N: usize>(counts: &PerCpuArray<Count, N>, index: u32) -> u64 {
    let Some(count) = counts.get_ptr_mut(index) else {
        return 0;
    };
    // SAFETY: this CPU's own value; XDP and TC run with migration and bottom halves off, so
    // nothing comes between.
    let count = unsafe { &mut *count };
    let before = count.packets;
    count.packets += 1;
    before
}

/// Counts one system call of a process for a reason that no packet is counted for.
///
/// Another process may take the CPU in the middle of it and count too; then one of the two is not
/// counted. Rust has no addition in one instruction for this target.
#[inline(always)]
pub fn call(reason: Reason) {
    if let Some(count) = STATS.get_ptr_mut(reason as u32) {
        // SAFETY: valid while the program runs, and whatever is read or written is a number.
        unsafe {
            let packets = &raw mut (*count).packets;
            packets.write_volatile(packets.read_volatile().wrapping_add(1));
        }
    }
}

/// Counts what arrived for a frontend.
#[inline(always)]
pub fn frontend(id: u32, bytes: u64) {
    if let Some(traffic) = FRONTEND_STATS.get_ptr_mut(id) {
        // SAFETY: as in `reason`.
        add(unsafe { &mut *traffic }, 1, bytes);
    }
}

/// Counts what went to a backend.
#[inline(always)]
pub fn sent(id: u32, bytes: u64) {
    if let Some(traffic) = backend(id) {
        add(&mut traffic.sent, 1, bytes);
    }
}

/// Counts what a backend here answered.
#[inline(always)]
pub fn replied(id: u32, packets: u64, bytes: u64) {
    if let Some(traffic) = backend(id) {
        add(&mut traffic.replies, packets, bytes);
    }
}

#[inline(always)]
fn backend(id: u32) -> Option<&'static mut BackendTraffic> {
    // SAFETY: as in `reason`; the reference does not outlive its caller here.
    BACKEND_STATS.get_ptr_mut(id).map(|traffic| unsafe { &mut *traffic })
}

#[inline(always)]
fn add(traffic: &mut Traffic, packets: u64, bytes: u64) {
    traffic.packets += packets;
    traffic.bytes += bytes;
}

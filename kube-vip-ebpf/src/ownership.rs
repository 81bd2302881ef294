//! Whether this host owns a VIP now. The deadline is read with the clock at every question, so that
//! ownership ends on time without any code of the agent's running.

use kube_vip_common::vip::Vip;

use crate::helpers::boot_time;
use crate::maps::LEASES;

/// Whether this host owns the VIP at this moment.
#[inline(always)]
pub fn owned(vip: &Vip) -> bool {
    match LEASES.get(vip.lease) {
        // Without a lease there is no need to ask the clock.
        Some(lease) if lease.until != 0 => lease.holds_at(boot_time()),
        _ => false,
    }
}

/// Whether this host has owned the VIP for less than a second.
#[inline(always)]
pub fn is_new(vip: &Vip) -> bool {
    let Some(lease) = LEASES.get(vip.lease).filter(|lease| lease.until != 0) else {
        return false;
    };
    boot_time().wrapping_sub(lease.since) < NEW
}

/// Nanoseconds.
const NEW: u64 = 1_000_000_000;

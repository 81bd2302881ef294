//! Tells the agent of rare things, at most one of a kind per interval.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::address::{Address, MacAddress};
use kube_vip_common::event::{Event, EventTime, INTERVAL, PORTS_EXHAUSTED};
use kube_vip_common::stats::Reason;

use crate::helpers::boot_time;
use crate::maps::{EVENT_TIMES, EVENTS};
use crate::{count, log};

/// Somebody at `mac` claims the VIP `address`.
#[inline(always)]
pub fn conflict(ctx: &XdpContext, kind: u32, address: Address, mac: [u8; 6]) {
    count::reason(Reason::AddressConflict);
    if tell(ctx, kind, address, mac) {
        log::rare(ctx, Reason::AddressConflict, mac);
    }
}

/// No port was found for another translated connection to the backend at `address`.
#[inline(always)]
pub fn ports_exhausted(ctx: &XdpContext, address: Address) {
    count::reason(Reason::NatPortsExhausted);
    tell(ctx, PORTS_EXHAUSTED, address, [0; 6]);
}

/// Whether the kind was due.
#[inline(always)]
fn tell(ctx: &XdpContext, kind: u32, address: Address, mac: [u8; 6]) -> bool {
    let time = boot_time();
    // Two CPUs may both find the interval over: two events instead of one do no harm.
    let due = EVENT_TIMES.get(kind).is_some_and(|last| time.wrapping_sub(last.time) >= INTERVAL);
    if !due || EVENT_TIMES.set(kind, EventTime { time }, 0).is_err() {
        count::reason(Reason::EventSuppressed);
        return false;
    }
    let ifindex = ctx.ingress_ifindex() as u32;
    let event = Event { time, kind, ifindex, address, mac: MacAddress::new(mac), pad: 0 };
    if EVENTS.output(event, 0).is_err() {
        count::reason(Reason::EventSuppressed);
    }
    true
}

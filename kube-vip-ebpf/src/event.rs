//! Tells the agent of rare things, at most one of a kind per interval.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::address::{Address, MacAddress};
use kube_vip_common::event::{Event, EventTime, INTERVAL};
use kube_vip_common::stats::Reason;

use crate::helpers::boot_time;
use crate::maps::{EVENT_TIMES, EVENTS};
use crate::{count, log};

/// Somebody at `mac` claims the VIP `address`.
#[inline(always)]
pub fn conflict(ctx: &XdpContext, kind: u32, address: Address, mac: [u8; 6]) {
    count::reason(Reason::AddressConflict);
    let time = boot_time();
    // Two CPUs may both find the interval over: two events instead of one do no harm.
    let due = EVENT_TIMES.get(kind).is_some_and(|last| time.wrapping_sub(last.time) >= INTERVAL);
    if !due || EVENT_TIMES.set(kind, EventTime { time }, 0).is_err() {
        count::reason(Reason::EventSuppressed);
        return;
    }
    let ifindex = ctx.ingress_ifindex() as u32;
    let event = Event { time, kind, ifindex, address, mac: MacAddress::new(mac), pad: 0 };
    if EVENTS.output(event, 0).is_err() {
        count::reason(Reason::EventSuppressed);
    }
    log::rare(ctx, Reason::AddressConflict, mac);
}

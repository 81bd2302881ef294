//! The fence: no ARP and no neighbour discovery leaves in the name of a VIP that is not owned now,
//! whoever sends it: an agent thawed in the middle of its burst, the kernel resolving a next hop.

use aya_ebpf::programs::TcContext;
use kube_vip_common::stats::Reason;
use kube_vip_common::vip::VIRTUAL;
use network_types::arp::ArpHdr;
use network_types::ip::Ipv6Hdr;

use super::Action;
use crate::family::{Family, Halves, V4, V6, protocol};
use crate::frame::{Both, Cursor};
use crate::{count, maps, ownership, stage};

const ROUTER_SOLICITATION: u8 = 133;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// ARP of any kind with a VIP as sender, `network` bytes into the frame.
#[inline(never)]
pub(super) fn arp(ctx: TcContext, network: usize) -> Action {
    let mut cursor = Cursor::new(&ctx);
    cursor.skip(network & 0xff);
    let Some(arp) = cursor.take::<ArpHdr>() else {
        return Action::Next;
    };
    judge::<V4>(arp.spa, Reason::ArpFenced)
}

/// Whether the packet is one of the messages that name a sender or target for caches.
#[inline(always)]
pub(super) fn is_discovery(cursor: &Cursor<'_>) -> bool {
    let packet = cursor.peek::<Both<Ipv6Hdr, u8>>();
    packet.is_some_and(|Both(ip, kind)| {
        ip.next_hdr == protocol::ICMPV6
            && matches!(kind, ROUTER_SOLICITATION | SOLICITATION | ADVERTISEMENT)
    })
}

/// Neighbour advertisements for a VIP; solicitations, of routers too, that a VIP sends.
#[inline(never)]
pub(super) fn discovery(ctx: TcContext, network: usize) -> Action {
    let mut cursor = Cursor::new(&ctx);
    cursor.skip(network & 0xff);
    let (Some(ip), Some(head)) = (cursor.take::<Ipv6Hdr>(), cursor.take::<[u8; 8]>()) else {
        return Action::Next;
    };
    if head[0] == ADVERTISEMENT
        && let Some(target) = cursor.take::<[u8; 16]>()
        && judge::<V6>(Halves::of(target), Reason::NdFenced) == Action::Drop
    {
        return Action::Drop;
    }
    judge::<V6>(V6::source(ip), Reason::NdFenced)
}

#[inline(always)]
fn judge<F: Family>(sender: F::Bytes, reason: Reason) -> Action {
    match maps::vip(&F::address(sender)).filter(|vip| vip.flags & VIRTUAL != 0) {
        Some(vip) if !ownership::owned(vip) && stage::abandoned() == 0 => {
            count::reason(reason);
            Action::Drop
        }
        _ => Action::Next,
    }
}

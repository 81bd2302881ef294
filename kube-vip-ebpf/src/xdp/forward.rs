//! To a peer on this L2: new Ethernet addresses and the mark, nothing else, and no state.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::mark;
use kube_vip_common::node::Hop;
use kube_vip_common::stats::Reason;
use kube_vip_common::table::Slot;
use network_types::eth::EthHdr;

use super::{Action, Verdict};
use crate::family::Family;
use crate::frame::length;
use crate::maps::NODES;
use crate::{count, helpers, log};

#[inline(always)]
pub(super) fn handle<F: Family>(
    ctx: &XdpContext,
    ethernet: &mut EthHdr,
    ip: &mut F::Header,
    slot: Slot,
) -> Verdict {
    let hop = NODES.get(slot.node().into()).map(F::hop);
    let Some(hop) = hop.filter(|hop| hop.ifindex != 0) else {
        return dropped(ctx, Reason::NoNextHop, ethernet.src_addr);
    };
    let stays = hop.ifindex == ctx.ingress_ifindex() as u32;
    if stays && ethernet.dst_addr != hop.source_mac.octets {
        // For another host, and only flooded here: it forwards it itself.
        return Verdict::Done(Action::Pass);
    }
    if hop.mac.octets == ethernet.src_addr {
        return dropped(ctx, Reason::BackToSender, ethernet.src_addr);
    }
    count::sent(slot.backend(), length(ctx));
    towards::<F>(ctx, ethernet, ip, hop, 0)
}

/// Out to that host, which gets the packet at that position.
#[inline(always)]
pub(super) fn towards<F: Family>(
    ctx: &XdpContext,
    ethernet: &mut EthHdr,
    ip: &mut F::Header,
    hop: &Hop,
    position: u8,
) -> Verdict {
    ethernet.dst_addr = hop.mac.octets;
    ethernet.src_addr = hop.source_mac.octets;
    F::set_ttl(ip, mark::ttl(position));
    if hop.ifindex == ctx.ingress_ifindex() as u32 {
        return Verdict::Done(Action::Transmit);
    }
    helpers::redirect(hop.ifindex);
    Verdict::Done(Action::Redirect)
}

#[inline(always)]
fn dropped(ctx: &XdpContext, reason: Reason, mac: [u8; 6]) -> Verdict {
    count::reason(reason);
    log::rare(ctx, reason, mac);
    Verdict::Done(Action::Drop)
}

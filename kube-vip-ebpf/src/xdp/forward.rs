//! To a peer on this L2: new Ethernet addresses and the mark, nothing else, and no state.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::mark;
use kube_vip_common::stats::Reason;
use kube_vip_common::table::Slot;
use network_types::eth::EthHdr;

use super::{Action, Verdict};
use crate::family::Family;
use crate::frame::length;
use crate::maps::NODES;
use crate::{count, log};

#[inline(always)]
pub(super) fn handle<F: Family>(
    ctx: &XdpContext,
    ethernet: &mut EthHdr,
    ip: &mut F::Header,
    slot: Slot,
) -> Verdict {
    let node = NODES.get(slot.node().into());
    let Some(node) = node.filter(|node| node.ifindex != 0) else {
        return dropped(ctx, Reason::NoNextHop, ethernet.src_addr);
    };
    let stays = node.ifindex == ctx.ingress_ifindex() as u32;
    if stays && ethernet.dst_addr != node.source_mac.octets {
        // For another host, and only flooded here: it forwards it itself.
        return Verdict::Done(Action::Pass);
    }
    if node.mac.octets == ethernet.src_addr {
        return dropped(ctx, Reason::BackToSender, ethernet.src_addr);
    }
    ethernet.dst_addr = node.mac.octets;
    ethernet.src_addr = node.source_mac.octets;
    F::set_ttl(ip, mark::ttl(0));
    count::sent(slot.backend(), length(ctx));
    if stays {
        return Verdict::Done(Action::Transmit);
    }
    Verdict::Redirect(node.ifindex)
}

#[inline(always)]
fn dropped(ctx: &XdpContext, reason: Reason, mac: [u8; 6]) -> Verdict {
    count::reason(reason);
    log::rare(ctx, reason, mac);
    Verdict::Done(Action::Drop)
}

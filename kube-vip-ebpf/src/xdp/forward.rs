//! To a peer. On this L2: new Ethernet addresses and the mark, nothing else, and no state. Behind a
//! router a stage of its own does more.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::mark;
use kube_vip_common::node::{Hop, LINK, NAT, Node};
use kube_vip_common::stats::Reason;
use kube_vip_common::table::Slot;
use network_types::eth::EthHdr;

use super::{Action, Chosen, Verdict, is_anothers};
use crate::family::Family;
use crate::frame::length;
use crate::maps::NODES;
use crate::{count, log};

/// What a stage of its own sends on.
#[derive(Clone, Copy)]
pub struct Onward {
    /// Where to.
    pub slot: Slot,
    /// The position it gets.
    pub position: u8,
}

impl Onward {
    /// As a number of 56 bits: the slot below, the position above.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        self.slot.to_bits() as u64 | (self.position as u64) << 32
    }

    /// Out of the number.
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self { slot: Slot::from_bits(word as u32), position: (word >> 32) as u8 }
    }
}

#[inline(always)]
pub(super) fn handle<F: Family>(
    ctx: &XdpContext,
    ethernet: &mut EthHdr,
    ip: &mut F::Header,
    chosen: Chosen,
) -> Verdict {
    let node = NODES.get(chosen.slot.node().into());
    let Some(node) = node.filter(|node| F::hop(node).ifindex != 0) else {
        return dropped(ctx, Reason::NoNextHop, ethernet.src_addr);
    };
    let hop = F::hop(node);
    // A client that sends with the node's own Ethernet address is there, whatever its address.
    let is_there = hop.way == LINK && hop.mac.octets == ethernet.src_addr;
    if hop.way == NAT || is_there || is_client_of::<F>(ip, node) {
        return Verdict::Nat(chosen);
    }
    to::<F>(ctx, ethernet, ip, hop, chosen.slot)
}

/// Whether a packet's client is on that node: the backend's reply would never leave it.
#[inline(always)]
pub(super) fn is_client_of<F: Family>(ip: &F::Header, node: &Node) -> bool {
    let client = F::source(ip);
    client == F::of_node(node) || F::is_pod_of(node, client)
}

/// To the node in that slot, which is reached like this.
#[inline(always)]
pub(super) fn to<F: Family>(
    ctx: &XdpContext,
    ethernet: &mut EthHdr,
    ip: &mut F::Header,
    hop: &Hop,
    slot: Slot,
) -> Verdict {
    let stays = hop.ifindex == ctx.ingress_ifindex() as u32;
    // For another host, and only flooded here: it forwards it itself.
    let flooded =
        if stays { ethernet.dst_addr != hop.source_mac.octets } else { is_anothers(ctx, ethernet) };
    if flooded {
        return Verdict::Done(Action::Pass);
    }
    if hop.way != LINK {
        return Verdict::Tunnel(Onward { slot, position: mark::entry(F::ttl(ip)) });
    }
    if hop.mac.octets == ethernet.src_addr {
        return dropped(ctx, Reason::BackToSender, ethernet.src_addr);
    }
    count::sent(slot.backend(), length(ctx, F::length(ip)));
    towards::<F>(ctx, ethernet, ip, hop, mark::entry(F::ttl(ip)))
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
    out(ctx, hop)
}

/// Out where the next hop is.
#[inline(always)]
pub(super) fn out(ctx: &XdpContext, hop: &Hop) -> Verdict {
    if hop.ifindex == ctx.ingress_ifindex() as u32 {
        return Verdict::Done(Action::Transmit);
    }
    Verdict::Redirect(hop.ifindex)
}

#[inline(always)]
pub(super) fn dropped(ctx: &XdpContext, reason: Reason, mac: [u8; 6]) -> Verdict {
    count::reason(reason);
    log::rare(ctx, reason, mac);
    Verdict::Done(Action::Drop)
}

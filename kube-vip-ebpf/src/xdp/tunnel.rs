//! To a peer behind a router: the packet as it is, mark included, inside another one between the
//! two hosts (RFC 2003 for IPv4, RFC 2473 for IPv6). No state.
//!
//! Nothing goes back to the peer it came from: what comes out of a tunnel is believed to be an agent's,
//! and of those only second chance sends any on, which leaves out who sent it.
//!
//! The outer header says nothing about congestion: what RFC 6040 §4.3 calls compatibility mode, in
//! which the other end has nothing to carry over.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::mark;
use kube_vip_common::node::{LINK, THIS_NODE};
use kube_vip_common::stats::Reason;
use network_types::eth::EthHdr;

use super::forward::{self, Onward};
use super::{Refusal, Verdict};
use crate::family::Family;
use crate::frame::{Cursor, length};
use crate::maps::NODES;
use crate::{count, helpers};

#[inline(always)]
pub(crate) fn stage<F: Family>(mut ctx: XdpContext, word: u64) -> u64 {
    let verdict = handle::<F>(&mut ctx, Onward::unpack(word));
    verdict.unwrap_or_else(|| forward::dropped(&ctx, Reason::TunnelFailed, [0; 6])).pack()
}

/// Nothing where the packet is not what the caller saw, or there is no room for the outer header.
#[inline(always)]
fn handle<F: Family>(ctx: &mut XdpContext, Onward { slot, position }: Onward) -> Option<Verdict> {
    let mut cursor = Cursor::new(ctx);
    let ethernet = cursor.take::<EthHdr>()?;
    let ip = cursor.take::<F::Header>()?;
    let (here, peer) = (NODES.get(THIS_NODE.into())?, NODES.get(slot.node().into())?);
    let hop = F::hop(peer);
    // A fragment goes where its first went, and the way there may have changed.
    if hop.way == LINK || hop.ifindex == 0 {
        return Some(forward::dropped(ctx, Reason::NoNextHop, ethernet.src_addr));
    }
    let (inner, room) = (F::length(ip), size_of::<F::Header>() as u32);
    if inner + room > hop.mtu {
        // Not fragmented, whatever the sender allows: it does that better, being told (RFC 2003
        // §5.1, RFC 2473 §7.1).
        return Some(Verdict::Refuse(Refusal::TooBig(hop.mtu.saturating_sub(room) as u16)));
    }
    let ether_type = ethernet.ether_type;
    F::set_ttl(ip, mark::ttl(position));
    count::sent(slot.backend(), length(ctx, inner));

    helpers::grow_head(ctx, room as i32)?;
    let mut cursor = Cursor::new(ctx);
    let ethernet = cursor.take::<EthHdr>()?;
    let outer = cursor.take::<F::Header>()?;
    // Field by field: a whole one would be put together on the stack, where the verifier wants words
    // to be aligned.
    ethernet.dst_addr = hop.mac.octets;
    ethernet.src_addr = hop.source_mac.octets;
    ethernet.ether_type = ether_type;
    F::write(outer, F::of_node(here), F::of_node(peer), F::ENCAPSULATED, inner as u16);
    count::reason(Reason::Tunnelled);
    Some(forward::out(ctx, hop))
}

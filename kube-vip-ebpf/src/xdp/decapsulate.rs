//! What comes out of a tunnel: an agent's frame like any other, once the outer header is gone.
//!
//! Hosts may have other tunnels between them (overlay networks by IPIP among them), so only what
//! bears the mark and is for an address of ours is taken for ours.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::stats::Reason;
use kube_vip_common::vip::OWN;
use kube_vip_common::{mark, node};
use network_types::eth::EthHdr;

use super::{Action, Verdict, is_anothers, judge};
use crate::family::{Family, Payload};
use crate::frame::Cursor;
use crate::{count, helpers, log, maps};

#[inline(always)]
pub(crate) fn stage<F: Family>(mut ctx: XdpContext, _: u64) -> u64 {
    let verdict = handle::<F>(&mut ctx).unwrap_or(Verdict::Done(Action::Drop));
    verdict.pack()
}

/// Nothing where the frame has changed under our hands.
#[inline(always)]
fn handle<F: Family>(ctx: &mut XdpContext) -> Option<Verdict> {
    const NOT_OURS: Option<Verdict> = Some(Verdict::Done(Action::Pass));
    let mut cursor = Cursor::new(ctx);
    let ethernet = *cursor.take::<EthHdr>()?;
    let outer = cursor.take::<F::Header>()?;
    let Some(vip) = maps::vip(&F::address(F::destination(outer))) else {
        return NOT_OURS;
    };
    if vip.flags & OWN == 0 {
        return Some(Verdict::Unbalanced);
    }
    let whole = F::payload(ctx, outer, &mut cursor) == Payload::Protocol(F::ENCAPSULATED);
    // Agents send no options and no extension headers.
    let plain = cursor.offset(ctx) == size_of::<EthHdr>() + size_of::<F::Header>();
    let Some(inner) = cursor.take::<F::Header>() else {
        return NOT_OURS;
    };
    let ours = mark::position(F::ttl(inner)).is_some()
        && maps::vip(&F::address(F::destination(inner))).is_some();
    if !(plain && whole && ours) || is_anothers(ctx, &ethernet) {
        return NOT_OURS;
    }
    let Some(sender) = maps::peer_at(&F::address(F::source(outer))) else {
        count::reason(Reason::TunnelRefused);
        log::rare(ctx, Reason::TunnelRefused, ethernet.src_addr);
        return Some(Verdict::Done(Action::Drop));
    };

    helpers::grow_head(ctx, -(size_of::<F::Header>() as i32))?;
    let mut cursor = Cursor::new(ctx);
    let stripped = cursor.take::<EthHdr>()?;
    // The router's address would say nothing of who sent it; this one is in `PEERS`.
    stripped.dst_addr = ethernet.dst_addr;
    stripped.src_addr = node::tunnelled(sender).octets;
    stripped.ether_type = ethernet.ether_type;
    count::reason(Reason::Decapsulated);
    Some(match judge::<F>(ctx, stripped, cursor) {
        // No agent puts one tunnel into another.
        Verdict::Decapsulate => Verdict::Unbalanced,
        verdict => verdict,
    })
}

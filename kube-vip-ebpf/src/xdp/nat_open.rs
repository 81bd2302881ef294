//! A flow that is to be translated begins: the VIP's owner seeks a port for it; any other host hands
//! its packet to the owner.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::node::THIS_NODE;
use kube_vip_common::stats::Reason;
use network_types::eth::EthHdr;

use super::nat::{link, unfit};
use super::{Action, Chosen, Verdict, forward, is_anothers, limited, transport};
use crate::family::{Family, protocol};
use crate::frame::Cursor;
use crate::maps::{self, NODES};
use crate::{count, log};

#[inline(always)]
pub(crate) fn stage<F: Family>(ctx: XdpContext, word: u64) -> u64 {
    let verdict = handle::<F>(&ctx, Chosen::unpack(word));
    verdict.unwrap_or(Verdict::Done(Action::Drop)).pack()
}

/// Nothing where the packet is not what the caller saw.
#[inline(always)]
fn handle<F: Family>(ctx: &XdpContext, chosen: Chosen) -> Option<Verdict> {
    let mut cursor = Cursor::new(ctx);
    let ethernet = cursor.take::<EthHdr>()?;
    let ip = cursor.take::<F::Header>()?;
    if is_anothers(ctx, ethernet) {
        return Some(Verdict::Done(Action::Pass));
    }
    let owner = maps::vip(&F::address(F::destination(ip)))?.owner;
    if owner != THIS_NODE.into() {
        return Some(hand_over::<F>(ctx, ethernet, ip, chosen, owner));
    }
    let there = link(F::hop(NODES.get(chosen.slot.node().into())?));
    if there.ifindex == 0 {
        return Some(dropped(ctx, Reason::NoNextHop, ethernet));
    }
    if let Some(verdict) = unfit::<F>(ctx, ethernet, ip, &there) {
        return Some(verdict);
    }
    if let Some(protocol @ protocol::UDP) = F::payload(ctx, ip, &mut cursor).protocol()
        && let Some(transport) = transport::parse(&mut cursor, protocol)
        && limited::exceeded::<F>(ip, transport.ports)
    {
        return Some(Verdict::Done(Action::Drop));
    }
    Some(Verdict::NatSeek(chosen))
}

/// Only the owner gets the replies, so only it may translate.
#[inline(always)]
fn hand_over<F: Family>(
    ctx: &XdpContext,
    ethernet: &mut EthHdr,
    ip: &mut F::Header,
    chosen: Chosen,
    owner: u32,
) -> Verdict {
    if chosen.from_agent() {
        return dropped(ctx, Reason::NatNotOwner, ethernet);
    }
    match NODES.get(owner).map(F::hop).filter(|hop| hop.ifindex != 0) {
        Some(hop) => forward::to::<F>(ctx, ethernet, ip, hop, chosen.slot.with_node(owner)),
        None => dropped(ctx, Reason::NatNoOwner, ethernet),
    }
}

#[inline(always)]
fn dropped(ctx: &XdpContext, reason: Reason, ethernet: &EthHdr) -> Verdict {
    count::reason(reason);
    log::rare(ctx, reason, ethernet.src_addr);
    Verdict::Done(Action::Drop)
}

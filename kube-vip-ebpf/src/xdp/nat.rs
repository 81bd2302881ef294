//! A packet for a backend without agent, or for one on its client's own host: both addresses and
//! both ports are rewritten, so that the reply comes back to the owner. The way of a reply is
//! [`nat_reply`](super::nat_reply).
//!
//! Here a flow that is known goes on; one that begins is [`nat_open`](super::nat_open)'s.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::mark::{self, ORDINARY_TTL};
use kube_vip_common::nat;
use kube_vip_common::node::Hop;
use kube_vip_common::settings::REPLICATES;
use kube_vip_common::stats::Reason;
use network_types::eth::EthHdr;

use super::transport::Transport;
use super::{Action, Chosen, Verdict, deliver, is_anothers, is_unicast, locate};
use crate::count;
use crate::family::{Family, Life, Link, Ports, Translation};
use crate::frame::{Cursor, addresses, addresses_of, is_for, length, set_addresses, turned};
use crate::maps::{self, NODES, SETTINGS};
use crate::stage::Stages;

#[inline(always)]
pub(crate) fn stage<F: Family + Stages>(ctx: XdpContext, word: u64) -> u64 {
    let verdict = handle::<F>(&ctx, Chosen::unpack(word), Verdict::is_stray(word));
    verdict.unwrap_or(Verdict::Done(Action::Drop)).pack()
}

/// Nothing where the packet is not what the caller saw.
#[inline(always)]
fn handle<F: Family + Stages>(ctx: &XdpContext, chosen: Chosen, stray: bool) -> Option<Verdict> {
    let transport = locate::transport::<F>(ctx)?;
    let mut cursor = Cursor::new(ctx);
    let ethernet = cursor.take::<EthHdr>()?;
    let ip = cursor.take::<F::Header>()?;
    let flow = F::tuple(F::source(ip), F::destination(ip), transport.ports);
    let goes_on = transport.is_tcp() && !transport.opens;
    if let Some(to) = F::translation(&flow) {
        if is_over::<F>(&to, &transport) {
            forget::<F>(&flow, &to);
        } else if let Some(verdict) =
            known::<F>(ctx, ethernet, ip, transport, &flow, &to, Some(chosen))
        {
            return Some(verdict);
        }
    }
    Some(if stray || goes_on { Verdict::Lost(chosen) } else { Verdict::NatOpen(chosen) })
}

/// Whether a packet cannot belong to the connection that its tuple had.
#[inline(always)]
fn is_over<F: Family>(to: &Translation<F::Bytes>, transport: &Transport<'_>) -> bool {
    let Life { state, seen } = to.life;
    let tcp = transport.is_tcp();
    // TCP stays where it is until a SYN; UDP has no end of its own.
    if tcp && !transport.opens {
        return false;
    }
    tcp && nat::has_ended(state)
        || nat::is_idle(seen, maps::clock(), state, tcp)
        || !deliver::is_backend::<F>(to.backend, to.destination, to.ports.destination)
}

/// Translates a packet of a flow that is known; nothing where it is not whole any more. `chosen` is
/// what balancing says of a packet to the backend.
#[inline(always)]
pub(super) fn known<F: Family>(
    ctx: &XdpContext,
    ethernet: &mut EthHdr,
    ip: &mut F::Header,
    transport: Transport<'_>,
    flow: &F::Tuple,
    to: &Translation<F::Bytes>,
    chosen: Option<Chosen>,
) -> Option<Verdict> {
    if let Some(verdict) = unfit::<F>(ctx, ethernet, ip, &to.link) {
        return Some(verdict);
    }
    let state = nat::next(to.life.state, to.reply, transport.signs);
    let life = Life { state, seen: maps::clock() };
    if life != to.life {
        // Once a second, and when the connection comes a step further.
        let other = other_way::<F>(to, transport.ports.protocol);
        let is_whole = F::nat_answers(&other, flow);
        if !is_whole {
            F::nat_remove(flow);
            return None;
        }
        let (there, back) = match chosen {
            Some(chosen) => (hop::<F>(chosen, to.backend), client_link(ctx, ethernet, chosen)),
            None => (Link::UNKNOWN, Link::UNKNOWN),
        };
        F::nat_update(flow, life, there);
        F::nat_update(&other, life, back);
        // A second more is nothing to tell of.
        if state != to.life.state {
            tell::<F>(flow);
        }
    }
    Some(send::<F>(ctx, ethernet, ip, transport, to))
}

/// Tells the agent of a flow that has begun or come a step further, where other hosts are to know.
#[inline(always)]
pub(super) fn tell<F: Family>(flow: &F::Tuple) {
    let replicates = SETTINGS.get(0).is_some_and(|settings| settings.flags & REPLICATES != 0);
    if replicates && !F::nat_tell(flow) {
        count::reason(Reason::NatUntold);
    }
}

/// What keeps a packet from being translated: it is somebody else's, or has gone too far.
#[inline(always)]
pub(super) fn unfit<F: Family>(
    ctx: &XdpContext,
    ethernet: &EthHdr,
    ip: &F::Header,
    link: &Link,
) -> Option<Verdict> {
    let flooded = if link.ifindex == ctx.ingress_ifindex() as u32 {
        !is_for(addresses(ethernet), link.addresses)
    } else {
        is_anothers(ctx, ethernet)
    };
    if flooded {
        return Some(Verdict::Done(Action::Pass));
    }
    // As a router does, so that nothing circles (RFC 1812 §5.3.1).
    if F::ttl(ip) <= 1 {
        count::reason(Reason::NatTtlExceeded);
        return Some(Verdict::Done(Action::Drop));
    }
    None
}

/// Rewrites the packet and sends it on.
#[inline(always)]
pub(super) fn send<F: Family>(
    ctx: &XdpContext,
    ethernet: &mut EthHdr,
    ip: &mut F::Header,
    mut transport: Transport<'_>,
    to: &Translation<F::Bytes>,
) -> Verdict {
    let change =
        F::change(F::source(ip), to.source).join(F::change(F::destination(ip), to.destination));
    transport.translate(to.ports.source, to.ports.destination, change);
    let bytes = length(ctx, F::length(ip));
    F::translate(ip, to.source, to.destination, next_ttl(F::ttl(ip)), change);
    out::<F>(ctx, ethernet, to, bytes)
}

/// Sends on what has been rewritten.
#[inline(always)]
pub(super) fn out<F: Family>(
    ctx: &XdpContext,
    ethernet: &mut EthHdr,
    to: &Translation<F::Bytes>,
    bytes: u64,
) -> Verdict {
    set_addresses(ethernet, to.link.addresses);
    if to.reply {
        count::replied(to.backend, 1, bytes);
    } else {
        count::sent(to.backend, bytes);
    }
    if to.link.ifindex == ctx.ingress_ifindex() as u32 {
        return Verdict::Done(Action::Transmit);
    }
    Verdict::Redirect(to.link.ifindex)
}

/// One less, and never a mark: what leaves here is no agent's frame.
#[inline(always)]
pub(super) fn next_ttl(ttl: u8) -> u8 {
    let next = ttl.wrapping_sub(1);
    if mark::position(ttl).is_some() || mark::position(next).is_some() {
        ORDINARY_TTL
    } else {
        next
    }
}

/// The tuple of the other direction.
#[inline(always)]
fn other_way<F: Family>(to: &Translation<F::Bytes>, protocol: u8) -> F::Tuple {
    let ports = Ports { source: to.ports.destination, destination: to.ports.source, protocol };
    F::tuple(to.destination, to.source, ports)
}

/// Forgets both directions.
#[inline(always)]
pub(super) fn forget<F: Family>(flow: &F::Tuple, to: &Translation<F::Bytes>) {
    F::nat_remove(&other_way::<F>(to, to.ports.protocol));
    F::nat_remove(flow);
}

/// The way to the backend of a slot, if it is that one.
#[inline(always)]
fn hop<F: Family>(chosen: Chosen, backend: u32) -> Link {
    match NODES.get(chosen.slot.node().into()) {
        Some(node) if chosen.slot.backend() == backend => link(F::hop(node)),
        _ => Link::UNKNOWN,
    }
}

/// The way to a next hop.
#[inline(always)]
pub(super) fn link(hop: &Hop) -> Link {
    Link { ifindex: hop.ifindex, addresses: addresses_of(hop) }
}

/// The way back to a client, unless the frame comes from another agent.
#[inline(always)]
pub(super) fn client_link(ctx: &XdpContext, ethernet: &EthHdr, chosen: Chosen) -> Link {
    let addresses = turned(addresses(ethernet));
    let is_direct = !chosen.from_agent() && is_unicast(ethernet);
    let ifindex = if is_direct { ctx.ingress_ifindex() as u32 } else { 0 };
    Link { ifindex, addresses }
}

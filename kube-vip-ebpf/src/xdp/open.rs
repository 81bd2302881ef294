//! The first packets of a flow that is to be delivered here: to which backend.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::frontend::SILENT;
use kube_vip_common::node::{NAT, THIS_NODE};
use kube_vip_common::stats::Reason;
use kube_vip_common::table::Slot;

use super::forward::is_client_of;
use super::transport::{self, Transport};
use super::{Action, Chosen, Refusal, Verdict, balance, deliver, limited, pick};
use crate::family::{Family, Ports, Record as _};
use crate::frame::length;
use crate::maps::{self, NODES};
use crate::record;

#[inline(always)]
pub(crate) fn stage<F: Family>(ctx: XdpContext, word: u64) -> u64 {
    let verdict = handle::<F>(&ctx, Chosen::unpack(word));
    verdict.unwrap_or(Verdict::Done(Action::Drop)).pack()
}

/// Nothing where the packet is not what the caller saw.
#[inline(always)]
fn handle<F: Family>(ctx: &XdpContext, chosen: Chosen) -> Option<Verdict> {
    let (_, ip, transport) = transport::packet::<F>(ctx)?;
    let flow = F::tuple(F::source(ip), F::destination(ip), transport.ports);
    if transport.is_udp()
        && let Some(endpoint) = again::<F>(&flow)
    {
        let bytes = length(ctx, F::length(ip));
        return Some(deliver::to::<F>(ip, transport, &endpoint, bytes, chosen));
    }
    let slot = if chosen.from_agent() && chosen.slot.node() != THIS_NODE {
        let node = NODES.get(chosen.slot.node().into()).filter(|_| chosen.slot.is_some());
        // SCTP is not translated.
        let node = node.filter(|_| !transport.is_sctp());
        if node.is_some_and(|node| F::hop(node).way == NAT || is_client_of::<F>(ip, node)) {
            // Handed over to the owner.
            return Some(Verdict::Nat(chosen));
        }
        local::<F>(ip, transport.ports)
    } else {
        chosen.slot
    };
    if !slot.is_some() {
        // An agent's table is another one than this host's, which may know better.
        let elsewhere = chosen.from_agent() && chosen.slot.is_some();
        return Some(match elsewhere {
            true => Verdict::Lost(chosen),
            false => chosen.refuse(no_backend::<F>(ip, &transport, chosen)),
        });
    }
    if limited::exceeded::<F>(ip, transport.ports) {
        return Some(Verdict::Done(Action::Drop));
    }
    Some(Verdict::Begin(Chosen { slot, ..chosen }, 0))
}

/// A backend on this host, where the table's own is elsewhere and an agent sent the packet here.
#[inline(always)]
fn local<F: Family>(ip: &F::Header, ports: Ports) -> Slot {
    let Some(frontend) = maps::frontend(F::frontend_key(F::destination(ip), ports)) else {
        return Slot::NONE;
    };
    pick::local(frontend, balance::hash::<F>(frontend, F::source(ip), F::destination(ip), ports))
}

/// Nobody serves this frontend.
#[inline(always)]
pub(super) fn no_backend<F: Family>(
    ip: &F::Header,
    transport: &Transport<'_>,
    chosen: Chosen,
) -> Refusal {
    let key = F::frontend_key(F::destination(ip), transport.ports);
    let silent = maps::frontend(key).is_some_and(|frontend| frontend.flags & SILENT != 0);
    match (transport.is_tcp(), chosen.from_agent()) {
        _ if silent => Refusal::Dropped(Reason::NoBackendDropped),
        (true, false) => Refusal::Reset(Reason::NoBackendReset),
        (true, true) => Refusal::Closed(Reason::NoBackendReset),
        (false, _) => Refusal::Unreachable(Reason::NoBackendUnreachable),
    }
}

/// The backend of a UDP flow that goes on: one whose client was silent, but not its backend, or one
/// whose client has yet to prove that it exists.
#[inline(always)]
fn again<F: Family>(flow: &F::Tuple) -> Option<F::Endpoint> {
    let known = record::flow::<F>(flow);
    let half_open = known.is_none();
    let endpoint = known.or_else(|| record::half::<F>(flow))?;
    if !deliver::is_there::<F>(&endpoint) {
        return None;
    }
    let (client, _, ports) = F::tuple_parts(flow);
    let reply = record::reply_tuple::<F>(client, ports, &endpoint);
    if half_open {
        if record::answer::<F>(&reply) != 0 {
            // A refusal of the map changes nothing for this packet.
            record::confirm::<F>(flow, &reply);
        }
        return Some(endpoint);
    }
    let now = maps::clock();
    let seen = maps::read(F::replies(), &reply, F::Endpoint::seen)?;
    if deliver::is_over(now, seen) {
        return None;
    }
    maps::change(F::flows(), flow, |flow| *flow.stamp() = now);
    Some(endpoint)
}

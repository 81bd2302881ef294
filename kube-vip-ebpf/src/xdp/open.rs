//! The first packets of a flow that is to be delivered here: to which backend.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::node::THIS_NODE;
use kube_vip_common::stats::Reason;
use kube_vip_common::table::Slot;
use network_types::eth::EthHdr;

use super::transport::{self, Transport};
use super::{Action, Chosen, Refusal, Verdict, balance, deliver, pick};
use crate::family::{Family, Payload, Ports, Record as _};
use crate::frame::{Cursor, length};
use crate::maps::{self, TABLES};
use crate::record;

#[inline(always)]
pub(crate) fn stage<F: Family>(ctx: XdpContext, word: u64) -> u64 {
    let verdict = handle::<F>(&ctx, Chosen::unpack(word));
    verdict.unwrap_or(Verdict::Done(Action::Drop)).pack()
}

/// Nothing where the packet is not what the caller saw.
#[inline(always)]
fn handle<F: Family>(ctx: &XdpContext, chosen: Chosen) -> Option<Verdict> {
    let mut cursor = Cursor::new(ctx);
    let _ethernet = cursor.take::<EthHdr>()?;
    let ip = cursor.take::<F::Header>()?;
    let Payload::Protocol(protocol) = F::payload(ip, &mut cursor) else {
        return None;
    };
    let transport = transport::parse(&mut cursor, protocol)?;
    let flow = F::tuple(F::source(ip), F::destination(ip), transport.ports);
    if !transport.is_tcp()
        && let Some(endpoint) = again::<F>(&flow)
    {
        return Some(deliver::to::<F>(ip, transport, endpoint, length(ctx), chosen));
    }
    let slot = if chosen.from_agent() && chosen.slot.node() != THIS_NODE {
        local::<F>(ip, transport.ports)
    } else {
        chosen.slot
    };
    if !slot.is_some() {
        return Some(chosen.refuse(no_backend(&transport, chosen)));
    }
    Some(Verdict::Begin(Chosen { slot, ..chosen }, 0))
}

/// A backend on this host, where the table's own is elsewhere and an agent sent the packet here.
#[inline(always)]
fn local<F: Family>(ip: &F::Header, ports: Ports) -> Slot {
    let Some(frontend) = maps::frontend(F::frontend_key(F::destination(ip), ports)) else {
        return Slot::NONE;
    };
    match TABLES.get(frontend.id) {
        Some(table) => pick::local(table, balance::hash::<F>(frontend, ip, ports)),
        None => Slot::NONE,
    }
}

/// Nobody serves this frontend.
#[inline(always)]
fn no_backend(transport: &Transport<'_>, chosen: Chosen) -> Refusal {
    match (transport.is_tcp(), chosen.from_agent()) {
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
    let reply = record::reply_tuple::<F>(client, ports, endpoint);
    if half_open {
        if record::answer::<F>(&reply) != 0 {
            // A refusal of the map changes nothing for this packet.
            record::confirm::<F>(flow, &reply);
        }
        return Some(endpoint);
    }
    let now = maps::seconds();
    let seen = maps::inspect(F::replies(), &reply, |vip| vip.seen())?;
    if deliver::is_over(now, seen) {
        return None;
    }
    maps::change(F::flows(), flow, |flow| *flow.stamp() = now);
    Some(endpoint)
}

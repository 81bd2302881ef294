//! The first packet of a flow that is to be delivered here: the flow is recorded.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::frontend::SILENT;
use kube_vip_common::node::{NAT, THIS_NODE};
use kube_vip_common::stats::Reason;
use kube_vip_common::table::Slot;
use network_types::eth::EthHdr;

use super::forward::is_client_of;
use super::transport::{self, Transport};
use super::{Action, Chosen, Refusal, Verdict, balance, deliver, limited, pick};
use crate::count;
use crate::family::{Family, Ports};
use crate::frame::{Cursor, length};
use crate::maps::{self, BACKENDS, NODES, TABLES};

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
    let protocol = F::payload(ctx, ip, &mut cursor).protocol()?;
    let transport = transport::parse(&mut cursor, protocol)?;
    let slot = if chosen.from_agent() && chosen.slot.node() != THIS_NODE {
        let node = NODES.get(chosen.slot.node().into()).filter(|_| chosen.slot.is_some());
        if node.is_some_and(|node| F::hop(node).way == NAT || is_client_of::<F>(ip, node)) {
            // Handed over to the owner.
            return Some(Verdict::Nat(chosen));
        }
        local::<F>(ip, transport.ports)
    } else {
        chosen.slot
    };
    if !slot.is_some() {
        return Some(no_backend::<F>(ip, &transport, chosen));
    }
    if limited::exceeded::<F>(ip, transport.ports) {
        return Some(Verdict::Done(Action::Drop));
    }
    let flow = F::tuple(F::source(ip), F::destination(ip), transport.ports);
    let Some(endpoint) = record::<F>(&flow, slot.backend()) else {
        count::reason(Reason::FlowTableFull);
        return Some(Verdict::Done(Action::Drop));
    };
    let bytes = length(ctx, F::length(ip));
    Some(deliver::to::<F>(ip, transport, &endpoint, bytes, chosen))
}

/// A backend on this host, where the table's own is elsewhere and an agent sent the packet here.
#[inline(always)]
fn local<F: Family>(ip: &F::Header, ports: Ports) -> Slot {
    let Some(frontend) = maps::frontend(F::frontend_key(F::destination(ip), ports)) else {
        return Slot::NONE;
    };
    match TABLES.get(frontend.id) {
        Some(table) => pick::local(
            table,
            balance::hash::<F>(frontend, F::source(ip), F::destination(ip), ports),
        ),
        None => Slot::NONE,
    }
}

/// Nobody serves this frontend.
#[inline(always)]
fn no_backend<F: Family>(ip: &F::Header, transport: &Transport<'_>, chosen: Chosen) -> Verdict {
    let key = F::frontend_key(F::destination(ip), transport.ports);
    let silent = maps::frontend(key).is_some_and(|frontend| frontend.flags & SILENT != 0);
    chosen.refuse(match (transport.is_tcp(), chosen.from_agent()) {
        _ if silent => Refusal::Dropped(Reason::NoBackendDropped),
        (true, false) => Refusal::Reset(Reason::NoBackendReset),
        (true, true) => Refusal::Closed(Reason::NoBackendReset),
        (false, _) => Refusal::Unreachable(Reason::NoBackendUnreachable),
    })
}

/// Remembers both directions of a new flow.
#[inline(never)]
fn record<F: Family>(flow: &F::Tuple, id: u32) -> Option<F::Endpoint> {
    let (client, vip, ports) = F::tuple_parts(flow);
    let backend = BACKENDS.get(id)?;
    let address = F::bytes(&backend.address);
    let endpoint = F::endpoint(address, backend.port, id);
    let reply_ports =
        Ports { source: backend.port, destination: ports.source, protocol: ports.protocol };
    let reply = F::tuple(address, client, reply_ports);
    let origin = F::endpoint(vip, ports.destination, id);
    F::record(flow, &endpoint, &reply, &origin).then_some(endpoint)
}

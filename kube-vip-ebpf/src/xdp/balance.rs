//! A packet for a frontend: its slot, and the way to the backend in it.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::frontend::{CLIENT_AFFINITY, FrontendKey};
use kube_vip_common::node::THIS_NODE;
use kube_vip_common::stats::Reason;
use network_types::eth::EthHdr;

use super::transport::Transport;
use super::{Refusal, Verdict, agent, deliver, forward, pick};
use crate::family::Family;
use crate::frame::length;
use crate::maps::{self, TABLES};
use crate::count;

#[inline(always)]
pub(super) fn handle<F: Family>(
    ctx: &XdpContext,
    ethernet: &mut EthHdr,
    ip: &mut F::Header,
    transport: Transport<'_>,
) -> Verdict {
    let ports = transport.ports;
    let key = FrontendKey {
        address: F::address(F::destination(ip)),
        port: ports.destination,
        protocol: ports.protocol,
        pad: 0,
    };
    let Some(frontend) = maps::frontend(&key) else {
        return Verdict::Unbalanced;
    };
    count::frontend(frontend.id, length(ctx));

    let (source, destination) = (F::source(ip), F::destination(ip));
    let hash = if frontend.flags & CLIENT_AFFINITY == 0 {
        F::hash_flow(frontend.seed, source, destination, ports)
    } else {
        F::hash_client(frontend.seed, source)
    };
    let from_agent = agent::position::<F>(ethernet, ip).is_some();
    let picked = TABLES.get(frontend.id).and_then(|table| {
        let member = pick::member(table, frontend.slots, hash)?;
        if from_agent && member.node != THIS_NODE {
            // The sender's choice of node counts: its table and ours may differ for a moment.
            return pick::local(table, hash);
        }
        Some(member)
    });
    match picked {
        Some(member) if member.node != THIS_NODE => forward::handle::<F>(ctx, ethernet, ip, member),
        None if !from_agent => Verdict::Refuse(no_backend(&transport, false)),
        picked => deliver::handle::<F>(ip, transport, picked, length(ctx), from_agent),
    }
}

/// Nobody serves this frontend.
#[inline(always)]
pub(super) fn no_backend(transport: &Transport<'_>, from_agent: bool) -> Refusal {
    match (transport.is_tcp(), from_agent) {
        (true, false) => Refusal::Reset(Reason::NoBackendReset),
        (true, true) => Refusal::Closed(Reason::NoBackendReset),
        (false, _) => Refusal::Unreachable(Reason::NoBackendUnreachable),
    }
}

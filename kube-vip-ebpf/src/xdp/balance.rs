//! A packet for a frontend: its slot, and the way to the backend in it.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::frontend::{CLIENT_AFFINITY, HOST_ADDRESS};
use kube_vip_common::node::THIS_NODE;
use kube_vip_common::stats::Reason;
use kube_vip_common::table::Slot;
use network_types::eth::EthHdr;

use super::transport::Transport;
use super::{Action, Refusal, Verdict, agent, deliver, forward, pick};
use crate::count;
use crate::family::Family;
use crate::frame::length;
use crate::maps::{self, TABLES};

#[inline(always)]
pub(super) fn handle<F: Family>(
    ctx: &XdpContext,
    ethernet: &mut EthHdr,
    ip: &mut F::Header,
    transport: Transport<'_>,
) -> Verdict {
    let ports = transport.ports;
    let Some(frontend) = maps::frontend(F::frontend_key(F::destination(ip), ports)) else {
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
    let slot = match TABLES.get(frontend.id) {
        Some(table) => {
            let slot = pick::slot(table, frontend.slots, hash);
            if from_agent && slot.node() != THIS_NODE {
                // The sender's choice of node counts: its table and ours may differ for a moment.
                pick::local(table, hash)
            } else {
                slot
            }
        }
        None => Slot::NONE,
    };
    // Without any backend too: connections known here go on until they end.
    if from_agent || slot.node() == THIS_NODE || !slot.is_some() {
        let bytes = length(ctx);
        let verdict = deliver::handle::<F>(ip, transport, slot, bytes, from_agent);
        return match verdict {
            Verdict::Refuse(_) if frontend.flags & HOST_ADDRESS != 0 && !from_agent => {
                Verdict::Done(Action::Pass)
            }
            verdict => verdict,
        };
    }
    forward::handle::<F>(ctx, ethernet, ip, slot)
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

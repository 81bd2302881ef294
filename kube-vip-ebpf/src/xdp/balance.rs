//! A packet for a frontend: its slot, and the way to the backend in it.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::frontend::{CLIENT_AFFINITY, Frontend, HOST_ADDRESS};
use kube_vip_common::hash::FlowHash;
use kube_vip_common::mark::PROBE_TTL;
use kube_vip_common::node::THIS_NODE;
use network_types::eth::EthHdr;

use super::transport::Transport;
use super::{Action, Chosen, Verdict, agent, deliver, forward, pick};
use crate::count;
use crate::family::{Family, Ports};
use crate::frame::length;
use crate::maps;

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
    let host_address = frontend.flags & HOST_ADDRESS != 0;
    // An agent's own look at a backend: for that backend and no other.
    if host_address && F::ttl(ip) == PROBE_TTL {
        return Verdict::Done(Action::Pass);
    }
    let bytes = length(ctx, F::length(ip));
    count::frontend(frontend.id, bytes);

    let slot = pick::slot(frontend, hash::<F>(frontend, F::source(ip), F::destination(ip), ports));
    let position = agent::position::<F>(ethernet, ip);
    let chosen = Chosen { slot, position, host_address };
    // The sender's choice of node counts: its table and ours may differ for a moment.
    let ours = chosen.from_agent() || slot.node() == THIS_NODE || !slot.is_some();
    // Without any backend too: connections known here go on until they end.
    if ours || slot.was_here() {
        let goes_on = transport.has_connections() && !transport.opens;
        if let Some(verdict) = deliver::known::<F>(ip, transport, bytes, chosen) {
            return verdict;
        }
        if ours {
            return if goes_on { Verdict::Stray(chosen) } else { Verdict::Open(chosen) };
        }
    }
    forward::handle::<F>(ctx, ethernet, ip, chosen)
}

/// What chooses the slot of a client's packet to a VIP.
#[inline(always)]
pub(super) fn hash<F: Family>(
    frontend: &Frontend,
    client: F::Bytes,
    vip: F::Bytes,
    ports: Ports,
) -> FlowHash {
    if frontend.flags & CLIENT_AFFINITY == 0 {
        F::hash_flow(frontend.seed, client, vip, ports)
    } else {
        F::hash_client(frontend.seed, client)
    }
}

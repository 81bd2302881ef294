//! To a backend on this host: destination rewritten to it, then up. The client's address stays, so
//! connection tracking, policies and the backend itself see who it is.

use kube_vip_common::backend::IN_USE;
use kube_vip_common::mark::ORDINARY_TTL;
use kube_vip_common::stats::Reason;
use kube_vip_common::table::Slot;

use super::balance::no_backend;
use super::transport::Transport;
use super::{Action, Refusal, Verdict};
use crate::count;
use crate::family::{Family, Ports};
use crate::maps::BACKENDS;

#[inline(always)]
pub(super) fn handle<F: Family>(
    ip: &mut F::Header,
    mut transport: Transport<'_>,
    slot: Slot,
    length: u64,
    from_agent: bool,
) -> Verdict {
    let (client, vip, ports) = (F::source(ip), F::destination(ip), transport.ports);
    let flow = F::tuple(client, vip, ports);
    // A SYN begins anew whatever was recorded before: ports are used again.
    let known = if transport.opens { None } else { F::flow(&flow) };
    let endpoint = match known {
        // TCP stays where it is; UDP has no end of its own, so it moves when its backend is gone.
        Some(endpoint) if transport.is_tcp() || is_there::<F>(&endpoint) => endpoint,
        _ if transport.is_tcp() && !transport.opens => {
            return Verdict::Refuse(if from_agent {
                Refusal::Closed(Reason::NoFlowReset)
            } else {
                Refusal::Reset(Reason::NoFlowReset)
            });
        }
        _ => {
            if !slot.is_some() {
                return Verdict::Refuse(no_backend(&transport, from_agent));
            }
            match record::<F>(&flow, slot.backend()) {
                Some(endpoint) => endpoint,
                None => {
                    count::reason(Reason::FlowTableFull);
                    return Verdict::Done(Action::Drop);
                }
            }
        }
    };
    let (address, port, backend) = F::parts(&endpoint);
    transport.set_destination(port, F::change(vip, address));
    F::set_destination(ip, address);
    if from_agent {
        F::set_ttl(ip, ORDINARY_TTL);
        count::reason(Reason::DeliveredForPeer);
    }
    count::sent(backend, length);
    Verdict::Done(Action::Pass)
}

/// Whether the backend of a flow still is one.
#[inline(always)]
fn is_there<F: Family>(endpoint: &F::Endpoint) -> bool {
    let (address, port, id) = F::parts(endpoint);
    BACKENDS.get(id).is_some_and(|backend| {
        backend.flags & IN_USE != 0 && backend.port == port && F::bytes(&backend.address) == address
    })
}

/// Remembers both directions of a new connection.
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

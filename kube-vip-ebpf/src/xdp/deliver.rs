//! To a backend on this host: destination rewritten to it, then up. The client's address stays, so
//! connection tracking, policies and the backend itself see who it is.

use kube_vip_common::backend::{DOWN, IN_USE};
use kube_vip_common::mark::ORDINARY_TTL;
use kube_vip_common::stats::Reason;

use super::transport::Transport;
use super::{Action, Chosen, Verdict};
use crate::count;
use crate::family::Family;
use crate::maps::BACKENDS;

/// A packet of a flow that is known here; nothing where it is not.
#[inline(always)]
pub(super) fn known<F: Family>(
    ip: &mut F::Header,
    transport: Transport<'_>,
    length: u64,
    chosen: Chosen,
) -> Option<Verdict> {
    // A SYN begins anew whatever was recorded before: ports are used again.
    if transport.opens {
        return None;
    }
    let endpoint = F::flow(&F::tuple(F::source(ip), F::destination(ip), transport.ports))?;
    // TCP stays where it is; UDP has no end of its own, so it moves when its backend is gone.
    if !transport.has_connections() && !is_there::<F>(&endpoint) {
        return None;
    }
    Some(to::<F>(ip, transport, &endpoint, length, chosen))
}

/// Rewrites the packet for its backend.
#[inline(always)]
pub(super) fn to<F: Family>(
    ip: &mut F::Header,
    mut transport: Transport<'_>,
    endpoint: &F::Endpoint,
    length: u64,
    chosen: Chosen,
) -> Verdict {
    let (address, port, backend) = F::parts(endpoint);
    transport.set_destination(port, F::change(F::destination(ip), address));
    F::set_destination(ip, address);
    if chosen.from_agent() {
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
    is_backend::<F>(id, address, port)
}

/// Whether that number still is that backend's.
#[inline(always)]
pub(super) fn is_backend<F: Family>(id: u32, address: F::Bytes, port: u16) -> bool {
    BACKENDS.get(id).is_some_and(|backend| {
        backend.flags & (IN_USE | DOWN) == IN_USE
            && backend.port == port
            && F::bytes(&backend.address) == address
    })
}

//! To a backend on this host: destination rewritten to it, then up. The client's address stays, so
//! connection tracking, policies and the backend itself see who it is.

use kube_vip_common::backend::{DOWN, IN_USE};
use kube_vip_common::flow::{CLIENT_DONE, ENDS, has_ended};
use kube_vip_common::mark::ORDINARY_TTL;
use kube_vip_common::stats::Reason;

use super::transport::Transport;
use super::{Action, Chosen, Verdict};
use crate::family::{Family, Record as _};
use crate::maps::{self, BACKENDS, SETTINGS};
use crate::{count, record};

/// A packet of a flow that is known here; nothing where it is not.
#[inline(always)]
pub(super) fn known<F: Family>(
    ip: &mut F::Header,
    transport: Transport<'_>,
    length: u64,
    chosen: Chosen,
) -> Option<Verdict> {
    let flow = F::tuple(F::source(ip), F::destination(ip), transport.ports);
    // Ports are used again: what became of a SYN's flow is for its own stage to judge, here or
    // elsewhere.
    if transport.opens {
        if chosen.may_be_elsewhere() {
            record::over::<F>(&flow);
        }
        return None;
    }
    let endpoint = maps::in_place(F::flows(), &flow)?;
    if transport.is_udp() {
        // It has no end of its own.
        if !goes_on::<F>(&flow, endpoint) {
            return None;
        }
    } else {
        let (signs, marks) = (transport.signs, endpoint.marks());
        if signs.fin || signs.rst || marks & ENDS != 0 {
            if chosen.may_be_elsewhere() && has_ended(marks, endpoint.seen(), maps::clock()) {
                return None;
            }
            record::ends::<F>(&flow, record::said(signs), CLIENT_DONE);
        }
    }
    Some(to::<F>(ip, transport, endpoint, length, chosen))
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
    if endpoint.clients() != 0 {
        transport.set_source(endpoint.clients());
    }
    F::set_destination(ip, address);
    if chosen.from_agent() {
        F::set_ttl(ip, ORDINARY_TTL);
        count::reason(Reason::DeliveredForPeer);
    }
    count::sent(backend, length);
    Verdict::Done(Action::Pass)
}

/// Whether a UDP flow goes on: its backend is one still, and its client was not silent for too long.
/// Whether its backend was silent too is looked at elsewhere (`xdp/open.rs`).
#[inline(always)]
fn goes_on<F: Family>(flow: &F::Tuple, endpoint: &F::Endpoint) -> bool {
    if !is_there::<F>(endpoint) {
        return false;
    }
    let now = maps::clock();
    let alive = !is_over(now, endpoint.seen());
    if alive && endpoint.seen() != now {
        maps::change(F::flows(), flow, |flow| *flow.stamp() = now);
    }
    alive
}

/// Whether a UDP flow that was seen then has been idle for too long.
#[inline(always)]
pub(super) fn is_over(now: u32, seen: u32) -> bool {
    let limit = SETTINGS.get(0).map_or(0, |settings| settings.udp_idle);
    now.wrapping_sub(seen) > limit
}

/// Whether the backend of a flow still is one.
#[inline(always)]
pub(super) fn is_there<F: Family>(endpoint: &F::Endpoint) -> bool {
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

//! A source port for a translated flow. It is a stage of its own because the search needs most of
//! the stack.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::nat::{self, PORT_TRIES, PortRange};
use network_types::eth::EthHdr;

use super::nat::client_link;
use super::nat_begin::source;
use super::{Action, Chosen, Verdict, locate};
use crate::event;
use crate::family::{Family, Life, Ports, Translation, protocol};
use crate::frame::Cursor;
use crate::maps::{self, BACKENDS};
use crate::stage::Stages;

#[inline(always)]
pub(crate) fn stage<F: Family + Stages>(ctx: XdpContext, word: u64) -> u64 {
    let verdict = handle::<F>(&ctx, Chosen::unpack(word));
    verdict.unwrap_or(Verdict::Done(Action::Drop)).pack()
}

/// Nothing where the packet is not what the caller saw.
#[inline(always)]
fn handle<F: Family + Stages>(ctx: &XdpContext, chosen: Chosen) -> Option<Verdict> {
    let transport = locate::transport::<F>(ctx)?;
    let mut cursor = Cursor::new(ctx);
    let ethernet = cursor.take::<EthHdr>()?;
    let ip = cursor.take::<F::Header>()?;
    let (vip, ports) = (F::destination(ip), transport.ports);
    let back = F::nat_value(&Translation {
        source: vip,
        destination: F::source(ip),
        ports: Ports {
            source: ports.destination,
            destination: ports.source,
            protocol: ports.protocol,
        },
        backend: chosen.slot.backend(),
        reply: true,
        link: client_link(ctx, ethernet, chosen),
        life: Life { state: nat::next(0, false, transport.signs), seen: maps::clock() },
    });
    let backend = BACKENDS.get(chosen.slot.backend())?;
    let server =
        Ports { source: backend.port, destination: ports.source, protocol: ports.protocol };
    let (source, range) = source::<F>(vip, ports)?;
    match take::<F>(F::bytes(&backend.address), source, server, range, &back) {
        Some(port) => Some(Verdict::NatBegin(chosen, port)),
        None => {
            event::ports_exhausted(ctx, backend.address);
            Some(Verdict::Done(Action::Drop))
        }
    }
}

/// Finds a port that is free towards a server and records what comes back to it; nothing where the
/// search was in vain. `ports` are the server's and the client's.
///
/// The client's own is tried first: it chose it at random (RFC 6056), and most are free. The tuple
/// that a reply will have says whether a port is taken, so each server has all of them.
#[inline(always)]
fn take<F: Family>(
    server: F::Bytes,
    source: F::Bytes,
    mut ports: Ports,
    range: PortRange,
    back: &F::Nat,
) -> Option<u16> {
    let tcp = ports.protocol == protocol::TCP;
    for _ in 0..=PORT_TRIES {
        // A frontend's port is a client's destination, never a source.
        if range.contains(ports.destination)
            && maps::frontend(F::frontend_key(source, ports)).is_none()
        {
            let reply = F::tuple(server, source, ports);
            if is_free::<F>(&reply, tcp) && F::nat_insert(&reply, back) {
                return Some(ports.destination);
            }
        }
        ports.destination = range.nth(maps::next_try());
    }
    None
}

/// Whether nobody has the port any more; what is left of a connection that is gone goes.
#[inline(never)]
fn is_free<F: Family>(reply: &F::Tuple, tcp: bool) -> bool {
    let Some(Life { state, seen }) = F::nat_life(reply) else {
        return true;
    };
    if !nat::is_idle(seen, maps::clock(), state, tcp) {
        return false;
    }
    if let Some(flow) = F::nat_other(reply) {
        F::nat_remove(&flow);
    }
    F::nat_remove(reply)
}

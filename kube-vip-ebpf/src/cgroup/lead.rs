//! To a backend: the address that a system call names is exchanged for one.

use kube_vip_common::backend::{Backend, DOWN, IN_USE};
use kube_vip_common::client::{ClientEnd, TO_BACKEND, TO_VIP};
use kube_vip_common::filter::{Bit, TRANSPORT};
use kube_vip_common::frontend::{CLIENT_AFFINITY, Frontend, HOST_ADDRESS};
use kube_vip_common::hash::FlowHash;
use kube_vip_common::mark::PROBE_PRIORITY;
use kube_vip_common::stats::Reason;

use super::Verdict;
use super::client::Client;
use super::show::key;
use super::socket::{Call, Name, Named};
use crate::family::{Ports, protocol};
use crate::maps::{self, BACKENDS, CLIENTS, FILTER};
use crate::xdp::pick;
use crate::{count, helpers};

/// A backend in the words of a socket.
#[derive(Clone, Copy)]
struct Chosen {
    name: Name,
    id: u32,
}

/// A new connection, or a new peer of a UDP socket: chosen anew.
#[inline(always)]
pub(super) fn connect<N: Named>(call: &Call) -> Verdict {
    lead::<N>(call, false)
}

/// A datagram. Like a flow in XDP, those of one socket to one frontend stay with their backend as
/// long as that is one.
#[inline(always)]
pub(super) fn send<N: Named>(call: &Call) -> Verdict {
    lead::<N>(call, true)
}

#[inline(always)]
fn lead<N: Named>(call: &Call, stays: bool) -> Verdict {
    let vip = N::name(call);
    // Most calls are about addresses that are not ours: one array access.
    let bit = match vip.v4() {
        Some(v4) => Bit::of_v4(u32::from_ne_bytes(v4)),
        None => Bit::of_v6(vip.address[0], vip.address[1]),
    };
    if !FILTER.get(TRANSPORT).is_some_and(|filter| bit.is_set(filter)) {
        return Verdict::Proceed;
    }
    let protocol = match call.protocol() {
        6 => protocol::TCP,
        17 => protocol::UDP,
        _ => return Verdict::Proceed,
    };
    let [high, low] = vip.address;
    let ports = Ports { source: 0, destination: vip.port, protocol };
    let Some(frontend) = maps::frontend([high, low, ports.frontend_word()]) else {
        return Verdict::Proceed;
    };
    if frontend.flags & HOST_ADDRESS != 0 && call.priority() == PROBE_PRIORITY {
        // The agent's own look at a backend is for that one and no other.
        return Verdict::Proceed;
    }
    let Some(client) = Client::of(call) else {
        return Verdict::Proceed;
    };
    let cookie = call.cookie();
    let known = if stays { known(cookie, vip, protocol) } else { None };
    let Some(chosen) = known.or_else(|| choose(frontend, client, vip)) else {
        if frontend.flags & HOST_ADDRESS != 0 {
            // The kernel may have something of its own at that port.
            return Verdict::Proceed;
        }
        count::call(Reason::ClientRefused);
        helpers::connection_refused();
        return Verdict::Refuse;
    };
    if !remember(cookie, vip, chosen, protocol, known.is_some()) {
        count::call(Reason::ClientUnrecorded);
    }
    N::set(call, chosen.name);
    count::call(Reason::ClientBalanced);
    Verdict::Proceed
}

/// The backend that earlier datagrams went to.
#[inline(always)]
fn known(cookie: u64, vip: Name, protocol: u8) -> Option<Chosen> {
    let end = maps::endpoint(&CLIENTS, &key(cookie, vip, protocol, TO_BACKEND))?;
    let Backend { address, port, flags, .. } = *BACKENDS.get(end.backend)?;
    let name = Name::new(&address, port);
    let there = flags & (IN_USE | DOWN) == IN_USE && name == Name::new(&end.address, end.port);
    there.then_some(Chosen { name, id: end.backend })
}

#[inline(always)]
fn choose(frontend: &Frontend, client: Client, vip: Name) -> Option<Chosen> {
    let hash = if frontend.flags & CLIENT_AFFINITY == 0 {
        // The port that the socket will have is not known yet, so chance stands for it.
        FlowHash::new(u64::from(helpers::random()) << 32)
    } else {
        client.hash(frontend.seed, vip)
    };
    let slot = pick::slot(frontend, hash);
    if !slot.is_some() {
        return None;
    }
    let backend = BACKENDS.get(slot.backend())?;
    Some(Chosen { name: Name::new(&backend.address, backend.port), id: slot.backend() })
}

/// Remembers both ways what is not remembered yet.
#[inline(always)]
fn remember(cookie: u64, vip: Name, chosen: Chosen, protocol: u8, known: bool) -> bool {
    let end = |name: Name| ClientEnd {
        address: name.to_address(),
        port: name.port,
        pad: 0,
        backend: chosen.id,
    };
    let back = key(cookie, chosen.name, protocol, TO_VIP);
    let same = |old: ClientEnd| Name::new(&old.address, old.port) == vip;
    // Looked at each time: the way back must not be the one that is forgotten first.
    let shown = maps::endpoint(&CLIENTS, &back).is_some_and(same);
    let shown = shown || CLIENTS.insert(back, end(vip), 0).is_ok();
    if known || protocol != protocol::UDP {
        return shown;
    }
    let there = key(cookie, vip, protocol, TO_BACKEND);
    CLIENTS.insert(there, end(chosen.name), 0).is_ok() && shown
}

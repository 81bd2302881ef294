//! Records of connections: `FLOWS4`, `REVERSE4`, `HALF4` and their likes for IPv6. What the values
//! mean is in [`kube_vip_common::flow`].

use kube_vip_common::flow::{ANSWERED, BACKEND_DONE, DIRECT, ENDS, RESET, is_over};
use kube_vip_common::nat::Signs;

use crate::family::{Family, Ports, Record as _, Records};
use crate::maps;

/// The backend of a connection that is known here, by the tuple client → VIP.
#[inline(always)]
pub fn flow<F: Family>(flow: &F::Tuple) -> Option<F::Endpoint> {
    maps::record(F::flows(), flow)
}

/// The VIP of a known connection, by the tuple backend → client.
#[inline(always)]
pub fn reply<F: Family>(reply: &F::Tuple) -> Option<F::Endpoint> {
    maps::record(F::replies(), reply)
}

/// The same of one whose client has not proved that it exists, by either tuple.
#[inline(always)]
pub fn half<F: Family>(tuple: &F::Tuple) -> Option<F::Endpoint> {
    maps::record(F::half(), tuple)
}

/// The tuple of a backend's replies; `ports` are those of the client's packet.
#[inline(always)]
pub fn reply_tuple<F: Family>(client: F::Bytes, ports: Ports, backend: &F::Endpoint) -> F::Tuple {
    let (address, port, _) = F::parts(backend);
    let client_port = match backend.clients() {
        0 => ports.source,
        changed => changed,
    };
    let ports = Ports { source: port, destination: client_port, ..ports };
    F::tuple(address, client, ports)
}

/// The tuple of the client's packets; `ports` are those of the backend's reply.
#[inline(always)]
pub fn flow_tuple<F: Family>(client: F::Bytes, ports: Ports, vip: &F::Endpoint) -> F::Tuple {
    let (address, port, _) = F::parts(vip);
    let client_port = match vip.clients() {
        0 => ports.destination,
        changed => changed,
    };
    let ports = Ports { source: client_port, destination: port, ..ports };
    F::tuple(client, address, ports)
}

/// Makes a half-open connection a whole one: its client exists. False where it is half-open no
/// more, or a map refused.
#[inline(always)]
pub fn confirm<F: Family>(flow: &F::Tuple, reply: &F::Tuple) -> bool {
    // Without copies, for which there is no room on the stack.
    let reversed = maps::read(F::half(), reply, |vip| F::replies().insert(reply, vip, 0).is_ok());
    let known = maps::read(F::half(), flow, |backend| F::flows().insert(flow, backend, 0).is_ok());
    if reversed != Some(true) || known != Some(true) {
        return false;
    }
    let now = maps::clock();
    maps::change(F::replies(), reply, |vip| {
        *vip.stamp() = now;
        *vip.flags() &= !ANSWERED;
    });
    maps::change(F::flows(), flow, |backend| *backend.stamp() = now);
    let _ = F::half().remove(flow);
    let _ = F::half().remove(reply);
    true
}

/// What of a segment says whether its connection ends, as a number: a value of several parts would be
/// on the stack.
#[inline(always)]
pub const fn said(signs: Signs) -> u32 {
    let (fin, rst, ack) = (signs.fin as u32, signs.rst as u32, signs.ack as u32);
    (fin * SAID_FIN) | (rst * SAID_RST) | (ack * SAID_ACK)
}

const SAID_FIN: u32 = 1;
const SAID_RST: u32 = 2;
const SAID_ACK: u32 = 4;

/// The bits that say that it does.
pub const SAID_END: u32 = SAID_FIN | SAID_RST;

/// Notes in a flow's record that one side is done, resets the connection, or goes on after all;
/// `done` is the flag of that side.
#[inline(never)]
pub fn ends<F: Family>(flow: &F::Tuple, said: u32, done: u16) {
    let now = maps::clock();
    maps::change(F::flows(), flow, |record| {
        let mut flags = record.marks();
        if said & SAID_RST != 0 {
            flags |= RESET;
        } else if said & SAID_ACK != 0 {
            flags &= !RESET;
        }
        if said & SAID_FIN != 0 {
            flags |= done;
        }
        *record.flags() = flags;
        *record.stamp() = now;
    });
}

/// Forgets a flow that ends: another one begins with its tuple.
#[inline(never)]
pub fn over<F: Family>(flow: &F::Tuple) {
    if maps::read(F::flows(), flow, |backend| is_over(backend.marks())) == Some(true) {
        // Not there any more is just as well.
        let _ = F::flows().remove(flow);
    }
}

/// The same by a reply. Few end something, and the stack is not to be everybody's.
#[inline(never)]
pub fn reply_ends<F: Family>(reply: &F::Tuple, said: u32) {
    let (_, client, ports) = F::tuple_parts(reply);
    if let Some(vip) = maps::in_place(F::replies(), reply) {
        ends::<F>(&flow_tuple::<F>(client, ports, vip), said, BACKEND_DONE);
    }
}

/// Notes that the backend has answered, and what of it the client will acknowledge.
#[inline(always)]
pub fn answered<F: Family>(reply: &F::Tuple, acknowledgement: u32) {
    maps::change(F::half(), reply, |vip| {
        *vip.stamp() = acknowledgement;
        *vip.flags() |= ANSWERED;
    });
}

/// What the client of a half-open connection will acknowledge, as [`sequence`] has it; 0 while the
/// backend has not answered.
///
/// [`sequence`]: crate::xdp::transport::sequence
#[inline(always)]
pub fn answer<F: Family>(reply: &F::Tuple) -> u64 {
    maps::read(F::half(), reply, F::Endpoint::answer).unwrap_or(0)
}

/// Sets [`DIRECT`] on the records of a reply.
#[inline(always)]
pub fn mark_direct<F: Family>(reply: &F::Tuple) {
    maps::change(F::replies(), reply, |vip| *vip.flags() |= DIRECT);
    maps::change(F::half(), reply, |vip| *vip.flags() |= DIRECT);
}

/// Takes [`DIRECT`] off one of them: the client speaks to the VIP again.
#[inline(always)]
pub fn not_direct<F: Family>(map: &Records<F>, reply: &F::Tuple) {
    maps::change(map, reply, |vip| *vip.flags() &= !DIRECT);
}

/// Notes that a connection with that tuple begins anew.
#[inline(always)]
pub fn anew<F: Family>(flow: &F::Tuple) {
    maps::change(F::flows(), flow, |backend| *backend.flags() &= !ENDS);
}

/// Whether [`DIRECT`] is set.
#[inline(always)]
pub fn is_direct<F: Family>(mut vip: F::Endpoint) -> bool {
    *vip.flags() & DIRECT != 0
}

/// Forgets both directions of a connection.
#[inline(always)]
pub fn forget<F: Family>(flow: &F::Tuple, reply: &F::Tuple) {
    // Not there any more is just as well.
    for map in [F::flows(), F::half()] {
        let _ = map.remove(flow);
    }
    for map in [F::replies(), F::half()] {
        let _ = map.remove(reply);
    }
}

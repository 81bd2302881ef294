//! Records of connections: `FLOWS4`, `REVERSE4`, `HALF4` and their likes for IPv6. What the values
//! mean is in [`kube_vip_common::flow`].

use kube_vip_common::flow::{ANSWERED, DIRECT};

use crate::family::{Family, Ports, Record as _, Records};
use crate::maps;

/// A record's place is taken only where there is none (`BPF_NOEXIST`).
pub const IF_NONE: u64 = 1;

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
pub fn reply_tuple<F: Family>(
    client: F::Bytes,
    ports: Ports,
    mut backend: F::Endpoint,
) -> F::Tuple {
    let (address, port, _) = F::parts(&backend);
    let client_port = match *backend.client_port() {
        0 => ports.source,
        changed => changed,
    };
    let ports = Ports { source: port, destination: client_port, ..ports };
    F::tuple(address, client, ports)
}

/// The tuple of the client's packets; `ports` are those of the backend's reply.
#[inline(always)]
pub fn flow_tuple<F: Family>(client: F::Bytes, ports: Ports, mut vip: F::Endpoint) -> F::Tuple {
    let (address, port, _) = F::parts(&vip);
    let client_port = match *vip.client_port() {
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
    let reversed =
        maps::read(F::half(), reply, |vip| F::replies().insert(reply, vip, 0).is_ok());
    let known =
        maps::read(F::half(), flow, |backend| F::flows().insert(flow, backend, 0).is_ok());
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
    maps::read(F::half(), reply, |vip| vip.answer()).unwrap_or(0)
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

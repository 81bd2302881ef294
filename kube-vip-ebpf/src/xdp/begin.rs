//! A flow begins. Until its client proves that it exists what is recorded of it has a place of its
//! own: a TCP client proves it by the handshake's last segment (`xdp/stray.rs`), a UDP client by a
//! packet after the first reply (`xdp/open.rs`).

use aya_ebpf::programs::XdpContext;
use kube_vip_common::stats::Reason;

use super::{Action, Chosen, Verdict, transport};
use crate::family::{Family, Ports, Record as _, protocol};
use crate::maps::{self, BACKENDS};
use crate::{count, record};

#[inline(always)]
pub(crate) fn stage<F: Family>(ctx: XdpContext, word: u64) -> u64 {
    let turn = (word >> TURN & 0xf) as u32;
    let verdict = handle::<F>(&ctx, Chosen::unpack(word), turn);
    verdict.unwrap_or(Verdict::Done(Action::Drop)).pack()
}

/// Nothing where the packet is not what the caller saw.
#[inline(always)]
fn handle<F: Family>(ctx: &XdpContext, chosen: Chosen, turn: u32) -> Option<Verdict> {
    let (_, ip, transport::Transport { ports, .. }) = transport::packet::<F>(ctx)?;
    let flow = F::tuple(F::source(ip), F::destination(ip), ports);
    Some(if begin::<F>(&flow, chosen.slot.backend(), turn).is_some() {
        Verdict::Recorded(chosen)
    } else if turn + 1 < TURNS && ports.protocol != protocol::SCTP {
        Verdict::Begin(chosen, turn as u8 + 1)
    } else {
        // SCTP's checksum covers ports, so they stay (RFC 9260 §6.8).
        count::reason(Reason::FlowTableFull);
        Verdict::Done(Action::Drop)
    })
}

/// Source ports that are tried for a flow whose own leads to another VIP's flow at that backend. Each
/// is a run of the stage: a loop would take more of the stack than there is.
pub(super) const TURNS: u32 = 4;
/// Where in the stage's number the turn is.
pub(super) const TURN: u32 = 40;

/// Numbers that are no port: of a record that leads to another backend, and of none.
const OTHER: u32 = 1 << 16;
const NONE: u32 = 2 << 16;

/// Remembers both directions of a new flow to a backend; nothing where a map refused or another flow
/// has the tuple of the replies.
#[inline(always)]
fn begin<F: Family>(flow: &F::Tuple, id: u32, turn: u32) -> Option<()> {
    let (client, _, ports) = F::tuple_parts(flow);
    let backend = BACKENDS.get(id)?;
    let mut endpoint = F::endpoint(F::bytes(&backend.address), backend.port, id);
    let port_of_same = |other: &F::Endpoint| {
        let same = F::parts(other) == F::parts(&endpoint);
        if same { u32::from(other.clients()) } else { OTHER }
    };
    let known = maps::read(F::flows(), flow, port_of_same).unwrap_or(NONE);
    let fits = known < OTHER && ports.protocol != protocol::UDP;
    if turn > 0 {
        *endpoint.client_port() = another_port(ports, turn);
    } else if fits {
        *endpoint.client_port() = known as u16;
    } else {
        let half = maps::read(F::half(), flow, port_of_same).unwrap_or(NONE);
        if half < OTHER {
            *endpoint.client_port() = half as u16;
        }
    }
    let reply = record::reply_tuple::<F>(client, ports, &endpoint);
    let is_ours = |vip: &F::Endpoint| is_origin::<F>(vip, flow, &reply);
    let whole = maps::read(F::replies(), &reply, is_ours);
    if fits && whole == Some(true) {
        // A SYN out of the blue must not harm the connection that has the records: the backend tells
        // which it is (RFC 5961 §4).
        record::not_direct::<F>(F::replies(), &reply);
        record::anew::<F>(flow);
        return Some(());
    }
    if known != NONE {
        let _ = F::flows().remove(flow);
    }
    match whole {
        Some(false) => return None,
        Some(true) if ports.protocol == protocol::UDP => {
            // The next reply is to be the proof.
            let _ = F::replies().remove(&reply);
        }
        Some(true) => record::not_direct::<F>(F::replies(), &reply),
        None => {}
    }
    if !reserve::<F>(flow, &reply, id) {
        return None;
    }
    if turn > 0 {
        count::reason(Reason::PortChanged);
    }
    let endpoint = &endpoint;
    F::half().insert(flow, endpoint, 0).ok()
}

/// A port that the backend may know the client by.
#[inline(always)]
const fn another_port(ports: Ports, turn: u32) -> u16 {
    /// Below it are those of well-known services (RFC 6335 §6).
    const FIRST: u32 = 1024;
    // Spread, so that clients that count their ports upwards do not meet themselves.
    let mixed = (ports.source as u32 ^ turn << 16 ^ (ports.destination as u32) << 8)
        .wrapping_mul(0x9e37_79b1);
    (FIRST + (mixed >> 16) % (65536 - FIRST)) as u16
}

/// Takes the tuple of replies for a flow, unless another flow has it.
#[inline(always)]
fn reserve<F: Family>(flow: &F::Tuple, reply: &F::Tuple, id: u32) -> bool {
    let (_, vip, ports) = F::tuple_parts(flow);
    let mut origin = F::endpoint(vip, ports.destination, id);
    *origin.client_port() = clients_port::<F>(flow, reply);
    let origin = &origin;
    if F::half().insert(reply, origin, maps::NO_EXIST).is_ok() {
        return true;
    }
    let is_ours = |vip: &F::Endpoint| is_origin::<F>(vip, flow, reply);
    if maps::read(F::half(), reply, is_ours) != Some(true) {
        return false;
    }
    record::not_direct::<F>(F::half(), reply);
    true
}

/// Whether replies with that tuple are those to the flow.
#[inline(always)]
fn is_origin<F: Family>(origin: &F::Endpoint, flow: &F::Tuple, reply: &F::Tuple) -> bool {
    let (_, vip, ports) = F::tuple_parts(flow);
    let (address, port, _) = F::parts(origin);
    address == vip
        && port == ports.destination
        && origin.clients() == clients_port::<F>(flow, reply)
}

/// The client's port, where its backend knows another one.
#[inline(always)]
fn clients_port<F: Family>(flow: &F::Tuple, reply: &F::Tuple) -> u16 {
    let ((_, _, ports), (_, _, back)) = (F::tuple_parts(flow), F::tuple_parts(reply));
    if back.destination == ports.source { 0 } else { ports.source }
}

//! A backend's reply: its source becomes the VIP again.
//!
//! The packet may carry a partial checksum or stand for many segments, so it is changed by the
//! kernel's helpers, which know about both.

use aya_ebpf::programs::TcContext;
use kube_vip_common::filter::BACKENDS;
use kube_vip_common::stats::Reason;
use network_types::eth::EthHdr;
use network_types::tcp::TcpHdr;

use super::{Action, Unusual};
use crate::family::{Family, Ports, Record as _, protocol};
use crate::frame::Cursor;
use crate::maps::{self, FILTER};
use crate::xdp::transport::sequence;
use crate::{count, helpers, record};

/// Offsets of the checksum in TCP (RFC 9293 §3.1) and UDP (RFC 768) headers.
const TCP_CHECK: usize = 16;
const UDP_CHECK: usize = 6;

/// What a packet without tags, fragments and extension headers is rewritten by; others are looked
/// at by a stage of their own.
#[inline(always)]
pub(super) fn handle<F: Family + Unusual>(ctx: &TcContext, mut cursor: Cursor<'_>) -> Action {
    let Some(ip) = cursor.take::<F::Header>() else {
        return Action::Next;
    };
    match F::plain(ip, &mut cursor) {
        Some(protocol @ (protocol::TCP | protocol::UDP)) => {
            whole::<F>(ctx, size_of::<EthHdr>(), ip, cursor, protocol)
        }
        _ => F::unusual(ctx, size_of::<EthHdr>()),
    }
}

/// A reply that is not in parts; its IP header is at `network`, the cursor behind that.
#[inline(always)]
pub(super) fn whole<F: Family>(
    ctx: &TcContext,
    network: usize,
    ip: &F::Header,
    mut cursor: Cursor<'_>,
    protocol: u8,
) -> Action {
    let transport = cursor.offset(ctx);
    let Some([s0, s1, d0, d1]) = cursor.peek::<[u8; 4]>() else {
        return Action::Next;
    };
    let (source, ports) = (
        F::source(ip),
        Ports {
            source: u16::from_be_bytes([s0, s1]),
            destination: u16::from_be_bytes([d0, d1]),
            protocol,
        },
    );
    let is_backend = |filter| F::bit(source).with_port(ports.source).is_set(filter);
    if !FILTER.get(BACKENDS).is_some_and(is_backend) {
        return Action::Next;
    }
    let client = F::destination(ip);
    let reply = F::tuple(source, client, ports);
    // What the client of a connection that opens will acknowledge; 0 of any other packet.
    let mut opens = 0;
    if protocol == protocol::TCP
        && let Some(tcp) = cursor.take::<TcpHdr>()
        && tcp.syn() != 0
        && tcp.ack() != 0
    {
        opens = sequence(u32::from_be_bytes(tcp.seq).wrapping_add(1));
    }
    let Some(mut origin) = origin::<F>(&reply, protocol, opens) else {
        return Action::Next;
    };
    if record::is_direct::<F>(origin) && opens != 0 {
        // The answer to a client that spoke straight to the backend.
        record::forget::<F>(&record::flow_tuple::<F>(client, ports, origin), &reply);
        count::reason(Reason::FlowReplaced);
        return Action::Next;
    }
    let (vip, port, backend) = F::parts(&origin);
    // Tags are not counted, wherever they are.
    let bytes = u64::from(ctx.len()) - (network - size_of::<EthHdr>()) as u64;
    let packets = helpers::segments(ctx);
    let to = match *origin.client_port() {
        0 => Ports { source: port, ..ports },
        client_port => Ports { source: port, destination: client_port, ..ports },
    };
    match rewrite::<F>(ctx, (network, transport), source, ports, vip, to) {
        Ok(()) => {
            count::replied(backend, packets, bytes);
            Action::Next
        }
        // Half rewritten it would reach the client from a stranger.
        Err(_) => {
            count::reason(Reason::ReplyFailed);
            Action::Drop
        }
    }
}

/// The VIP that a reply belongs to, by its record, which learns of the reply what proves that the
/// client exists or that the flow lives.
#[inline(always)]
fn origin<F: Family>(reply: &F::Tuple, protocol: u8, opens: u64) -> Option<F::Endpoint> {
    if opens == 0
        && let Some(mut origin) = record::reply::<F>(reply)
    {
        let now = maps::seconds();
        if protocol == protocol::UDP && *origin.stamp() != now {
            maps::change(F::replies(), reply, |origin| *origin.stamp() = now);
        }
        return Some(origin);
    }
    // A connection that opens may have the tuple of one that is closing.
    match record::half::<F>(reply) {
        Some(origin) => {
            if opens != 0 || protocol == protocol::UDP {
                record::answered::<F>(reply, opens as u32);
            }
            Some(origin)
        }
        None if opens != 0 => record::reply::<F>(reply),
        None => None,
    }
}

#[inline(always)]
fn rewrite<F: Family>(
    ctx: &TcContext,
    (network, transport): (usize, usize),
    old: F::Bytes,
    ports: Ports,
    vip: F::Bytes,
    to: Ports,
) -> Result<(), i64> {
    let udp = ports.protocol == protocol::UDP;
    let check = transport + if udp { UDP_CHECK } else { TCP_CHECK };
    F::replace_source(ctx, network, check, old, vip, udp)?;
    if to.source != ports.source {
        helpers::replace_port(ctx, check, ports.source, to.source, udp)?;
        ctx.store(transport, &to.source.to_be_bytes(), 0)?;
    }
    if to.destination != ports.destination {
        helpers::replace_port(ctx, check, ports.destination, to.destination, udp)?;
        ctx.store(transport + 2, &to.destination.to_be_bytes(), 0)?;
    }
    Ok(())
}

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
use crate::family::{Family, Ports, protocol};
use crate::frame::Cursor;
use crate::maps::FILTER;
use crate::{count, helpers};

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
    let Some(origin) = F::reverse(&reply) else {
        return Action::Next;
    };
    let opens = cursor.take::<TcpHdr>().is_some_and(|tcp| tcp.syn() != 0 && tcp.ack() != 0);
    if F::is_direct(&origin) && protocol == protocol::TCP && opens {
        // The answer to a client that spoke straight to the backend.
        let (vip, port, _) = F::parts(&origin);
        let forward = Ports { source: ports.destination, destination: port, protocol };
        F::forget(&F::tuple(client, vip, forward), &reply);
        count::reason(Reason::FlowReplaced);
        return Action::Next;
    }
    let (vip, port, backend) = F::parts(&origin);
    // Tags are not counted, wherever they are.
    let bytes = u64::from(ctx.len()) - (network - size_of::<EthHdr>()) as u64;
    let packets = helpers::segments(ctx);
    match rewrite::<F>(ctx, (network, transport), source, ports, vip, port) {
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

#[inline(always)]
fn rewrite<F: Family>(
    ctx: &TcContext,
    (network, transport): (usize, usize),
    old: F::Bytes,
    ports: Ports,
    vip: F::Bytes,
    port: u16,
) -> Result<(), i64> {
    let udp = ports.protocol == protocol::UDP;
    let check = transport + if udp { UDP_CHECK } else { TCP_CHECK };
    F::replace_source(ctx, network, check, old, vip, udp)?;
    if port != ports.source {
        helpers::replace_port(ctx, check, ports.source, port, udp)?;
        ctx.store(transport, &port.to_be_bytes(), 0)?;
    }
    Ok(())
}

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
            whole::<F>(ctx, size_of::<EthHdr>(), ip, cursor, protocol).action()
        }
        _ => F::unusual(ctx, size_of::<EthHdr>()),
    }
}

/// What was found out about a packet, and done.
pub(super) enum Outcome<E> {
    /// It is no reply of a balanced connection.
    None,
    /// It comes from this VIP now.
    Rewritten(E),
    /// It could not be rewritten.
    Failed,
}

impl<E> Outcome<E> {
    #[inline(always)]
    pub(super) fn action(self) -> Action {
        match self {
            Self::None | Self::Rewritten(_) => Action::Next,
            Self::Failed => Action::Drop,
        }
    }
}

/// A reply, or the first fragment of one; its IP header is at `network`, the cursor behind that.
#[inline(always)]
pub(super) fn whole<F: Family>(
    ctx: &TcContext,
    network: usize,
    ip: &F::Header,
    mut cursor: Cursor<'_>,
    protocol: u8,
) -> Outcome<F::Endpoint> {
    let transport = cursor.offset(ctx);
    let Some([s0, s1, d0, d1]) = cursor.peek::<[u8; 4]>() else {
        return Outcome::None;
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
        return Outcome::None;
    }
    let client = F::destination(ip);
    let reply = F::tuple(source, client, ports);
    let Some(origin) = F::reverse(&reply) else {
        return Outcome::None;
    };
    let opens = cursor.take::<TcpHdr>().is_some_and(|tcp| tcp.syn() != 0 && tcp.ack() != 0);
    if F::is_direct(&origin) && protocol == protocol::TCP && opens {
        // The answer to a client that spoke straight to the backend.
        let (vip, port, _) = F::parts(&origin);
        let forward = Ports { source: ports.destination, destination: port, protocol };
        F::forget(&F::tuple(client, vip, forward), &reply);
        count::reason(Reason::FlowReplaced);
        return Outcome::None;
    }
    let (vip, port, backend) = F::parts(&origin);
    let (packets, bytes) = size(ctx, network);
    match rewrite::<F>(ctx, (network, transport), source, ports, vip, port) {
        Ok(()) => {
            count::replied(backend, packets, bytes);
            Outcome::Rewritten(origin)
        }
        // Half rewritten it would reach the client from a stranger.
        Err(_) => {
            count::reason(Reason::ReplyFailed);
            Outcome::Failed
        }
    }
}

/// Packets that an skb stands for, and its bytes without tags.
#[inline(always)]
pub(super) fn size(ctx: &TcContext, network: usize) -> (u64, u64) {
    let tags = network - size_of::<EthHdr>();
    (helpers::segments(ctx), u64::from(ctx.len()) - tags as u64)
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
    // The checksum of SCTP covers ports, which stay, and no addresses (RFC 9260 §6.8).
    if ports.protocol != protocol::SCTP {
        let udp = ports.protocol == protocol::UDP;
        let check = transport + if udp { UDP_CHECK } else { TCP_CHECK };
        F::replace_in_pseudo(ctx, check, old, vip, udp)?;
        if port != ports.source {
            helpers::replace_port(ctx, check, ports.source, port, udp)?;
            ctx.store(transport, &port.to_be_bytes(), 0)?;
        }
    }
    F::replace_source(ctx, network, old, vip)
}

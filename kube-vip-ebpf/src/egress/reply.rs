//! A backend's reply: its source becomes the VIP again.
//!
//! The packet may carry a partial checksum or stand for many segments, so it is changed by the
//! kernel's helpers, which know about both.

use aya_ebpf::programs::TcContext;
use kube_vip_common::filter::BACKENDS;
use kube_vip_common::flow::DIRECT;
use kube_vip_common::stats::Reason;
use network_types::eth::EthHdr;
use network_types::tcp::TcpHdr;

use super::{Action, Unusual, clamp};
use crate::family::{Family, Ports, Record as _, protocol};
use crate::frame::{Cursor, Word};
use crate::maps::{self, FILTER};
use crate::xdp::transport::{self, sequence};
use crate::{count, helpers, record};

/// Offsets of the checksum in TCP (RFC 9293 §3.1) and UDP (RFC 768) headers.
const TCP_CHECK: usize = 16;
const UDP_CHECK: usize = 6;

/// Type of the chunk that answers the one that begins an association (RFC 9260 §3.3.3).
const INIT_ACK: u8 = 2;

/// What a packet without tags, fragments and extension headers is rewritten by; others are looked
/// at by a stage of their own.
#[inline(always)]
pub(super) fn handle<F: Family + Unusual>(ctx: &TcContext, mut cursor: Cursor<'_>) -> Action {
    let Some(ip) = cursor.take::<F::Header>() else {
        return Action::Next;
    };
    match F::plain(ip, &mut cursor) {
        Some(protocol @ (protocol::TCP | protocol::UDP)) => {
            let answers = protocol == protocol::TCP && is_syn_ack(&cursor);
            let outcome = whole::<F>(ctx, size_of::<EthHdr>(), ip, cursor, protocol, true);
            if answers && outcome.is_rewritten() && clamp::is_wanted::<F>() {
                F::clamp(ctx);
            }
            outcome.action()
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

#[inline(always)]
fn is_syn_ack(cursor: &Cursor<'_>) -> bool {
    cursor.peek::<TcpHdr>().is_some_and(|tcp| tcp.syn() != 0 && tcp.ack() != 0)
}

impl<E> Outcome<E> {
    #[inline(always)]
    fn is_rewritten(&self) -> bool {
        matches!(self, Self::Rewritten(_))
    }

    #[inline(always)]
    pub(super) fn action(self) -> Action {
        match self {
            Self::None | Self::Rewritten(_) => Action::Next,
            Self::Failed => Action::Drop,
        }
    }
}

/// A reply, or the first fragment of one; its IP header is at `network`, the cursor behind that. Only
/// `plain` ones end a connection's record: for others there is no room on the stack.
#[inline(always)]
pub(super) fn whole<F: Family>(
    ctx: &TcContext,
    network: usize,
    ip: &F::Header,
    mut cursor: Cursor<'_>,
    protocol: u8,
    plain: bool,
) -> Outcome<F::Endpoint> {
    let segment = cursor.offset(ctx);
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
    let word = word(&mut cursor, protocol);
    let opens = word & OPENS;
    let Some(origin) = origin::<F>(&reply, protocol, opens) else {
        return Outcome::None;
    };
    if origin.marks() & DIRECT != 0 && opens != 0 {
        // The answer to a client that spoke straight to the backend.
        record::forget::<F>(&record::flow_tuple::<F>(client, ports, origin), &reply);
        count::reason(Reason::FlowReplaced);
        return Outcome::None;
    }
    if plain && word & ENDS != 0 {
        record::reply_ends::<F>(&reply, (word >> SAID) as u32);
    }
    let (vip, port, backend) = F::parts(origin);
    let to = match origin.clients() {
        0 => Ports { source: port, ..ports },
        client_port => Ports { source: port, destination: client_port, ..ports },
    };
    let (packets, bytes) = size(ctx, network);
    match rewrite::<F>(ctx, (network, segment), source, ports, vip, to) {
        Ok(()) => {
            count::replied(backend, packets, bytes);
            Outcome::Rewritten(*origin)
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

/// What of a segment matters to records, as one number, for the sake of the stack: what the client of
/// a connection that opens will acknowledge, as [`sequence`] has it, and above that
/// [`record::said`].
#[inline(always)]
fn word(cursor: &mut Cursor<'_>, protocol: u8) -> u64 {
    if protocol == protocol::TCP
        && let Some(tcp) = cursor.take::<TcpHdr>()
    {
        let signs = transport::signs(tcp);
        let opens = match signs.syn && signs.ack {
            true => sequence(u32::from_be_bytes(tcp.seq).wrapping_add(1)),
            false => 0,
        };
        opens | u64::from(record::said(signs)) << SAID
    } else if protocol == protocol::SCTP
        && let Some([_, _, _, [INIT_ACK, ..], tag]) = cursor.take::<[Word; 5]>()
    {
        sequence(u32::from_be_bytes(*tag))
    } else {
        0
    }
}

const SAID: u32 = 33;
const OPENS: u64 = (1 << SAID) - 1;
const ENDS: u64 = (record::SAID_END as u64) << SAID;

/// The VIP that a reply belongs to, by its record, which learns of the reply what proves that the
/// client exists or that the flow lives.
#[inline(always)]
fn origin<F: Family>(reply: &F::Tuple, protocol: u8, opens: u64) -> Option<&'static F::Endpoint> {
    if opens == 0
        && let Some(origin) = maps::in_place(F::replies(), reply)
    {
        let now = maps::clock();
        if protocol == protocol::UDP && origin.seen() != now {
            maps::change(F::replies(), reply, |origin| *origin.stamp() = now);
        }
        return Some(origin);
    }
    // A connection that opens may have the tuple of one that is closing.
    match maps::in_place(F::half(), reply) {
        Some(origin) => {
            if opens != 0 || protocol == protocol::UDP {
                record::answered::<F>(reply, opens as u32);
            }
            Some(origin)
        }
        None if opens != 0 => maps::in_place(F::replies(), reply),
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
    // The checksum of SCTP covers ports, which stay, and no addresses (RFC 9260 §6.8).
    if ports.protocol != protocol::SCTP {
        let udp = ports.protocol == protocol::UDP;
        let check = transport + if udp { UDP_CHECK } else { TCP_CHECK };
        F::replace_in_pseudo(ctx, check, old, vip, udp)?;
        if to.source != ports.source {
            helpers::replace_port(ctx, check, ports.source, to.source, udp)?;
            ctx.store(transport, &to.source.to_be_bytes(), 0)?;
        }
        if to.destination != ports.destination {
            helpers::replace_port(ctx, check, ports.destination, to.destination, udp)?;
            ctx.store(transport + 2, &to.destination.to_be_bytes(), 0)?;
        }
    }
    F::replace_source(ctx, network, old, vip)
}

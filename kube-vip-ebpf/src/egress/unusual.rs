//! What leaves and is no plain TCP or UDP, or has VLAN tags in front of it.

use aya_ebpf::programs::TcContext;
use network_types::eth::EthHdr;

use super::reply::Outcome;
use super::{Action, Unusual, again, error, fence, fragments, reply};
use crate::ethertype;
use crate::family::{Family, Payload, V4, V6, protocol};
use crate::frame::{Cursor, Word};

/// Looks behind one or two tags that are in the frame itself: a tag in the packet's metadata, where
/// VLAN devices put the outermost one, is not seen here and not in the way.
#[inline(always)]
pub(super) fn tagged(ctx: TcContext) -> Action {
    let mut cursor = Cursor::new(&ctx);
    let Some(ethernet) = cursor.take::<EthHdr>() else {
        return Action::Next;
    };
    let (mut ether_type, mut network) = (ethernet.ether_type, size_of::<EthHdr>());
    for _ in 0..2 {
        if ethertype::is_tag(ether_type) {
            let Some([_, _, a, b]) = cursor.take::<Word>() else {
                return Action::Next;
            };
            (ether_type, network) = (u16::from_ne_bytes([*a, *b]), network + size_of::<Word>());
        }
    }
    match ether_type {
        ethertype::IPV4 => V4::unusual(&ctx, network),
        ethertype::IPV6 if fence::is_discovery(&cursor) => fence::discovery(again(&ctx), network),
        ethertype::IPV6 => V6::unusual(&ctx, network),
        ethertype::ARP => fence::arp(again(&ctx), network),
        _ => Action::Next,
    }
}

/// An IP packet whose header is at `network`.
#[inline(always)]
pub(crate) fn handle<F: Family>(ctx: TcContext, network: usize) -> Action {
    let mut cursor = Cursor::new(&ctx);
    cursor.skip(network & 0xff);
    let Some(ip) = cursor.take::<F::Header>() else {
        return Action::Next;
    };
    let (source, client) = (F::source(ip), F::destination(ip));
    let payload = F::payload(&ctx, ip, &mut cursor);
    let id = cursor.fragment;
    match payload {
        Payload::Protocol(protocol @ (protocol::TCP | protocol::UDP | protocol::SCTP)) => {
            reply::whole::<F>(&ctx, network, ip, cursor, protocol).action()
        }
        Payload::FirstFragment(protocol @ (protocol::UDP | protocol::TCP | protocol::SCTP)) => {
            let outcome = reply::whole::<F>(&ctx, network, ip, cursor, protocol);
            if let Outcome::Rewritten(origin) = &outcome {
                fragments::remember::<F>(source, client, id, origin);
            }
            outcome.action()
        }
        Payload::LaterFragment => fragments::follow::<F>(&ctx, network, source, client, id),
        Payload::Protocol(protocol) if protocol == F::ICMP => {
            error::handle::<F>(again(&ctx), network)
        }
        _ => Action::Next,
    }
}

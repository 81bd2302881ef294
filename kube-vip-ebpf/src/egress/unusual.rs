//! What leaves and is no plain TCP or UDP, or has VLAN tags in front of it.

use aya_ebpf::programs::TcContext;
use network_types::eth::EthHdr;

use super::reply::Outcome;
use super::{Action, fence, fragments, reply};
use crate::ethertype;
use crate::family::{Family, Payload, protocol};
use crate::frame::{Cursor, Word};

/// What is behind VLAN tags, for a stage of its own.
pub(super) const NOTHING: u32 = 0;
pub(super) const IPV4: u32 = 1;
pub(super) const IPV6: u32 = 2;
pub(super) const DISCOVERY: u32 = 3;
pub(super) const ARP: u32 = 4;

/// Looks behind one or two tags that are in the frame itself: a tag in the packet's metadata, where
/// VLAN devices put the outermost one, is not seen here and not in the way. What is there in the
/// lowest byte, and where it begins above.
#[inline(always)]
pub(crate) fn behind_tags(ctx: TcContext) -> u32 {
    let mut cursor = Cursor::new(&ctx);
    let Some(ethernet) = cursor.take::<EthHdr>() else {
        return NOTHING;
    };
    let (mut ether_type, mut network) = (ethernet.ether_type, size_of::<EthHdr>() as u32);
    for _ in 0..2 {
        if ethertype::is_tag(ether_type) {
            let Some([_, _, a, b]) = cursor.take::<Word>() else {
                return NOTHING;
            };
            ether_type = u16::from_ne_bytes([*a, *b]);
            network += size_of::<Word>() as u32;
        }
    }
    let kind = match ether_type {
        ethertype::IPV4 => IPV4,
        ethertype::IPV6 if fence::is_discovery(&cursor) => DISCOVERY,
        ethertype::IPV6 => IPV6,
        ethertype::ARP => ARP,
        _ => NOTHING,
    };
    kind | network << 8
}

/// Answer of a stage: it is an ICMP error, for another one.
pub(super) const ERROR: i32 = 1;

/// An IP packet whose header is at `network`.
#[inline(always)]
pub(crate) fn handle<F: Family>(ctx: TcContext, network: usize) -> i32 {
    let mut cursor = Cursor::new(&ctx);
    cursor.skip(network & 0xff);
    let Some(ip) = cursor.take::<F::Header>() else {
        return Action::Next as i32;
    };
    let (source, client) = (F::source(ip), F::destination(ip));
    let payload = F::payload(&ctx, ip, &mut cursor);
    let id = cursor.fragment;
    let action = match payload {
        Payload::Protocol(protocol @ (protocol::TCP | protocol::UDP | protocol::SCTP)) => {
            reply::whole::<F>(&ctx, network, ip, cursor, protocol, false).action()
        }
        Payload::FirstFragment(protocol @ (protocol::UDP | protocol::TCP | protocol::SCTP)) => {
            let outcome = reply::whole::<F>(&ctx, network, ip, cursor, protocol, false);
            if let Outcome::Rewritten(origin) = &outcome {
                fragments::remember::<F>(source, client, id, origin);
            }
            outcome.action()
        }
        Payload::LaterFragment => fragments::follow::<F>(&ctx, network, source, client, id),
        Payload::Protocol(protocol) if protocol == F::ICMP => return ERROR,
        _ => Action::Next,
    };
    action as i32
}

//! Answers a packet with "destination unreachable" (RFC 792, RFC 4443 §3.1), quoting its header with
//! options or extension headers and the eight bytes behind it: what every receiver needs to find
//! the socket.

use aya_ebpf::programs::XdpContext;
use network_types::eth::EthHdr;

use super::{Action, agent, is_unicast};
use crate::family::{Family, protocol};
use crate::frame::{Cursor, Word};
use crate::helpers;

/// Type and code: nobody at that port.
const PORT_V4: [u8; 2] = [3, 3];
const PORT_V6: [u8; 2] = [1, 4];
/// Type and code: the address is not here.
const HOST_V4: [u8; 2] = [3, 1];
const HOST_V6: [u8; 2] = [1, 3];

/// Type and code: too big for the way (RFC 1191 §4, RFC 4443 §3.2).
const TOO_BIG_V4: [u8; 2] = [3, 4];
const TOO_BIG_V6: [u8; 2] = [2, 0];

/// Words of the ICMP header.
const HEADER: usize = 2;

/// Most words that are quoted: the longest IPv4 header, or an IPv6 header with 88 bytes of extension
/// headers, and the eight bytes. A packet with more of them is not answered.
const QUOTED: usize = 34;

/// With `mtu` the answer is the size that a packet may have. Nothing where it must not be answered.
#[inline(never)]
pub(super) fn answer<F: Family>(mut ctx: XdpContext, mtu: u16) -> Option<Action> {
    let mut cursor = Cursor::new(&ctx);
    let ethernet = *cursor.take::<EthHdr>()?;
    let ip = cursor.take::<F::Header>()?;
    let protocol = F::payload(&ctx, ip, &mut cursor).protocol()?;
    let quoted = (cursor.offset(&ctx) - size_of::<EthHdr>()) / 4 + 2;
    let (client, vip, packet) = (F::source(ip), F::destination(ip), F::length(ip));
    // Where the client of an agent's frame is on the link is not known here.
    let from_agent = agent::position::<F>(&ethernet, ip).is_some();
    if !is_unicast(&ethernet) || !F::is_answerable(client) || from_agent || quoted > QUOTED {
        return None;
    }
    let kind = match (F::ICMP, protocol) {
        (protocol::ICMP, _) if mtu != 0 => TOO_BIG_V4,
        _ if mtu != 0 => TOO_BIG_V6,
        (protocol::ICMP, protocol::UDP) => PORT_V4,
        (protocol::ICMP, _) => HOST_V4,
        (_, protocol::UDP) => PORT_V6,
        _ => HOST_V6,
    };

    // The old IP header stays where it is and becomes the quotation.
    let room = size_of::<F::Header>() + HEADER * 4;
    helpers::grow_head(&mut ctx, room as i32)?;
    let quotation = size_of::<EthHdr>() + room;
    helpers::set_length(&mut ctx, packet + room as u32, (quotation + quoted * 4) as u64)?;
    let mut cursor = Cursor::new(&ctx);
    let turned = cursor.take::<EthHdr>()?;
    let ip = cursor.take::<F::Header>()?;
    let icmp = cursor.take::<[Word; HEADER]>()?;
    *turned = EthHdr {
        dst_addr: ethernet.src_addr,
        src_addr: ethernet.dst_addr,
        ether_type: ethernet.ether_type,
    };
    let length = ((HEADER + quoted) * 4) as u16;
    F::write(ip, vip, client, F::ICMP, length);
    // ICMPv6 covers the pseudo-header (RFC 4443 §2.3), ICMP does not.
    let mut sum = if F::ICMP == protocol::ICMPV6 {
        F::pseudo(vip, client, F::ICMP, length)
    } else {
        Default::default()
    };
    let [m0, m1] = mtu.to_be_bytes();
    sum = sum.add(u16::from_ne_bytes(kind).into()).add(u16::from_ne_bytes([m0, m1]).into());
    for n in 0..QUOTED {
        if n == quoted {
            break;
        }
        sum = sum.add(u32::from_ne_bytes(*cursor.take::<Word>()?));
    }
    let [c0, c1] = sum.checksum().to_ne_bytes();
    // The size is half a word for IPv4, which is the lower half of IPv6's.
    *icmp = [[kind[0], kind[1], c0, c1], [0, 0, m0, m1]];
    Some(Action::Transmit)
}

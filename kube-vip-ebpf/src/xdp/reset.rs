//! Answers a TCP segment with RST (RFC 9293 §3.10.7.1), as a host without the connection would.

use aya_ebpf::programs::XdpContext;
use network_types::eth::EthHdr;
use network_types::tcp::TcpHdr;

use super::{Action, is_unicast, turn};
use crate::family::{Family, Payload, protocol};
use crate::frame::{Cursor, Word};
use crate::helpers;

/// Flags in their byte (RFC 9293 §3.1).
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Shortest frame without its check sequence (IEEE 802.3 §3.2.8).
const SHORTEST_FRAME: usize = 60;

/// Nothing where it must not be answered.
#[inline(never)]
pub(super) fn answer<F: Family>(mut ctx: XdpContext) -> Option<Action> {
    let mut cursor = Cursor::new(&ctx);
    let ethernet = cursor.take::<EthHdr>()?;
    let ip = cursor.take::<F::Header>()?;
    let Payload::Protocol(protocol::TCP) = F::payload(&ctx, ip, &mut cursor) else {
        return None;
    };
    let headers = cursor.offset(&ctx) - size_of::<EthHdr>();
    let tcp = *cursor.take::<TcpHdr>()?;
    let (client, vip, packet) = (F::source(ip), F::destination(ip), F::length(ip));
    // An RST is never answered, else two hosts could reset each other for ever.
    if tcp.rst() != 0 || !is_unicast(ethernet) || !F::is_answerable(client) {
        return None;
    }
    let (sequence, acknowledgement, flags) = if tcp.ack() != 0 {
        (tcp.ack_seq, [0; 4], RST)
    } else {
        let headers = headers as u32 + u32::from(tcp.doff()) * 4;
        let text = packet.wrapping_sub(headers);
        let marks = u32::from(tcp.syn()) + u32::from(tcp.fin());
        let next = u32::from_be_bytes(tcp.seq).wrapping_add(text).wrapping_add(marks);
        ([0; 4], next.to_be_bytes(), RST | ACK)
    };

    let length = size_of::<EthHdr>() + size_of::<F::Header>() + size_of::<TcpHdr>();
    helpers::set_length(&mut ctx, packet, length.max(SHORTEST_FRAME) as u64)?;
    let mut cursor = Cursor::new(&ctx);
    let ethernet = cursor.take::<EthHdr>()?;
    let ip = cursor.take::<F::Header>()?;
    let segment = cursor.take::<[Word; 5]>()?;
    turn(ethernet);
    let length = size_of::<TcpHdr>() as u16;
    F::write(ip, vip, client, protocol::TCP, length);
    let [d0, d1] = tcp.dest;
    let [s0, s1] = tcp.source;
    // Five words of header, no window, no urgent pointer.
    let offset_and_flags = [5 << 4, flags, 0, 0];
    let words = [[d0, d1, s0, s1], sequence, acknowledgement, offset_and_flags];
    let sum = words.into_iter().fold(F::pseudo(vip, client, protocol::TCP, length), |sum, word| {
        sum.add(u32::from_ne_bytes(word))
    });
    let [c0, c1] = sum.checksum().to_ne_bytes();
    let [ports, sequence, acknowledgement, offset_and_flags] = words;
    *segment = [ports, sequence, acknowledgement, offset_and_flags, [c0, c1, 0, 0]];
    Some(Action::Transmit)
}

//! Another agent asks whether this data plane works: what it answers here, no agent has to.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::checksum::{self, Sum};
use kube_vip_common::hash::HASH_VERSION;
use kube_vip_common::probe::{Kind, Message, VERSION, WORDS};
use kube_vip_common::stats::Reason;
use network_types::eth::EthHdr;
use network_types::udp::UdpHdr;

use super::{Action, Verdict, turn};
use crate::family::{Family, Payload, protocol};
use crate::frame::{Cursor, Word};
use crate::maps::{self, CLOCK, SETTINGS};
use crate::{count, helpers};

/// Shortest frame without its check sequence (IEEE 802.3 §3.2.8).
const SHORTEST_FRAME: usize = 60;

#[inline(always)]
pub(crate) fn stage<F: Family>(mut ctx: XdpContext, _: u64) -> u64 {
    // What is no question, or not from a peer, is the kernel's.
    Verdict::Done(handle::<F>(&mut ctx).unwrap_or(Action::Pass)).pack()
}

#[inline(always)]
fn handle<F: Family>(ctx: &mut XdpContext) -> Option<Action> {
    let mut cursor = Cursor::new(ctx);
    let _ethernet = cursor.take::<EthHdr>()?;
    let ip = cursor.take::<F::Header>()?;
    let udp = F::payload(ctx, ip, &mut cursor) == Payload::Protocol(protocol::UDP);
    // Agents send no options and no extension headers.
    if !udp || cursor.offset(ctx) != size_of::<EthHdr>() + size_of::<F::Header>() {
        return None;
    }
    let udp = *cursor.take::<UdpHdr>()?;
    let question = Message::read(cursor.peek::<[Word; WORDS]>()?)?;
    let (asker, own, packet) = (F::source(ip), F::destination(ip), F::length(ip));
    if question.kind != Kind::Question {
        return None;
    }
    maps::peer_at(&F::address(asker))?;
    let (settings, clock) = (SETTINGS.get(0)?, CLOCK.get(0)?);
    let now = (helpers::boot_time() / 1_000_000_000) as u32;
    let answer = Message {
        kind: Kind::Answer,
        hash: HASH_VERSION,
        nonce: question.nonce,
        digest: settings.digest,
        age: now.wrapping_sub(clock.seconds),
        version: VERSION,
    };

    // The question may be longer, to try whether such packets get here; the answer never is.
    let length = (size_of::<UdpHdr>() + WORDS * 4) as u16;
    let frame = size_of::<EthHdr>() + size_of::<F::Header>() + usize::from(length);
    if helpers::set_length(ctx, packet, frame.max(SHORTEST_FRAME) as u64).is_none() {
        // Shorter than it says, and shorter still by now.
        count::reason(Reason::Malformed);
        return Some(Action::Drop);
    }
    let mut cursor = Cursor::new(ctx);
    turn(cursor.take::<EthHdr>()?);
    let ip = cursor.take::<F::Header>()?;
    let head = cursor.take::<[Word; 2]>()?;
    let body = cursor.take::<[Word; WORDS]>()?;
    F::write(ip, own, asker, protocol::UDP, length);
    *body = answer.words();
    let ([s0, s1], [d0, d1], [l0, l1]) = (udp.dst, udp.src, length.to_be_bytes());
    *head = [[s0, s1, d0, d1], [l0, l1, 0, 0]];
    let add = |sum: Sum, word: &Word| sum.add(u32::from_ne_bytes(*word));
    let pseudo = F::pseudo(own, asker, protocol::UDP, length);
    let sum = body.iter().fold(head.iter().fold(pseudo, add), add);
    let [c0, c1] = checksum::udp(sum.checksum()).to_ne_bytes();
    *head = [[s0, s1, d0, d1], [l0, l1, c0, c1]];
    count::reason(Reason::ProbeAnswered);
    Some(Action::Transmit)
}

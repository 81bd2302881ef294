//! For an address of ours and no plain TCP or UDP, which [`judge`](super::judge) has at hand: with
//! extension headers, in fragments, of another protocol.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::stats::Reason;
use network_types::eth::EthHdr;

use super::{
    Action, FIRST_FRAGMENT, Refusal, Verdict, balance, error, fragments, is_anothers, transport,
};
use crate::family::{Family, Payload, protocol};
use crate::frame::Cursor;

#[inline(always)]
pub(crate) fn stage<F: Family>(ctx: XdpContext, _: u64) -> u64 {
    let mut first = 0;
    let verdict = handle::<F>(&ctx, &mut first);
    verdict.pack() | first
}

#[inline(always)]
fn handle<F: Family>(ctx: &XdpContext, first: &mut u64) -> Verdict {
    let mut cursor = Cursor::new(ctx);
    let (Some(ethernet), Some(ip)) = (cursor.take::<EthHdr>(), cursor.take::<F::Header>()) else {
        return Verdict::Done(Action::Pass);
    };
    let payload = F::payload(ctx, ip, &mut cursor);
    match payload {
        Payload::LaterFragment => return Verdict::Follow,
        Payload::Protocol(protocol) if protocol == F::ICMP && error::is_one::<F>(&cursor) => {
            return Verdict::Error;
        }
        // Of a packet that is only flooded here nothing is remembered.
        Payload::FirstFragment(_) if !is_anothers(ctx, ethernet) => {
            fragments::begin::<F>(ip, cursor.fragment);
            *first = FIRST_FRAGMENT;
        }
        _ => {}
    }
    match payload.protocol() {
        Some(protocol @ (protocol::TCP | protocol::UDP | protocol::SCTP)) => {
            match transport::parse(&mut cursor, protocol) {
                Some(transport) => {
                    let verdict = balance::handle::<F>(ctx, ethernet, ip, transport);
                    if protocol == protocol::SCTP { untranslated(verdict) } else { verdict }
                }
                None => Verdict::Unbalanced,
            }
        }
        _ => Verdict::Unbalanced,
    }
}

/// SCTP is not translated: its checksum covers ports, which might have to change (RFC 9260 §6.8).
#[inline(always)]
fn untranslated(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Nat(chosen) | Verdict::NatOpen(chosen) => {
            chosen.refuse(Refusal::Unreachable(Reason::NoBackendUnreachable))
        }
        Verdict::Stray(chosen) => Verdict::Lost(chosen),
        verdict => verdict,
    }
}

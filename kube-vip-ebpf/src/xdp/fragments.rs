//! Fragments of one packet go the same way. The first one has ports and is handled like a packet;
//! what it has become then is remembered, and done to the others.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::fragment::{ARRIVED, Fate, FragmentKey};
use kube_vip_common::stats::Reason;
use kube_vip_common::vip::VIRTUAL;
use network_types::eth::EthHdr;

use super::{Action, Verdict, is_anothers};
use crate::count;
use crate::family::{Family, Payload};
use crate::frame::{Cursor, Key as _, Word};
use crate::maps::{self, FRAGS};

/// Keeps what will tell the others, before the first fragment is changed.
#[inline(always)]
pub(super) fn begin<F: Family>(ip: &F::Header, id: u32) {
    maps::keep_fragment(F::fragment_key(F::source(ip), F::destination(ip), id, ARRIVED));
}

/// Remembers what has become of a first fragment; the number is its packed verdict.
#[inline(always)]
pub(crate) fn remember<F: Family>(ctx: XdpContext, verdict: u64) -> u64 {
    if written::<F>(&ctx, verdict).is_none()
        && let Some(key) = maps::kept_fragment()
    {
        // The others are dropped and counted, and go nowhere where an earlier packet's went.
        let _ = FRAGS.remove(key);
    }
    verdict
}

#[inline(always)]
fn written<F: Family>(ctx: &XdpContext, verdict: u64) -> Option<()> {
    let key = maps::kept_fragment()?;
    let mut cursor = Cursor::new(ctx);
    let link = cursor.take::<[Word; 3]>()?.map(u32::from_ne_bytes);
    cursor.take::<[u8; 2]>()?;
    let ip = cursor.take::<F::Header>()?;
    let is_virtual =
        |key: &FragmentKey| maps::vip(&key.destination).is_some_and(|vip| vip.flags & VIRTUAL != 0);
    // The others of a refused packet are not answered as well.
    if verdict == Verdict::Done(Action::Drop).pack() || Verdict::is_refusal(verdict) {
        return None;
    }
    // What a host's own address gets anyway needs no place.
    if verdict == Verdict::Done(Action::Pass).pack()
        && F::bytes(&key.destination) == F::destination(ip)
        && !is_virtual(key)
    {
        return None;
    }
    let fate = Fate {
        verdict,
        source: F::address(F::source(ip)),
        destination: F::address(F::destination(ip)),
        link,
        ttl: F::ttl(ip).into(),
    };
    FRAGS.insert(key, fate, 0).ok()
}

/// Does to a fragment what was done to its first.
#[inline(always)]
pub(crate) fn follow<F: Family>(ctx: XdpContext, _: u64) -> u64 {
    followed::<F>(&ctx).unwrap_or(Verdict::Done(Action::Drop).pack())
}

#[inline(always)]
fn followed<F: Family>(ctx: &XdpContext) -> Option<u64> {
    const PASS: u64 = Verdict::Done(Action::Pass).pack();
    let mut cursor = Cursor::new(ctx);
    let ethernet = cursor.take::<EthHdr>()?;
    let ip = cursor.take::<F::Header>()?;
    if F::payload(ctx, ip, &mut cursor) != Payload::LaterFragment {
        return None;
    }
    let Some(vip) = maps::vip(&F::address(F::destination(ip))) else {
        return Some(PASS);
    };
    if is_anothers(ctx, ethernet) {
        return Some(PASS);
    }
    let key = F::fragment_key(F::source(ip), F::destination(ip), cursor.fragment, ARRIVED);
    let Some(fate) = maps::fate(&FragmentKey::from_words(key)) else {
        // A host's own address has fragments of its own, which its kernel puts together.
        if vip.flags & VIRTUAL == 0 {
            return Some(PASS);
        }
        count::reason(Reason::Fragment);
        return None;
    };
    if fate.verdict != PASS {
        let [[a, b, c, d], [e, f, g, h], [i, j, k, l]] = fate.link.map(u32::to_ne_bytes);
        let to = [a, b, c, d, e, f];
        if to == ethernet.src_addr {
            count::reason(Reason::BackToSender);
            return None;
        }
        (ethernet.dst_addr, ethernet.src_addr) = (to, [g, h, i, j, k, l]);
    }
    let (source, destination) = (F::bytes(&fate.source), F::bytes(&fate.destination));
    if source != F::source(ip) {
        F::set_source(ip, source);
    }
    if destination != F::destination(ip) {
        F::set_destination(ip, destination);
    }
    let ttl = fate.ttl as u8;
    if ttl != F::ttl(ip) {
        F::set_ttl(ip, ttl);
    }
    count::reason(Reason::FragmentFollowed);
    Some(fate.verdict)
}

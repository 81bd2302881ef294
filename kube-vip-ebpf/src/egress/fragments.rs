//! A reply in fragments: the others leave in the name that the first one, which has ports, left in.

use aya_ebpf::programs::TcContext;
use kube_vip_common::fragment::{Fate, FragmentKey, LEFT};
use kube_vip_common::stats::Reason;

use super::{Action, reply};
use crate::count;
use crate::family::Family;
use crate::frame::Key as _;
use crate::maps::{self, FRAGS};

/// Remembers where the first fragment came from.
#[inline(always)]
pub(super) fn remember<F: Family>(
    source: F::Bytes,
    client: F::Bytes,
    id: u32,
    origin: &F::Endpoint,
) {
    let (vip, _, backend) = F::parts(origin);
    let fate = Fate {
        verdict: backend.into(),
        source: F::address(vip),
        destination: F::address(client),
        link: [0; 3],
        ttl: 0,
    };
    let key = FragmentKey::from_words(F::fragment_key(source, client, id, LEFT));
    // Where that fails the others leave as they are, and nobody puts them together.
    let _ = FRAGS.insert(key, fate, 0);
}

/// Another fragment of a reply, if it is one.
#[inline(always)]
pub(super) fn follow<F: Family>(
    ctx: &TcContext,
    network: usize,
    source: F::Bytes,
    client: F::Bytes,
    id: u32,
) -> Action {
    let key = F::fragment_key(source, client, id, LEFT);
    let Some(fate) = maps::fate(&FragmentKey::from_words(key)) else {
        return Action::Next;
    };
    let (packets, bytes) = reply::size(ctx, network);
    if F::replace_source(ctx, network, source, F::bytes(&fate.source)).is_err() {
        count::reason(Reason::ReplyFailed);
        return Action::Drop;
    }
    count::reason(Reason::FragmentFollowed);
    count::replied(fate.verdict as u32, packets, bytes);
    Action::Next
}

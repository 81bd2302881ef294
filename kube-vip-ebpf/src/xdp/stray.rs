//! The middle of a connection that has no record here.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::stats::Reason;
use network_types::eth::EthHdr;

use super::{Action, Chosen, Refusal, Verdict};
use crate::family::Family;
use crate::frame::Cursor;

#[expect(clippy::extra_unused_type_parameters, reason = "as all stages have it")]
#[inline(always)]
pub(crate) fn stage<F: Family>(ctx: XdpContext, word: u64) -> u64 {
    let verdict = handle(&ctx, Chosen::unpack(word));
    verdict.unwrap_or(Verdict::Done(Action::Drop)).pack()
}

/// Nothing where the packet is not what the caller saw.
#[inline(always)]
fn handle(ctx: &XdpContext, chosen: Chosen) -> Option<Verdict> {
    let _ethernet = Cursor::new(ctx).take::<EthHdr>()?;
    Some(chosen.refuse(if chosen.from_agent() {
        Refusal::Closed(Reason::NoFlowReset)
    } else {
        Refusal::Reset(Reason::NoFlowReset)
    }))
}

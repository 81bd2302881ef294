//! The packet that began a flow, once that is recorded.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::stats::Reason;

use super::{Action, Chosen, Verdict, deliver, transport};
use crate::family::Family;
use crate::frame::length;
use crate::{count, record};

#[inline(always)]
pub(crate) fn stage<F: Family>(ctx: XdpContext, word: u64) -> u64 {
    let verdict = handle::<F>(&ctx, Chosen::unpack(word));
    verdict.unwrap_or(Verdict::Done(Action::Drop)).pack()
}

/// Nothing where the packet is not what the caller saw, or its record was evicted at once.
#[inline(always)]
fn handle<F: Family>(ctx: &XdpContext, chosen: Chosen) -> Option<Verdict> {
    let (_, ip, transport) = transport::packet::<F>(ctx)?;
    let flow = F::tuple(F::source(ip), F::destination(ip), transport.ports);
    let Some(endpoint) = record::flow::<F>(&flow).or_else(|| record::half::<F>(&flow)) else {
        count::reason(Reason::FlowTableFull);
        return None;
    };
    let bytes = length(ctx, F::length(ip));
    Some(deliver::to::<F>(ip, transport, &endpoint, bytes, chosen))
}

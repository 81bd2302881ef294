//! The packet that began a flow, once that is recorded.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::stats::Reason;
use network_types::eth::EthHdr;

use super::{Action, Chosen, Verdict, deliver, transport};
use crate::family::{Family, Payload};
use crate::frame::{Cursor, length};
use crate::{count, record};

#[inline(always)]
pub(crate) fn stage<F: Family>(ctx: XdpContext, word: u64) -> u64 {
    let verdict = handle::<F>(&ctx, Chosen::unpack(word));
    verdict.unwrap_or(Verdict::Done(Action::Drop)).pack()
}

/// Nothing where the packet is not what the caller saw, or its record was evicted at once.
#[inline(always)]
fn handle<F: Family>(ctx: &XdpContext, chosen: Chosen) -> Option<Verdict> {
    let mut cursor = Cursor::new(ctx);
    let _ethernet = cursor.take::<EthHdr>()?;
    let ip = cursor.take::<F::Header>()?;
    let Payload::Protocol(protocol) = F::payload(ip, &mut cursor) else {
        return None;
    };
    let transport = transport::parse(&mut cursor, protocol)?;
    let flow = F::tuple(F::source(ip), F::destination(ip), transport.ports);
    let Some(endpoint) = record::flow::<F>(&flow).or_else(|| record::half::<F>(&flow)) else {
        count::reason(Reason::FlowTableFull);
        return None;
    };
    Some(deliver::to::<F>(ip, transport, endpoint, length(ctx), chosen))
}

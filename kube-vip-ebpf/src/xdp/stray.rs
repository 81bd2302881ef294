//! What has no place here: the middle of a connection that has no record (the handshake's last
//! segment, or one whose connection is elsewhere), and the first packet of a flow that an agent sends
//! to where no backend is. What is no handshake's is [`second`](super::second)'s.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::stats::Reason;

use super::transport::{self, Transport};
use super::{Action, Chosen, Verdict, deliver};
use crate::family::Family;
use crate::frame::length;
use crate::{count, record};

#[inline(always)]
pub(crate) fn stage<F: Family>(ctx: XdpContext, word: u64) -> u64 {
    let verdict = handle::<F>(&ctx, Chosen::unpack(word));
    verdict.unwrap_or(Verdict::Done(Action::Drop)).pack()
}

/// Nothing where the packet is not what the caller saw.
#[inline(always)]
fn handle<F: Family>(ctx: &XdpContext, chosen: Chosen) -> Option<Verdict> {
    let (_, ip, transport) = transport::packet::<F>(ctx)?;
    if !transport.begins() {
        let flow = F::tuple(F::source(ip), F::destination(ip), transport.ports);
        if let Some(endpoint) = half_open::<F>(&flow, &transport, chosen) {
            let bytes = length(ctx, F::length(ip));
            return Some(deliver::to::<F>(ip, transport, &endpoint, bytes, chosen));
        }
    }
    Some(Verdict::Astray(chosen))
}

/// The backend of a connection whose client has not yet proved that it exists. It has by
/// acknowledging the number the backend chose, which only somebody at that address can know; what
/// acknowledges another one is the backend's to judge, and proves nothing.
#[inline(always)]
fn half_open<F: Family>(
    flow: &F::Tuple,
    transport: &Transport<'_>,
    chosen: Chosen,
) -> Option<F::Endpoint> {
    let endpoint = record::half::<F>(flow)?;
    let (client, _, ports) = F::tuple_parts(flow);
    let reply = record::reply_tuple::<F>(client, ports, &endpoint);
    let proved =
        transport.acknowledges != 0 && transport.acknowledges == record::answer::<F>(&reply);
    if proved {
        if !record::confirm::<F>(flow, &reply) {
            count::reason(Reason::FlowTableFull);
        }
    } else if chosen.may_be_elsewhere() {
        return None;
    }
    Some(endpoint)
}

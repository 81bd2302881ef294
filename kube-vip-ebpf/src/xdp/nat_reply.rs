//! What a backend sends to the source address of a translated flow: it goes to the client.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::settings::TRANSLATES;
use kube_vip_common::stats::Reason;
use network_types::eth::EthHdr;

use super::{Action, Verdict, locate, nat};
use crate::count;
use crate::family::Family;
use crate::frame::Cursor;
use crate::maps::SETTINGS;
use crate::stage::Stages;

#[inline(always)]
pub(crate) fn stage<F: Family + Stages>(ctx: XdpContext, _: u64) -> u64 {
    handle::<F>(&ctx).unwrap_or(Verdict::Unbalanced).pack()
}

/// Nothing where the packet is no such reply.
#[inline(always)]
fn handle<F: Family + Stages>(ctx: &XdpContext) -> Option<Verdict> {
    if SETTINGS.get(0)?.flags & TRANSLATES == 0 {
        return None;
    }
    let transport = locate::transport::<F>(ctx)?;
    let mut cursor = Cursor::new(ctx);
    let ethernet = cursor.take::<EthHdr>()?;
    let ip = cursor.take::<F::Header>()?;
    let flow = F::tuple(F::source(ip), F::destination(ip), transport.ports);
    let to = F::translation(&flow).filter(|to| to.reply)?;
    if to.link.ifindex == 0 {
        count::reason(Reason::NatClientUnknown);
        return Some(Verdict::Done(Action::Drop));
    }
    nat::known::<F>(ctx, ethernet, ip, transport, &flow, &to, None)
}

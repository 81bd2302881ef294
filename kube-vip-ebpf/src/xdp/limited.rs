//! How many new connections a client may open at a frontend that limits them.
//!
//! TCP is counted where a client's SYN arrives, before it is forwarded. A datagram does not say
//! whether it begins something, so UDP is counted where its flow is recorded.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::node::THIS_NODE;
use kube_vip_common::rate::Client;
use kube_vip_common::stats::Reason;
use network_types::eth::EthHdr;

use super::{Action, Chosen, Verdict, forward, is_anothers, transport};
use crate::count;
use crate::family::{Family, Ports};
use crate::frame::Cursor;
use crate::maps;

#[inline(always)]
pub(crate) fn stage<F: Family>(ctx: XdpContext, word: u64) -> u64 {
    let verdict = handle::<F>(&ctx, Chosen::unpack(word));
    verdict.unwrap_or(Verdict::Done(Action::Drop)).pack()
}

/// Nothing where the packet is not what the caller saw.
#[inline(always)]
fn handle<F: Family>(ctx: &XdpContext, chosen: Chosen) -> Option<Verdict> {
    let mut cursor = Cursor::new(ctx);
    let ethernet = cursor.take::<EthHdr>()?;
    let ip = cursor.take::<F::Header>()?;
    let protocol = F::payload(ctx, ip, &mut cursor).protocol()?;
    let ports = transport::parse(&mut cursor, protocol)?.ports;
    if is_anothers(ctx, ethernet) {
        return Some(Verdict::Done(Action::Pass));
    }
    if exceeded::<F>(ip, ports) {
        return Some(Verdict::Done(Action::Drop));
    }
    if chosen.slot.node() == THIS_NODE || !chosen.slot.is_some() {
        return Some(Verdict::Open(chosen));
    }
    Some(forward::handle::<F>(ctx, ethernet, ip, chosen))
}

/// Whether the client has used up what the frontend allows it; one more is counted either way.
#[inline(always)]
pub(super) fn exceeded<F: Family>(ip: &F::Header, ports: Ports) -> bool {
    let Some(frontend) = maps::frontend(F::frontend_key(F::destination(ip), ports)) else {
        return false;
    };
    if frontend.interval == 0 {
        return false;
    }
    let client = Client { address: F::address(F::source(ip)), frontend: frontend.id, pad: 0 };
    let exceeded = !maps::admits(&client, frontend.interval);
    if exceeded {
        count::reason(Reason::RateLimited);
    }
    exceeded
}

//! For an address of ours, but no frontend's.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::stats::Reason;
use kube_vip_common::vip::{HELD, OWN, SERVED, VIRTUAL};
use network_types::eth::EthHdr;

use super::transport;
use super::{Action, Refusal, Verdict, agent, direct, echo, is_anothers, is_unicast};
use crate::family::{Family, Payload, protocol};
use crate::frame::Cursor;
use crate::maps::{self, SETTINGS};
use crate::{count, log};

#[inline(always)]
pub(crate) fn stage<F: Family>(ctx: XdpContext, _: u64) -> u64 {
    handle::<F>(&ctx).pack()
}

#[inline(always)]
fn handle<F: Family>(ctx: &XdpContext) -> Verdict {
    let mut cursor = Cursor::new(ctx);
    let (Some(ethernet), Some(ip)) = (cursor.take::<EthHdr>(), cursor.take::<F::Header>()) else {
        return Verdict::Done(Action::Pass);
    };
    let Some(vip) = maps::vip(&F::address(F::destination(ip))) else {
        // The filter said maybe, the map says no.
        return Verdict::Done(Action::Pass);
    };
    if is_anothers(ctx, ethernet) {
        return Verdict::Done(Action::Pass);
    }
    let payload = F::payload(ctx, ip, &mut cursor);
    if let Some(protocol @ (protocol::TCP | protocol::UDP | protocol::SCTP)) = payload.protocol()
        && let Some(transport) = transport::parse(&mut cursor, protocol)
    {
        if vip.flags & OWN != 0 && transport.is_udp() && is_probe(transport.ports.destination) {
            return Verdict::Probe;
        }
        if vip.flags & SERVED != 0 {
            direct::handle::<F>(ip, &transport);
        }
    }
    let from_agent = agent::position::<F>(ethernet, ip).is_some();
    if from_agent && (vip.flags & VIRTUAL != 0 || vip.flags & HELD == 0) {
        // Not known here yet: the kernel would route it in circles, an RST would end a connection
        // that a moment later goes on.
        count::reason(Reason::UnknownFromAgent);
        log::rare(ctx, Reason::UnknownFromAgent, ethernet.src_addr);
        return Verdict::Done(Action::Drop);
    }
    if vip.flags & VIRTUAL == 0 {
        return Verdict::Done(Action::Pass);
    }
    if payload == Payload::Protocol(F::ICMP)
        && let Some(action) = echo::handle::<F>(ethernet, ip, &mut cursor, vip)
    {
        return Verdict::Done(action);
    }
    if vip.flags & HELD == 0 {
        return not_held::<F>(ethernet, payload);
    }
    // The kernel has the address: what is no frontend's is its own business.
    count::reason(Reason::PassedUp);
    Verdict::Done(Action::Pass)
}

#[inline(always)]
fn is_probe(port: u16) -> bool {
    port != 0 && SETTINGS.get(0).is_some_and(|settings| settings.probe_port == port)
}

/// The kernel has no such address and would route the packet out again.
#[inline(always)]
fn not_held<F: Family>(ethernet: &EthHdr, payload: Payload) -> Verdict {
    let reason = match payload {
        Payload::Malformed => Reason::Malformed,
        Payload::LaterFragment => Reason::Fragment,
        Payload::Protocol(protocol::TCP) if is_unicast(ethernet) => {
            return Verdict::Refuse(Refusal::Reset(Reason::NoFrontendReset));
        }
        Payload::Protocol(protocol) | Payload::FirstFragment(protocol)
            if protocol != F::ICMP && protocol != protocol::TCP && is_unicast(ethernet) =>
        {
            return Verdict::Refuse(Refusal::Unreachable(Reason::NoFrontendUnreachable));
        }
        _ => Reason::Unanswerable,
    };
    count::reason(reason);
    Verdict::Done(Action::Drop)
}

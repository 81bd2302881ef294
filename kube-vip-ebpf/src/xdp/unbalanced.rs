//! For an address of ours, but no frontend's.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::frontend::FrontendKey;
use kube_vip_common::stats::Reason;
use kube_vip_common::vip::{HELD, SERVED, VIRTUAL};
use network_types::eth::EthHdr;

use super::transport::{self, Transport};
use super::{Action, Refusal, Verdict, agent, direct, echo, is_unicast};
use crate::family::{Family, Payload, protocol};
use crate::frame::Cursor;
use crate::{count, log, maps};

#[inline(never)]
pub(super) fn handle<F: Family>(ctx: XdpContext) -> Verdict {
    let mut cursor = Cursor::new(&ctx);
    let (Some(ethernet), Some(ip)) = (cursor.take::<EthHdr>(), cursor.take::<F::Header>()) else {
        return Verdict::Done(Action::Pass);
    };
    let Some(vip) = maps::vip(&F::address(F::destination(ip))) else {
        // The filter said maybe, the map says no.
        return Verdict::Done(Action::Pass);
    };
    let payload = F::payload(ip, &mut cursor);
    let transport = match payload {
        Payload::Protocol(protocol @ (protocol::TCP | protocol::UDP))
        | Payload::FirstFragment(protocol @ (protocol::TCP | protocol::UDP)) => {
            transport::parse(&mut cursor, protocol)
        }
        _ => None,
    };
    if vip.flags & SERVED != 0 && let Some(transport) = &transport {
        direct::handle::<F>(ip, transport);
    }
    let from_agent = agent::position::<F>(ethernet, ip).is_some();
    if from_agent && (vip.flags & VIRTUAL != 0 || vip.flags & HELD == 0) {
        // Not known here yet: the kernel would route it in circles, an RST would end a connection
        // that a moment later goes on.
        count::reason(Reason::UnknownFromAgent);
        log::rare(&ctx, Reason::UnknownFromAgent, ethernet.src_addr);
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
    if vip.flags & HELD != 0 {
        return Verdict::Done(held::<F>(ip, payload, transport));
    }
    not_held::<F>(ethernet, payload)
}

/// The kernel has the address: what is no frontend's is its own business.
#[inline(always)]
fn held<F: Family>(ip: &F::Header, payload: Payload, transport: Option<Transport<'_>>) -> Action {
    if let (Payload::FirstFragment(_), Some(transport)) = (payload, transport) {
        let key = FrontendKey {
            address: F::address(F::destination(ip)),
            port: transport.ports.destination,
            protocol: transport.ports.protocol.into(),
            pad: 0,
        };
        if maps::frontend(&key).is_some() {
            count::reason(Reason::Fragment);
            return Action::Drop;
        }
    }
    count::reason(Reason::PassedUp);
    Action::Pass
}

/// The kernel has no such address and would route the packet out again.
#[inline(always)]
fn not_held<F: Family>(ethernet: &EthHdr, payload: Payload) -> Verdict {
    let reason = match payload {
        Payload::Protocol(protocol::TCP) if is_unicast(ethernet) => {
            return Verdict::Refuse(Refusal::Reset(Reason::NoFrontendReset));
        }
        Payload::Protocol(protocol) if protocol != F::ICMP && is_unicast(ethernet) => {
            return Verdict::Refuse(Refusal::Unreachable(Reason::NoFrontendUnreachable));
        }
        Payload::FirstFragment(_) | Payload::LaterFragment => Reason::Fragment,
        Payload::Malformed => Reason::Malformed,
        Payload::Protocol(_) => Reason::Unanswerable,
    };
    count::reason(reason);
    Verdict::Done(Action::Drop)
}

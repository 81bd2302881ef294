//! Second chance: a segment whose connection is not known here goes on to the host that has said it is
//! there ([`kube_vip_common::stray`]), or else to one that may know it; a new flow for which an agent
//! thought a backend were here to one where this host thinks that there is one. Which, and why that
//! ends, is said in [`kube_vip_common::history`]. Who is left over is refused.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::backend::NOBODY;
use kube_vip_common::history::{self, Past};
use kube_vip_common::mark;
use kube_vip_common::node::{Hop, LINK, NAT, THIS_NODE};
use kube_vip_common::settings::REPLICATES;
use kube_vip_common::stats::Reason;
use kube_vip_common::table::Slot;
use network_types::eth::EthHdr;

use super::forward::is_client_of;
use super::{
    Action, Chosen, Onward, Refusal, Verdict, balance, forward, is_anothers, open, pick, transport,
};
use crate::family::{Family, Ports};
use crate::maps::{self, NODES, SETTINGS};
use crate::{count, ownership};

/// The index into `NODES` that is no host's.
const NOBODY_TOLD: u8 = 0;

/// No host's place in the order of all.
const NOBODYS: u32 = u32::MAX;

#[inline(always)]
pub(crate) fn stage<F: Family>(ctx: XdpContext, word: u64) -> u64 {
    let verdict = handle::<F>(&ctx, Chosen::unpack(word));
    verdict.unwrap_or(Verdict::Done(Action::Drop)).pack()
}

/// Nothing where the packet is not what the caller saw.
#[inline(always)]
fn handle<F: Family>(ctx: &XdpContext, chosen: Chosen) -> Option<Verdict> {
    let (ethernet, ip, transport) = transport::packet::<F>(ctx)?;
    let (ports, begins) = (transport.ports, transport.begins());
    if let Some(verdict) = on::<F>(ctx, ethernet, ip, ports, chosen, begins) {
        return Some(verdict);
    }
    Some(chosen.refuse(match chosen.from_agent() {
        // Who serves it, or has the connection, may be found a moment later.
        _ if is_settling::<F>(ip, ports) => Refusal::Dropped(Reason::Unsettled),
        _ if begins => open::no_backend::<F>(ip, &transport, chosen),
        true => Refusal::Closed(Reason::NoFlowReset),
        false => Refusal::Reset(Reason::NoFlowReset),
    }))
}

/// Whether hosts may have yet to say what they know: of where backends are, or, to a new owner, of
/// what the last one translated.
#[inline(always)]
fn is_settling<F: Family>(ip: &F::Header, ports: Ports) -> bool {
    let changes = maps::frontend(F::frontend_key(F::destination(ip), ports))
        .is_some_and(|frontend| pick::is_settling(frontend, maps::clock()));
    let replicates = SETTINGS.get(0).is_some_and(|settings| settings.flags & REPLICATES != 0);
    let is_new = || maps::vip(&F::address(F::destination(ip))).is_some_and(ownership::is_new);
    changes || replicates && is_new()
}

/// Nothing where no host is left.
#[inline(always)]
fn on<F: Family>(
    ctx: &XdpContext,
    ethernet: &mut EthHdr,
    ip: &mut F::Header,
    ports: Ports,
    chosen: Chosen,
    begins: bool,
) -> Option<Verdict> {
    // A new flow goes to a backend, not to where one was.
    let told = if begins { NOBODY_TOLD } else { told::<F>(ip, ports) };
    if told == NOBODY_TOLD && chosen.slot.node() == THIS_NODE && !chosen.slot.has_history() {
        return None;
    }
    if is_anothers(ctx, ethernet) {
        return Some(Verdict::Done(Action::Pass));
    }
    // By its place in the order: a peer that is there twice, by two ways, is the same host.
    let sender = match maps::peer(ethernet.src_addr) {
        Some(sender) => NODES.get(sender)?.rank,
        None => NOBODYS,
    };
    let place = |node: u8| {
        let known = hop::<F>(ip, node).map(|(_, rank)| rank);
        known.filter(|rank| *rank != sender)
    };
    // A client's packet begins where an agent's would that was just sent by its table.
    let position = chosen.position.unwrap_or(mark::entry(F::ttl(ip)));
    let told = if place(told).is_some() { told } else { NOBODY_TOLD };
    let (node, position) = match history::straight(position, told) {
        Some(next) => {
            count::reason(Reason::StrayLed);
            next
        }
        None => {
            let frontend = maps::frontend(F::frontend_key(F::destination(ip), ports))?;
            let hash = balance::hash::<F>(frontend, F::source(ip), F::destination(ip), ports);
            let past = if begins { Past::NONE } else { pick::past(frontend, hash) };
            let here = NODES.get(THIS_NODE.into())?.rank;
            let own = chosen.slot.node() as u8;
            let next = history::next(position, here, own, past, place)?;
            count::reason(Reason::SecondChance);
            next
        }
    };
    let (hop, _) = hop::<F>(ip, node)?;
    Some(match hop.way {
        LINK => forward::towards::<F>(ctx, ethernet, ip, hop, position),
        _ => Verdict::Tunnel(Onward { slot: Slot::new(NOBODY, node.into()), position }),
    })
}

/// The host that is said to have a connection. A number, because of nothing else LLVM leaves what is
/// not there undefined, which the verifier does not take.
#[inline(always)]
fn told<F: Family>(ip: &F::Header, ports: Ports) -> u8 {
    let told = F::told(&F::tuple(F::source(ip), F::destination(ip), ports));
    told.unwrap_or(NOBODY_TOLD.into()) as u8
}

/// The way to a host and its place in the order of all, where there is a way and the host is not the
/// client's own, which would have been translated.
#[inline(always)]
fn hop<F: Family>(ip: &F::Header, node: u8) -> Option<(&'static Hop, u32)> {
    let node = NODES.get(node.into())?;
    let hop = F::hop(node);
    let reached = hop.ifindex != 0 && hop.way != NAT && !is_client_of::<F>(ip, node);
    reached.then_some((hop, node.rank))
}

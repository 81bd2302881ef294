//! Second chance: a segment whose connection is not known here goes on to a host that may know it, a
//! new flow for which an agent thought a backend were here to one where this host thinks that there is
//! one. Which, and why that ends, is said in [`kube_vip_common::history`].

use aya_ebpf::programs::XdpContext;
use kube_vip_common::backend::NOBODY;
use kube_vip_common::history::{self, Past};
use kube_vip_common::mark;
use kube_vip_common::node::{Hop, LINK, NAT, THIS_NODE};
use kube_vip_common::stats::Reason;
use kube_vip_common::table::Slot;
use network_types::eth::EthHdr;

use super::forward::is_client_of;
use super::{Action, Chosen, Onward, Verdict, balance, forward, is_anothers, pick};
use crate::count;
use crate::family::{Family, Ports};
use crate::maps::{self, NODES};

/// No host's place in the order of all.
const NOBODYS: u32 = u32::MAX;

/// Nothing where no host is left.
#[inline(always)]
pub(super) fn handle<F: Family>(
    ctx: &XdpContext,
    ethernet: &mut EthHdr,
    ip: &mut F::Header,
    ports: Ports,
    chosen: Chosen,
    begins: bool,
) -> Option<Verdict> {
    if chosen.slot.node() == THIS_NODE && !chosen.slot.has_history() {
        return None;
    }
    if is_anothers(ctx, ethernet) {
        return Some(Verdict::Done(Action::Pass));
    }
    let frontend = maps::frontend(F::frontend_key(F::destination(ip), ports))?;
    let hash = balance::hash::<F>(frontend, F::source(ip), F::destination(ip), ports);
    let past = match begins {
        // A new flow goes to a backend, not to where one was.
        true => Past::NONE,
        false => pick::past(frontend, hash),
    };
    // By its place in the order: a peer that is there twice, by two ways, is the same host.
    let sender = match maps::peer(ethernet.src_addr) {
        Some(sender) => NODES.get(sender)?.rank,
        None => NOBODYS,
    };
    let place = |node: u8| {
        let known = hop::<F>(ip, node).map(|(_, rank)| rank);
        known.filter(|rank| *rank != sender)
    };
    let here = NODES.get(THIS_NODE.into())?.rank;
    // A client's packet begins where an agent's would that was just sent by its table.
    let position = chosen.position.unwrap_or(mark::entry(F::ttl(ip)));
    let own = chosen.slot.node() as u8;
    let (node, position) = history::next(position, here, own, past, place)?;
    count::reason(Reason::SecondChance);
    let (hop, _) = hop::<F>(ip, node)?;
    Some(match hop.way {
        LINK => forward::towards::<F>(ctx, ethernet, ip, hop, position),
        _ => Verdict::Tunnel(Onward { slot: Slot::new(NOBODY, node.into()), position }),
    })
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

//! Second chance: a segment whose connection is not known here goes on to a host that may know it.
//! Which, and why that ends, is said in [`kube_vip_common::history`].

use aya_ebpf::programs::XdpContext;
use kube_vip_common::backend::NOBODY;
use kube_vip_common::history;
use kube_vip_common::node::{Hop, LINK, NAT, THIS_NODE};
use kube_vip_common::stats::Reason;
use kube_vip_common::table::Slot;
use network_types::eth::EthHdr;

use super::{Action, Chosen, Onward, Verdict, balance, forward, is_anothers, pick};
use crate::count;
use crate::family::{Family, Ports};
use crate::maps::{self, NODES, TABLES};

/// Nothing where no host is left.
#[inline(always)]
pub(super) fn handle<F: Family>(
    ctx: &XdpContext,
    ethernet: &mut EthHdr,
    ip: &mut F::Header,
    ports: Ports,
    chosen: Chosen,
) -> Option<Verdict> {
    if chosen.slot.node() == THIS_NODE && !chosen.slot.has_history() {
        return None;
    }
    if is_anothers(ctx, ethernet) {
        return Some(Verdict::Done(Action::Pass));
    }
    if NODES.get(THIS_NODE.into()).is_some_and(|here| F::of_node(here) == F::source(ip)) {
        // The next host would take it for this host's own packet and not believe the position: it
        // could go round for ever.
        return None;
    }
    let frontend = maps::frontend(F::frontend_key(F::destination(ip), ports))?;
    let hash = balance::hash::<F>(frontend, ip, ports);
    let past = pick::past(TABLES.get(frontend.id)?, frontend.slots, hash);
    let sender = maps::peer(ethernet.src_addr).unwrap_or(0);
    let reaches = |node: u8| u32::from(node) != sender && hop::<F>(node).is_some();
    // A client's packet begins where an agent's would that was just sent by its table.
    let position = chosen.position.unwrap_or(0);
    let (node, position) = history::next(position, chosen.slot.node() as u8, past, reaches)?;
    count::reason(Reason::SecondChance);
    let hop = hop::<F>(node)?;
    Some(match hop.way {
        LINK => forward::towards::<F>(ctx, ethernet, ip, hop, position),
        _ => Verdict::Tunnel(Onward { slot: Slot::new(NOBODY, node.into()), position }),
    })
}

/// The way to a host, where there is one.
#[inline(always)]
fn hop<F: Family>(node: u8) -> Option<&'static Hop> {
    let hop = NODES.get(node.into()).map(F::hop);
    hop.filter(|hop| hop.ifindex != 0 && hop.way != NAT)
}

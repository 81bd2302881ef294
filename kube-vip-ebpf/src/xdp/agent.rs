//! Frames from other agents. What the mark is and when it is believed:
//! [`kube_vip_common::mark`].

use kube_vip_common::node::THIS_NODE;
use kube_vip_common::vip::{HELD, VIRTUAL};
use kube_vip_common::{mark, node};
use network_types::eth::EthHdr;

use crate::family::Family;
use crate::maps::{self, NODES};
use crate::ownership;

/// The position an agent gave this frame; nothing where no agent sent it.
#[inline(always)]
pub(super) fn position<F: Family>(ethernet: &EthHdr, ip: &F::Header) -> Option<u8> {
    let position = mark::position(F::ttl(ip))?;
    let is_agents = is_believed::<F>(ethernet, ip) || position == mark::LAST && !owned::<F>(F::destination(ip));
    is_agents.then_some(position)
}

#[inline(always)]
fn is_believed<F: Family>(ethernet: &EthHdr, ip: &F::Header) -> bool {
    let Some(number) = maps::peer(ethernet.src_addr) else {
        return false;
    };
    let Some(node) = NODES.get(number).filter(|_| number != u32::from(THIS_NODE)) else {
        return false;
    };
    // A client on that host sends from the same Ethernet address: its packets are a client's. Through
    // a tunnel only its agent sends.
    F::source(ip) != F::of_node(node) || node::tunnelled(number).octets == ethernet.src_addr
}

/// Whether clients' packets for the destination come to this host. Few ask, and its stack is not to be
/// everybody's.
#[inline(never)]
fn owned<F: Family>(destination: F::Bytes) -> bool {
    let vip = maps::vip(&F::address(destination));
    vip.is_some_and(|vip| match vip.flags & VIRTUAL {
        0 => vip.flags & HELD != 0,
        _ => ownership::owned(vip),
    })
}

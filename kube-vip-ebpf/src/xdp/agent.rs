//! Frames from other agents. What the mark is and when it is believed:
//! [`kube_vip_common::mark`].

use kube_vip_common::node::THIS_NODE;
use kube_vip_common::{mark, node};
use network_types::eth::EthHdr;

use crate::family::Family;
use crate::maps::{self, NODES};

/// The position an agent gave this frame; nothing where no agent sent it.
#[inline(always)]
pub(super) fn position<F: Family>(ethernet: &EthHdr, ip: &F::Header) -> Option<u8> {
    let position = mark::position(F::ttl(ip))?;
    let number = maps::peer(ethernet.src_addr)?;
    if number == u32::from(THIS_NODE) {
        return None;
    }
    // A client on that host sends from the same Ethernet address: its packets are a client's. Through
    // a tunnel only its agent sends.
    let is_own = F::source(ip) == F::of_node(NODES.get(number)?);
    (!is_own || node::tunnelled(number).octets == ethernet.src_addr).then_some(position)
}

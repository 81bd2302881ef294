//! The hosts that take part, and how this one reaches them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Node;
use crate::config::{Config, Peer};
use crate::view::{Hop, View};

pub(super) fn plan(view: &View) -> BTreeMap<String, Node> {
    let uplink = view.links.get(&view.config.interface);
    let local = Node {
        local: true,
        hop: uplink.map(|link| (link.mac, link.index)),
        addresses: view.config.local_peer.addresses.clone(),
    };
    let remote = view.config.remote_peers.iter().map(|peer| {
        let hop = peer.addresses.iter().find_map(|address| match view.hops.get(address) {
            Some(Hop::Neighbour { mac, interface }) => Some((*mac, *interface)),
            _ => None,
        });
        (peer.id.clone(), Node { local: false, hop, addresses: peer.addresses.clone() })
    });
    std::iter::once((view.config.local_peer.id.clone(), local)).chain(remote).collect()
}

/// Why a peer cannot be forwarded to, in words for people.
pub(super) fn obstacle(view: &View, peer: &Peer) -> String {
    let Some(address) = peer.addresses.first() else {
        return format!("{} has no address", peer.id);
    };
    match view.hops.get(address) {
        Some(Hop::Routed { gateway, .. }) => {
            format!("{address} is behind router {gateway}; tunnels to peers come later")
        }
        Some(Hop::Unreachable) => format!("no route to {address}"),
        Some(Hop::Here) => format!("{address} is an address of this host, not of {}", peer.id),
        Some(Hop::Unresolved { .. } | Hop::Neighbour { .. }) | None => {
            format!("nobody answers for {address}")
        }
    }
}

/// Every address the way to which is needed.
pub fn wanted(config: &Config) -> impl Iterator<Item = IpAddr> {
    config.remote_peers.iter().flat_map(|peer| peer.addresses.iter().copied())
}

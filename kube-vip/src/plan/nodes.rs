//! The hosts that take part, and how this one reaches them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Node, uplinks};
use crate::config::{Config, Peer};
use crate::view::{Hop, Mac, View};

pub(super) fn plan(view: &View) -> BTreeMap<String, Node> {
    let uplink = view.links.get(&view.config.interface);
    let local = Node {
        local: true,
        hop: uplink.map(|link| (link.mac, link.index)),
        addresses: view.config.local_peer.addresses.clone(),
    };
    let remote = view.config.remote_peers.iter().map(|peer| {
        let hop = peer.addresses.iter().find_map(|address| match view.hops.get(address) {
            Some(Hop::Neighbour { mac, interface }) if uplinks::is_one(view, *interface) => {
                Some((*mac, *interface))
            }
            _ => None,
        });
        (peer.id.clone(), Node { local: false, hop, addresses: peer.addresses.clone() })
    });
    std::iter::once((view.config.local_peer.id.clone(), local)).chain(remote).collect()
}

/// The Ethernet addresses that frames of each host may come from: it may send through another
/// interface than the one it is reached at.
pub(super) fn senders(view: &View) -> BTreeMap<Mac, String> {
    let config = &view.config;
    let own = config.interfaces().filter_map(|name| view.links.get(name));
    let own = own.map(|link| (link.mac, config.local_peer.id.clone()));
    let known = |address: &IpAddr| match view.hops.get(address) {
        Some(Hop::Neighbour { mac, .. }) => Some(*mac),
        _ => None,
    };
    let of_peer = |peer: &Peer| {
        let macs: Vec<_> = peer.addresses.iter().filter_map(known).collect();
        macs.into_iter().map(|mac| (mac, peer.id.clone())).collect::<Vec<_>>()
    };
    own.chain(config.remote_peers.iter().flat_map(of_peer)).collect()
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
        Some(Hop::Neighbour { interface, .. }) if !uplinks::is_one(view, *interface) => {
            let name = view.links.iter().find(|(_, link)| link.index == *interface);
            let name = name.map_or("an interface", |(name, _)| name.as_str());
            format!("{address} is reached through {name}, which is no uplink: add it to `uplinks`")
        }
        Some(Hop::Unresolved { .. } | Hop::Neighbour { .. }) | None => {
            format!("nobody answers for {address}")
        }
    }
}

/// Every address the way to which is needed.
pub fn wanted(config: &Config) -> impl Iterator<Item = IpAddr> {
    config.remote_peers.iter().flat_map(|peer| peer.addresses.iter().copied())
}

//! The hosts that take part, and how this one reaches them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{NextHop, Node, Through, Tunnel, uplinks};
use crate::config::{Config, Forwarding, LoadBalancer, Peer};
use crate::view::{Hop, Mac, Probe, View};

/// The smallest MTU of IPv6 (RFC 8200 §5): a smaller one is not believed, because anybody can send
/// the error that it is learnt from.
const SMALLEST_MTU: u32 = 1280;

pub(super) fn plan(view: &View) -> BTreeMap<String, Node> {
    let uplink = view.links.get(&view.config.interface).map(|link| NextHop {
        mac: link.mac,
        interface: link.index,
        through: Through::Link,
        mtu: link.mtu,
        full: link.mtu,
    });
    let local = Node {
        local: true,
        hop4: uplink.clone(),
        hop6: uplink,
        addresses: view.config.local_peer.addresses.clone(),
        pods: view.config.local_peer.pods.clone(),
    };
    let remote = view.config.remote_peers.iter().map(|peer| {
        // On one link with it its Ethernet address is enough for both families.
        let link = peer.addresses.iter().find_map(|address| link(view, *address));
        let hop = |v4| link.clone().or_else(|| tunnel(view, peer, v4));
        let (hop4, hop6) = (hop(true), hop(false));
        let (addresses, pods) = (peer.addresses.clone(), peer.pods.clone());
        (peer.id.clone(), Node { local: false, hop4, hop6, addresses, pods })
    });
    std::iter::once((view.config.local_peer.id.clone(), local)).chain(remote).collect()
}

/// Tunnels to peers on this L2 network, where any load balancer asks for them.
pub(super) fn tunnels(view: &View, nodes: &BTreeMap<String, Node>) -> BTreeMap<String, Tunnel> {
    let asks = |balancer: &LoadBalancer| balancer.forwarding == Forwarding::Tunnel;
    if !view.config.load_balancers.iter().any(asks) {
        return BTreeMap::new();
    }
    let peers = view.config.remote_peers.iter();
    let tunnels = peers.filter_map(|peer| {
        let node = nodes.get(&peer.id)?;
        let hop = |v4| {
            let link = node.hop(v4).filter(|hop| hop.through == Through::Link)?;
            first(&view.config.local_peer, v4).and(first(peer, v4))?;
            Some(NextHop { through: Through::Tunnel, ..link.clone() })
        };
        let (hop4, hop6) = (hop(true), hop(false));
        let peer = peer.id.clone();
        let any = hop4.is_some() || hop6.is_some();
        any.then(|| (Tunnel::name(&peer), Tunnel { peer, hop4, hop6 }))
    });
    tunnels.collect()
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

fn link(view: &View, address: IpAddr) -> Option<NextHop> {
    match view.hops.get(&address) {
        Some(Hop::Neighbour { mac, interface }) if uplinks::is_one(view, *interface) => {
            let full = mtu(view, *interface);
            let (mac, interface) = (*mac, *interface);
            Some(NextHop { mac, interface, through: Through::Link, mtu: full, full })
        }
        _ => None,
    }
}

fn tunnel(view: &View, peer: &Peer, v4: bool) -> Option<NextHop> {
    // Its ends are the first addresses of the family on both hosts.
    first(&view.config.local_peer, v4)?;
    let end = first(peer, v4)?;
    match view.hops.get(&end) {
        Some(Hop::Routed { mac: Some(mac), interface, mtu: learnt, .. })
            if uplinks::is_one(view, *interface) =>
        {
            let learnt = learnt.map_or(u32::MAX, |mtu| mtu.max(SMALLEST_MTU));
            let full = learnt.min(mtu(view, *interface));
            let is_narrow = |probe: &&Probe| matches!(probe, Probe::Answered(a) if a.narrow);
            let narrow = view.probes.get(&end).filter(is_narrow);
            let mtu = if narrow.is_some() { full.min(SMALLEST_MTU) } else { full };
            let (mac, interface) = (*mac, *interface);
            Some(NextHop { mac, interface, through: Through::Tunnel, mtu, full })
        }
        _ => None,
    }
}

pub(super) fn mtu(view: &View, interface: u32) -> u32 {
    let link = view.links.values().find(|link| link.index == interface);
    link.map_or(SMALLEST_MTU, |link| link.mtu)
}

/// The address of a family that a host is known by.
pub(super) fn first(peer: &Peer, v4: bool) -> Option<IpAddr> {
    peer.addresses.iter().copied().find(|address| address.is_ipv4() == v4)
}

/// Why packets of this family cannot be forwarded to a peer, in words for people.
pub(super) fn obstacle(view: &View, peer: &Peer, v4: bool) -> String {
    let Some(address) = first(peer, v4) else {
        return format!("{} has no address of this family", peer.id);
    };
    match view.hops.get(&address) {
        Some(Hop::Neighbour { interface, .. } | Hop::Routed { interface, .. })
            if !uplinks::is_one(view, *interface) =>
        {
            let name = view.links.iter().find(|(_, link)| link.index == *interface);
            let name = name.map_or("an interface", |(name, _)| name.as_str());
            format!("{address} is reached through {name}, which is no uplink: add it to `uplinks`")
        }
        Some(Hop::Routed { gateway, mac: None, .. }) => {
            format!("{address} is behind router {gateway}, and nobody answers for that")
        }
        Some(Hop::Routed { gateway, .. }) => format!(
            "{address} is behind router {gateway}, and localPeer has no address of its family \
             for the tunnel to begin at"
        ),
        Some(Hop::Unreachable) => format!("no route to {address}"),
        Some(Hop::Here) => format!("{address} is an address of this host, not of {}", peer.id),
        Some(Hop::Unresolved { .. } | Hop::Neighbour { .. }) | None => nobody(address),
    }
}

pub(super) fn nobody(address: IpAddr) -> String {
    format!("nobody answers for {address}")
}

/// Every address the way to which is needed: those of peers, and of backends without agent.
pub fn wanted(config: &Config) -> impl Iterator<Item = IpAddr> {
    let backends = config.load_balancers.iter().flat_map(|balancer| &balancer.backends);
    let is_local = |address: &IpAddr| config.local_peer.addresses.contains(address);
    remote_addresses(config)
        .chain(backends.map(|backend| backend.address).filter(move |address| !is_local(address)))
}

/// The addresses of all peers but this host.
pub(super) fn remote_addresses(config: &Config) -> impl Iterator<Item = IpAddr> {
    config.remote_peers.iter().flat_map(|peer| peer.addresses.iter().copied())
}

//! Balanced ports and the ways to their backends.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::nodes::obstacle;
use super::vips::host_addresses;
use super::{Backend, Frontend, Node, Through, Way, nat, seed};
use crate::config::{self, Forwarding, LoadBalancer, Protocol};
use crate::view::View;

pub(super) type Frontends = BTreeMap<(IpAddr, u16, Protocol), Frontend>;

pub(super) fn plan(view: &View, nodes: &BTreeMap<String, Node>) -> Frontends {
    let config = &view.config;
    let seed = seed::of(config);
    let mut frontends = Frontends::new();
    let balanced = |balancer: &&LoadBalancer| balancer.forwarding != Forwarding::Bypass;
    for balancer in config.load_balancers.iter().filter(balanced) {
        let key = |address| (address, balancer.port, balancer.protocol);
        let whole = |address: &IpAddr| frontend(view, nodes, balancer, seed, address.is_ipv4());
        if balancer.bind_to_vip {
            frontends.extend(config.vips.iter().map(|address| (key(*address), whole(address))));
            continue;
        }
        // Each host's known addresses: a peer must know them too, to deliver what is sent on.
        let known = config.peers().flat_map(|peer| &peer.addresses);
        frontends.extend(known.map(|address| (key(*address), whole(address))));
        // An address that no peer knows is served by this host alone.
        let own =
            host_addresses(view).filter(|own| config.peers().all(|p| !p.addresses.contains(own)));
        frontends.extend(own.map(|address| {
            let mut frontend = whole(&address);
            frontend.backends.retain(|_, backend| backend.way == Way::Here);
            (key(address), frontend)
        }));
    }
    frontends
}

fn frontend(
    view: &View,
    nodes: &BTreeMap<String, Node>,
    balancer: &LoadBalancer,
    seed: u64,
    v4: bool,
) -> Frontend {
    let backends = balancer.backends.iter().filter(|backend| backend.address.is_ipv4() == v4);
    Frontend {
        name: balancer.name.clone(),
        size: balancer.table_size,
        affinity: balancer.affinity,
        seed,
        host_address: !balancer.bind_to_vip,
        from_node: nat::is_from_node(balancer),
        backends: backends
            .map(|backend| {
                let identity = SocketAddr::new(backend.address, backend.port);
                (identity, place(view, nodes, balancer, backend))
            })
            .collect(),
    }
}

/// On which host a backend runs, and how packets get there.
fn place(
    view: &View,
    nodes: &BTreeMap<String, Node>,
    balancer: &LoadBalancer,
    backend: &config::Backend,
) -> Backend {
    let config = &view.config;
    let address = backend.address;
    let at = |node: Option<&str>, way| Backend {
        node: node.map(str::to_owned),
        weight: backend.weight,
        way,
    };
    let local = &config.local_peer;
    let own =
        || view.links.values().any(|link| link.addresses.iter().any(|net| net.addr() == address));
    if local.addresses.contains(&address) || config.single_node && own() {
        let way = if own() {
            Way::Here
        } else {
            Way::None(format!("this host does not have {address} any more"))
        };
        return at(Some(&local.id), way);
    }
    let method = balancer.forwarding;
    let excluded = |why: &str| Way::None(format!("forwardingMethod is {}: {why}", method.word()));
    let peer = config.remote_peers.iter().find(|peer| peer.addresses.contains(&address));
    let way = match (method, peer) {
        (Forwarding::Local, _) => excluded("only backends on this host are used"),
        (Forwarding::Masquerade, _) | (Forwarding::Auto, None) => nat::way(view, balancer, address),
        (Forwarding::Tunnel | Forwarding::DirectRoute, None) => excluded("no peer has the address"),
        (_, Some(peer)) => {
            let hop = nodes.get(&peer.id).and_then(|node| node.hop(address.is_ipv4()));
            match hop.map(|hop| hop.through) {
                Some(Through::Tunnel) if method == Forwarding::DirectRoute => {
                    excluded("the peer is behind a router")
                }
                Some(Through::Link) if method == Forwarding::Tunnel => {
                    excluded("tunnels to peers on this L2 network come later")
                }
                Some(_) => Way::Peer,
                None => Way::None(obstacle(view, peer, address.is_ipv4())),
            }
        }
        (Forwarding::Bypass, None) => excluded("packets are left to the kernel"),
    };
    at(peer.map(|peer| peer.id.as_str()), way)
}

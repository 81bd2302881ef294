//! Balanced ports and the ways to their backends.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::nodes::obstacle;
use super::vips::host_addresses;
use super::{Backend, Frontend, Node, Way, seed};
use crate::config::{self, LoadBalancer, Protocol};
use crate::view::{Hop, View};

type Frontends = BTreeMap<(IpAddr, u16, Protocol), Frontend>;

pub(super) fn plan(view: &View, nodes: &BTreeMap<String, Node>) -> Frontends {
    let config = &view.config;
    let seed = seed::of(config);
    let mut frontends = Frontends::new();
    for balancer in &config.load_balancers {
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
        backends: backends
            .map(|backend| {
                let identity = SocketAddr::new(backend.address, backend.port);
                (identity, place(view, nodes, backend))
            })
            .collect(),
    }
}

/// On which host a backend runs, and how packets get there.
fn place(view: &View, nodes: &BTreeMap<String, Node>, backend: &config::Backend) -> Backend {
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
    match config.remote_peers.iter().find(|peer| peer.addresses.contains(&address)) {
        Some(peer) => {
            let v4 = address.is_ipv4();
            let reachable = nodes.get(&peer.id).is_some_and(|node| node.hop(v4).is_some());
            let way = if reachable { Way::Peer } else { Way::None(obstacle(view, peer, v4)) };
            at(Some(&peer.id), way)
        }
        None => {
            let hint = match view.hops.get(&address) {
                Some(Hop::Here) => "add it to localPeer's address (a comma list)",
                _ => {
                    "if a peer has it, add it to that peer's address (a comma list); NAT to hosts \
                      without agent comes later"
                }
            };
            at(None, Way::None(format!("{address} is no peer's address: {hint}")))
        }
    }
}

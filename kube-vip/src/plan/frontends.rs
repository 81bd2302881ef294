//! Balanced ports and the ways to their backends.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::vips::host_addresses;
use super::{Backend, Frontend, Node, Through, Tunnel, Way, checks, nat, nodes, peers, seed};
use crate::config::{self, AllDown, Forwarding, LoadBalancer, NoBackend, Protocol};
use crate::view::{Health, View};

pub(super) type Frontends = BTreeMap<(IpAddr, u16, Protocol), Frontend>;

pub(super) fn plan(
    view: &View,
    nodes: &BTreeMap<String, Node>,
    tunnels: &BTreeMap<String, Tunnel>,
) -> Frontends {
    let config = &view.config;
    let seed = seed::of(view);
    let places = Places { view, nodes, tunnels };
    let mut frontends = Frontends::new();
    let balanced = |balancer: &&LoadBalancer| balancer.forwarding != Forwarding::Bypass;
    for balancer in config.load_balancers.iter().filter(balanced) {
        let key = |address| (address, balancer.port, balancer.protocol);
        let whole = |address: &IpAddr| frontend(&places, balancer, seed, address.is_ipv4());
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
            exclude(&mut frontend, balancer.all_down);
            (key(address), frontend)
        }));
    }
    frontends
}

fn frontend(places: &Places<'_>, balancer: &LoadBalancer, seed: u64, v4: bool) -> Frontend {
    let backends = balancer.backends.iter().filter(|backend| backend.address.is_ipv4() == v4);
    let mut frontend = Frontend {
        name: balancer.name.clone(),
        size: balancer.table_size,
        affinity: balancer.affinity,
        seed,
        host_address: !balancer.bind_to_vip,
        from_node: nat::is_from_node(balancer),
        silent: balancer.no_backend == NoBackend::Drop,
        rate_limit: balancer.rate_limit,
        all_down: false,
        backends: backends
            .map(|backend| {
                let identity = SocketAddr::new(backend.address, backend.port);
                let health = checks::of(balancer, backend);
                let health = health.and_then(|check| places.view.health.get(&check)).cloned();
                (identity, Backend { health, ..places.of(balancer, backend) })
            })
            .collect(),
    };
    exclude(&mut frontend, balancer.all_down);
    frontend
}

/// Leaves out what fails its checks, unless that would leave nothing.
fn exclude(frontend: &mut Frontend, all_down: AllDown) {
    let is_down = |health: &Option<Health>| health.as_ref().is_some_and(|health| !health.up);
    let mut usable = frontend.backends.values().filter(|backend| backend.is_usable()).peekable();
    let some = usable.peek().is_some();
    frontend.all_down =
        some && all_down == AllDown::Keep && usable.all(|backend| is_down(&backend.health));
    for backend in frontend.backends.values_mut() {
        backend.excluded = is_down(&backend.health) && !frontend.all_down;
    }
}

/// Where hosts are, and how they are reached.
struct Places<'a> {
    view: &'a View,
    nodes: &'a BTreeMap<String, Node>,
    tunnels: &'a BTreeMap<String, Tunnel>,
}

impl Places<'_> {
    /// On which host a backend runs, and how packets get there.
    fn of(&self, balancer: &LoadBalancer, backend: &config::Backend) -> Backend {
        let Self { view, nodes, tunnels } = *self;
        let config = &view.config;
        let address = backend.address;
        let at =
            |node: Option<&str>, way| Backend::new(node.map(str::to_owned), backend.weight, way);
        let local = &config.local_peer;
        let own = || {
            view.links.values().any(|link| link.addresses.iter().any(|net| net.addr() == address))
        };
        if local.addresses.contains(&address) || config.single_node && own() {
            let way = if own() {
                Way::Here
            } else {
                Way::None(format!("this host does not have {address} any more"))
            };
            return at(Some(&local.id), way);
        }
        let method = balancer.forwarding;
        let excluded =
            |why: &str| Way::None(format!("forwardingMethod is {}: {why}", method.word()));
        let peer = config.remote_peers.iter().find(|peer| peer.addresses.contains(&address));
        let way = match (method, peer) {
            (Forwarding::Local, _) => excluded("only backends on this host are used"),
            (Forwarding::Masquerade, _) | (Forwarding::Auto, None) => {
                nat::way(view, balancer, address)
            }
            (Forwarding::Tunnel | Forwarding::DirectRoute, None) => {
                excluded("no peer has the address")
            }
            (_, Some(peer)) => {
                let v4 = address.is_ipv4();
                let hop = nodes.get(&peer.id).and_then(|node| node.hop(v4));
                let through = hop.map(|hop| hop.through);
                match (through, peers::obstacle(seed::of(view), &view.probes, peer, v4)) {
                    (Some(Through::Tunnel), _) if method == Forwarding::DirectRoute => {
                        excluded("the peer is behind a router")
                    }
                    (Some(Through::Link), None) if method == Forwarding::Tunnel => {
                        let tunnel = tunnels.get(&Tunnel::name(&peer.id));
                        match tunnel.and_then(|tunnel| tunnel.hop(v4)) {
                            Some(_) => Way::Tunnel,
                            None => excluded("this host or the peer has no address of the family"),
                        }
                    }
                    (Some(_), None) => Way::Peer,
                    (None, None) => Way::None(nodes::obstacle(view, peer, v4)),
                    // As long as it is no peer it is a host without agent.
                    (_, Some(why)) if method == Forwarding::Auto => {
                        match nat::way(view, balancer, address) {
                            Way::None(_) => Way::None(why),
                            way => way,
                        }
                    }
                    (_, Some(why)) => Way::None(why),
                }
            }
            (Forwarding::Bypass, None) => excluded("packets are left to the kernel"),
        };
        at(peer.map(|peer| peer.id.as_str()), way)
    }
}

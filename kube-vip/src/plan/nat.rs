//! Backends that are reached by address translation: hosts without agent.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::frontends::Frontends;
use super::nodes::{mtu, nobody};
use super::{NextHop, Through, Way};
use crate::config::{LoadBalancer, NatSource};
use crate::view::{Hop, View};

/// Whether a load balancer's translated connections come from the owner's own address. On that of a
/// host they must: any other port of it may be the kernel's.
pub(super) fn is_from_node(balancer: &LoadBalancer) -> bool {
    balancer.nat_source == NatSource::Node || !balancer.bind_to_vip
}

/// The way to a backend by address translation.
pub(super) fn way(view: &View, balancer: &LoadBalancer, address: IpAddr) -> Way {
    if is_from_node(balancer) && view.config.nat_ports.is_none() {
        return Way::None(format!(
            "{address} is no peer's address, and there are no ports of this host to reach it from; \
             set natPorts, or bindToVip: true"
        ));
    }
    if is_from_node(balancer)
        && !view.config.local_peer.addresses.iter().any(|own| own.is_ipv4() == address.is_ipv4())
    {
        return Way::None(format!("localPeer has no address to reach {address} from"));
    }
    match hop(view, address) {
        Ok(hop) => Way::Nat(name(&hop)),
        Err(reason) => Way::None(reason),
    }
}

fn hop(view: &View, address: IpAddr) -> Result<NextHop, String> {
    match view.hops.get(&address) {
        Some(Hop::Neighbour { mac, interface } | Hop::Routed { mac: Some(mac), interface, .. }) => {
            let (mac, interface) = (*mac, *interface);
            let full = mtu(view, interface);
            Ok(NextHop { mac, interface, through: Through::Nat, mtu: full, full })
        }
        Some(Hop::Routed { gateway, mac: None, .. }) => {
            Err(format!("router {gateway} on the way to {address} does not answer"))
        }
        Some(Hop::Here) => Err(format!(
            "{address} is no peer's address: add it to localPeer's address (a comma list)"
        )),
        Some(Hop::Unreachable) => Err(format!("no route to {address}")),
        Some(Hop::Unresolved { .. }) | None => Err(nobody(address)),
    }
}

/// Backends behind one router share its entry. No peer has an id that begins with a space.
fn name(hop: &NextHop) -> String {
    format!(" {} on {}", hop.mac, hop.interface)
}

/// The next hops of all ways that are taken.
pub(super) fn hops(frontends: &Frontends, view: &View) -> BTreeMap<String, NextHop> {
    let backends = frontends.values().flat_map(|frontend| &frontend.backends);
    let nat = backends.filter(|(_, backend)| matches!(backend.way, Way::Nat(_)));
    nat.filter_map(|(address, _)| hop(view, address.ip()).ok())
        .map(|hop| (name(&hop), hop))
        .collect()
}

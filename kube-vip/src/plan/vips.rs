//! Addresses that are ours to judge.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Grant, Vip};
use crate::view::{Standing, View};

pub(super) fn plan(view: &View) -> BTreeMap<IpAddr, Vip> {
    let config = &view.config;
    let own = own_addresses(view);
    let virtual_ips = config.vips.iter().map(|address| {
        let lease = lease(address);
        let (grant, owner) = match view.standings.get(&lease) {
            Some(Standing::Owner { epoch }) => {
                (Some(Grant { epoch: *epoch }), Some(config.local_peer.id.clone()))
            }
            Some(Standing::Follower { owner }) => (None, owner.clone()),
            None => (None, None),
        };
        // Only what the kernel really has may be left to it.
        let held = grant.is_some() && own.contains(address);
        (*address, Vip { host_address: false, held, lease, grant, owner })
    });
    let host = |held: bool| {
        // A host's own address is nobody else's.
        let owner = held.then(|| config.local_peer.id.clone());
        Vip { host_address: true, held, lease: String::new(), grant: None, owner }
    };
    let mut vips: BTreeMap<_, _> = BTreeMap::new();
    if config.load_balancers.iter().any(|balancer| !balancer.bind_to_vip) {
        vips.extend(super::nodes::remote_addresses(config).map(|address| (address, host(false))));
        vips.extend(host_addresses(view).map(|address| (address, host(true))));
    }
    vips.extend(virtual_ips);
    vips
}

/// The lease that a VIP of the file hangs on: each has its own, so that hosts can share them.
pub fn lease(vip: &IpAddr) -> String {
    vip.to_string()
}

/// Whether this host owns a VIP of the file.
pub(super) fn is_owned(view: &View, vip: &IpAddr) -> bool {
    matches!(view.standings.get(&lease(vip)), Some(Standing::Owner { .. }))
}

fn own_addresses(view: &View) -> Vec<IpAddr> {
    let links = view.links.values();
    links.flat_map(|link| link.addresses.iter().map(ipnet::IpNet::addr)).collect()
}

/// This host's own addresses that clients may use: as the file names them, and the uplinks'.
pub(super) fn host_addresses(view: &View) -> impl Iterator<Item = IpAddr> {
    let uplinks = view.config.interfaces().filter_map(|name| view.links.get(name));
    let linked = uplinks.flat_map(|link| &link.addresses).map(ipnet::IpNet::addr);
    let usable = |address: &IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    };
    let named = view.config.local_peer.addresses.iter().copied();
    named.chain(linked.filter(usable)).filter(|address| !view.config.vips.contains(address))
}

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::config::Config;
use crate::view::{Hop, Link, Mac};

fn address(host: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, host).into()
}

/// The file of host `own` out of `hosts`, with the others listed in some order.
fn file(own: u8, hosts: &[u8], backends: &[(u8, u16)], leader: bool) -> String {
    let peer = |host: &u8| format!("{{id: n{host}, address: 10.0.0.{host}, port: 10000}}");
    let others: Vec<_> = hosts.iter().filter(|host| **host != own).map(peer).collect();
    let backend = |(host, port): &(u8, u16)| format!("{{address: 10.0.0.{host}, port: {port}}}");
    let backends: Vec<_> = backends.iter().map(backend).collect();
    format!(
        "localPeer: {}\nremotePeers: [{}]\nvip: 10.0.0.100\ninterface: eth0\n\
         startAsLeader: {leader}\nloadBalancers:\n\
         - {{name: web, type: tcp, port: 80, bindToVip: true, backends: [{}]}}\n",
        peer(&own),
        others.join(", "),
        backends.join(", ")
    )
}

fn view(own: u8, hosts: &[u8], backends: &[(u8, u16)], leader: bool) -> View {
    let text = file(own, hosts, backends, leader);
    let config =
        Config::parse(&text, "test", "test").unwrap_or_else(|error| panic!("{error}: {text}"));
    let mac = |host| Mac([2, 0, 0, 0, 0, host]);
    let net = ipnet::IpNet::new(address(own), 24).expect("a prefix");
    let mut addresses = vec![net];
    let standing = if leader {
        addresses.push(ipnet::IpNet::from(address(100)));
        Standing::Owner { epoch: 1 }
    } else {
        Standing::Follower { owner: None }
    };
    let link = Link {
        index: 2,
        mac: mac(own),
        mtu: 1500,
        up: true,
        carrier: true,
        addresses,
        kind: String::new(),
    };
    let others = hosts.iter().filter(|host| **host != own);
    let hops =
        others.map(|host| (address(*host), Hop::Neighbour { mac: mac(*host), interface: 2 }));
    View {
        config: Arc::new(config),
        links: BTreeMap::from([("eth0".into(), link)]),
        hops: hops.collect(),
        standing,
    }
}

/// What decides a table, without the way from this host.
fn recipe(desired: &Desired) -> Vec<impl PartialEq + std::fmt::Debug + use<>> {
    let frontends = desired.dataplane.frontends.iter();
    frontends
        .map(|(key, frontend)| {
            let usable = |backend: &&Backend| !matches!(backend.way, Way::None(_));
            let backends: Vec<_> = frontend
                .backends
                .iter()
                .filter(|(_, backend)| usable(backend))
                .map(|(identity, backend)| (*identity, backend.weight, backend.node.clone()))
                .collect();
            (*key, frontend.size, frontend.affinity, frontend.seed, backends)
        })
        .collect()
}

proptest! {
    #[test]
    fn all_hosts_come_to_the_same_tables(
        hosts in proptest::collection::btree_set(1u8..90, 2..6),
        ports in proptest::collection::btree_set(1u16.., 1..4),
        turn in 0usize..6,
    ) {
        let mut hosts: Vec<_> = hosts.into_iter().collect();
        let backends: Vec<_> =
            hosts.iter().flat_map(|host| ports.iter().map(|port| (*host, *port))).collect();
        let first = plan(&view(hosts[0], &hosts, &backends, true));
        for own in hosts.clone() {
            let turn = turn % hosts.len();
            hosts.rotate_left(turn);
            let other = plan(&view(own, &hosts, &backends, false));
            prop_assert_eq!(recipe(&first), recipe(&other));
        }
    }

    #[test]
    fn plan_is_a_function_of_the_view(host in 1u8..90, leader: bool) {
        let view = view(host, &[host, 91, 92], &[(host, 80), (91, 80), (93, 80)], leader);
        prop_assert_eq!(plan(&view), plan(&view));
    }

    #[test]
    fn only_the_owner_holds_grants_and_announces(host in 1u8..90, leader: bool) {
        let desired = plan(&view(host, &[host, 91], &[(91, 80)], leader));
        prop_assert_eq!(desired.addresses.is_empty(), !leader);
        prop_assert_eq!(desired.announcements.is_empty(), !leader);
        for vip in desired.dataplane.vips.values() {
            prop_assert_eq!((vip.held, vip.grant.is_some()), (leader, leader));
        }
    }
}

fn way_of(view: &View, backend: &str) -> Way {
    let desired = plan(view);
    let frontend = desired.dataplane.frontends.values().next().expect("a frontend");
    frontend.backends[&backend.parse().expect("an address")].way.clone()
}

#[test]
fn a_peer_without_an_answer_is_left_out_and_says_why() {
    let mut view = view(1, &[1, 2], &[(1, 80), (2, 80)], true);
    assert_eq!(way_of(&view, "10.0.0.1:80"), Way::Here);
    assert_eq!(way_of(&view, "10.0.0.2:80"), Way::Peer);
    view.hops.insert(address(2), Hop::Unresolved { interface: 2 });
    assert_eq!(way_of(&view, "10.0.0.2:80"), Way::None("nobody answers for 10.0.0.2".into()));
    view.hops.insert(
        address(2),
        Hop::Routed { gateway: address(254), interface: 2, mac: None, mtu: None },
    );
    assert!(
        matches!(way_of(&view, "10.0.0.2:80"), Way::None(reason) if reason.contains("10.0.0.254"))
    );
}

#[test]
fn a_peer_behind_a_router_is_reached_through_a_tunnel() {
    let router = Mac([2, 0, 0, 0, 0, 254]);
    let mut view = view(1, &[1, 2], &[(1, 80), (2, 80)], true);
    for (learnt, mtu) in [(None, 1500), (Some(1400), 1400), (Some(9000), 1500), (Some(68), 1280)] {
        let (gateway, mac) = (address(254), Some(router));
        let routed = Hop::Routed { gateway, interface: 2, mac, mtu: learnt };
        view.hops.insert(address(2), routed);
        assert_eq!(way_of(&view, "10.0.0.2:80"), Way::Peer);
        let node = plan(&view).dataplane.nodes["n2"].clone();
        let hop = NextHop { mac: router, interface: 2, through: Through::Tunnel, mtu };
        // It has no IPv6 address for a tunnel to end at.
        assert_eq!((node.hop4, node.hop6), (Some(hop), None));
    }
}

#[test]
fn a_backend_on_no_peer_is_left_out_and_says_why() {
    let view = view(1, &[1, 2], &[(7, 80)], true);
    assert!(
        matches!(way_of(&view, "10.0.0.7:80"), Way::None(reason) if reason.contains("no peer"))
    );
}

#[test]
fn an_address_the_kernel_does_not_have_is_not_left_to_it() {
    let mut view = view(1, &[1, 2], &[(1, 80)], true);
    assert!(plan(&view).dataplane.vips[&address(100)].held);
    view.links.get_mut("eth0").expect("the uplink").addresses.pop();
    assert!(!plan(&view).dataplane.vips[&address(100)].held);
}

#[test]
fn a_link_without_carrier_is_not_announced_on() {
    let mut view = view(1, &[1, 2], &[(1, 80)], true);
    view.links.get_mut("eth0").expect("the uplink").carrier = false;
    let desired = plan(&view);
    assert!(desired.announcements.is_empty());
    assert!(!desired.addresses.is_empty(), "the address stays: the lease says who owns it");
}

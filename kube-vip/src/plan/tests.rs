use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use kube_vip_common::hash::HASH_VERSION;
use proptest::prelude::*;

use super::*;
use crate::config::{AllDown, Config, Forwarding, PortRange, XdpMode};
use crate::view::{Answer, Health, Hop, Link, Mac, Probe, Standing, Target, Targets};

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
        probes: BTreeMap::new(),
        health: BTreeMap::new(),
        secret: None,
        standings: [(lease(&address(100)), standing)].into(),
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
        let hop = NextHop { mac: router, interface: 2, through: Through::Tunnel, mtu, full: mtu };
        // It has no IPv6 address for a tunnel to end at.
        assert_eq!((node.hop4, node.hop6), (Some(hop), None));
    }
}

fn answer(view: &View) -> Answer {
    Answer {
        at: tokio::time::Instant::now(),
        version: [0, 1, 0],
        hash: HASH_VERSION,
        digest: plan(view).dataplane.digest,
        age: 0,
        narrow: false,
    }
}

#[test]
fn tables_stay_when_a_host_joins_those_that_share_a_secret() {
    let three = view(1, &[1, 2, 3], &[(1, 80), (2, 80)], true);
    let four = view(1, &[1, 2, 3, 4], &[(1, 80), (2, 80)], true);
    assert!(recipe(&plan(&three)) != recipe(&plan(&four)), "seeds come from the list of hosts");
    let with = |view: &View| plan(&View { secret: Some(7), ..view.clone() });
    assert!(recipe(&with(&three)) == recipe(&with(&four)));
    assert_eq!(with(&three).dataplane.digest, 7);
}

#[test]
fn a_host_is_a_peer_while_its_data_plane_answers() {
    let mut view = view(1, &[1, 2], &[(1, 80), (2, 80)], true);
    let good = answer(&view);
    let answered = Probe::Answered;
    for (probe, expected) in [
        (Probe::Pending, None),
        (answered(good), None),
        (answered(Answer { age: 30, version: [9, 9, 9], ..good }), None),
        (Probe::Silent, Some("no data plane answers for n2 at 10.0.0.2, UDP port 10000")),
        (Probe::Left, Some("stopped")),
        (answered(Answer { hash: HASH_VERSION + 1, ..good }), Some("hashes by version")),
        (
            answered(Answer { digest: good.digest ^ 1, ..good }),
            Some("another list of hosts, or another secret"),
        ),
        (answered(Answer { age: 31, ..good }), Some("has not been running for 31 s")),
    ] {
        view.probes = [(address(2), probe)].into();
        let [(_, _, reason)] = &standings(&view.config, good.digest, &view.probes)[..] else {
            panic!("one address of one host");
        };
        match (way_of(&view, "10.0.0.2:80"), expected, reason) {
            (Way::Peer, None, None) => {}
            // It is a host without agent, then.
            (Way::Nat(_), Some(words), Some(reason)) => assert!(reason.contains(words), "{reason}"),
            (way, ..) => panic!("{probe:?}: {way:?}"),
        }
        // Where only peers will do it is left out.
        let mut direct = view.clone();
        Arc::make_mut(&mut direct.config).load_balancers[0].forwarding = Forwarding::DirectRoute;
        match (way_of(&direct, "10.0.0.2:80"), expected) {
            (Way::Peer, None) => {}
            (Way::None(reason), Some(words)) => assert!(reason.contains(words), "{reason}"),
            (way, _) => panic!("{probe:?}: {way:?}"),
        }
        // What it sends on meanwhile is still known for an agent's.
        assert!(plan(&view).dataplane.nodes["n2"].hop4.is_some());
    }
}

#[test]
fn hosts_with_other_lists_have_other_digests() {
    let digest = |own, hosts| plan(&view(own, hosts, &[], false)).dataplane.digest;
    assert_eq!(digest(1, &[1, 2, 3]), digest(2, &[3, 2, 1]));
    assert_ne!(digest(1, &[1, 2, 3]), digest(1, &[1, 2]));
}

#[test]
fn every_peer_is_asked_and_in_a_tunnel_with_full_size() {
    let mut view = view(1, &[1, 2, 3], &[], true);
    let (gateway, mac) = (address(254), Some(Mac([2, 0, 0, 0, 0, 254])));
    view.hops.insert(address(3), Hop::Routed { gateway, interface: 2, mac, mtu: Some(1400) });
    let ask = |size| Target { port: 10000, size };
    let expected = Targets {
        from: vec![address(1)],
        port: 10000,
        peers: [(address(2), ask(None)), (address(3), ask(Some(1400)))].into(),
    };
    assert_eq!(targets(&view, &plan(&view).dataplane), expected);
    // Where large packets vanish it is asked on, and less is sent.
    let narrow = Answer { narrow: true, ..answer(&view) };
    view.probes = [(address(3), Probe::Answered(narrow))].into();
    let desired = plan(&view).dataplane;
    assert_eq!(targets(&view, &desired), expected);
    assert_eq!(desired.nodes["n3"].hop4.as_ref().map(|hop| hop.mtu), Some(1280));
}

#[test]
fn a_single_node_asks_nobody() {
    let view = view(1, &[1], &[], true);
    assert_eq!(targets(&view, &plan(&view).dataplane).peers.len(), 0);
    assert_eq!(plan(&view).dataplane.probe_port, 0);
}

#[test]
fn a_backend_on_no_peer_is_reached_by_translation() {
    let (plain, router) = (Mac([2, 0, 0, 0, 0, 7]), Mac([2, 0, 0, 0, 0, 254]));
    let routed = |mac| Hop::Routed { gateway: address(254), interface: 2, mac, mtu: None };
    let mut view = view(1, &[1, 2], &[(7, 80), (8, 80), (9, 80)], true);
    assert_eq!(way_of(&view, "10.0.0.7:80"), Way::None("nobody answers for 10.0.0.7".into()));
    view.hops.insert(address(7), Hop::Neighbour { mac: plain, interface: 2 });
    view.hops.insert(address(8), routed(Some(router)));
    view.hops.insert(address(9), routed(Some(router)));
    let desired = plan(&view).dataplane;
    let through = |backend| match way_of(&view, backend) {
        Way::Nat(hop) => desired.hops[&hop].clone(),
        other => panic!("{backend}: {other:?}"),
    };
    let hop = |mac| NextHop { mac, interface: 2, through: Through::Nat, mtu: 1500, full: 1500 };
    assert_eq!(through("10.0.0.7:80"), hop(plain));
    assert_eq!(through("10.0.0.8:80"), hop(router));
    assert_eq!(way_of(&view, "10.0.0.8:80"), way_of(&view, "10.0.0.9:80"));
    assert_eq!(desired.hops.len(), 2);
    for (hop, word) in [
        (routed(None), "router 10.0.0.254"),
        (Hop::Unreachable, "no route"),
        (Hop::Here, "localPeer"),
        (Hop::Unresolved { interface: 2 }, "nobody answers"),
    ] {
        view.hops.insert(address(7), hop);
        assert!(matches!(way_of(&view, "10.0.0.7:80"), Way::None(reason) if reason.contains(word)));
    }
}

#[test]
fn words_choose_the_ways() {
    const WAYS: [&str; 4] = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.7:80"];
    let at = |n| Mac([2, 0, 0, 0, 0, n]);
    let mut view = view(1, &[1, 2, 3], &[(1, 80), (2, 80), (3, 80), (7, 80)], true);
    // One peer is behind a router, one host has no agent.
    let (gateway, mac) = (address(254), Some(at(254)));
    view.hops.insert(address(3), Hop::Routed { gateway, interface: 2, mac, mtu: None });
    view.hops.insert(address(7), Hop::Neighbour { mac: at(7), interface: 2 });
    for (word, expected) in [
        (Forwarding::Auto, ["here", "peer", "peer", "nat"]),
        (Forwarding::Local, ["here", "-", "-", "-"]),
        (Forwarding::DirectRoute, ["here", "peer", "-", "-"]),
        (Forwarding::Tunnel, ["here", "tunnel", "peer", "-"]),
        (Forwarding::Masquerade, ["here", "nat", "nat", "nat"]),
    ] {
        Arc::make_mut(&mut view.config).load_balancers[0].forwarding = word;
        let found = WAYS.map(|backend| match way_of(&view, backend) {
            Way::Here => "here",
            Way::Peer => "peer",
            Way::Tunnel => "tunnel",
            Way::Nat(_) => "nat",
            Way::None(reason) => {
                assert!(reason.contains(word.word()), "{reason}");
                "-"
            }
        });
        assert_eq!(found, expected, "{word:?}");
    }
    Arc::make_mut(&mut view.config).load_balancers[0].forwarding = Forwarding::Bypass;
    assert!(plan(&view).dataplane.frontends.is_empty());
}

#[test]
fn on_a_hosts_own_address_translation_needs_ports() {
    let mut view = view(1, &[1, 2], &[(7, 80)], true);
    view.hops.insert(address(7), Hop::Neighbour { mac: Mac([2, 0, 0, 0, 0, 7]), interface: 2 });
    Arc::make_mut(&mut view.config).load_balancers[0].bind_to_vip = false;
    let without = way_of(&view, "10.0.0.7:80");
    assert!(matches!(without, Way::None(reason) if reason.contains("natPorts")));
    Arc::make_mut(&mut view.config).nat_ports = Some(PortRange { first: 28000, last: 28999 });
    assert!(matches!(way_of(&view, "10.0.0.7:80"), Way::Nat(_)));
    let desired = plan(&view).dataplane;
    assert!(desired.frontends.values().all(|frontend| frontend.from_node));
    assert_eq!(desired.nat_ports.len(), 1000);
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

/// What the checks say of these backends: down.
fn down(view: &mut View, hosts: &[u8]) {
    for check in checks(&view.config) {
        let up = !hosts.iter().any(|host| check.backend.ip() == address(*host));
        let health = Health { up, ..Health::unknown(tokio::time::Instant::now()) };
        view.health.insert(check, health);
    }
}

fn excluded(view: &View) -> (Vec<u8>, bool) {
    let desired = plan(view);
    let frontend = desired.dataplane.frontends.values().next().expect("a frontend");
    let excluded = frontend.backends.iter().filter(|(_, backend)| backend.share() == 0);
    let host = |ip| (1u8..=9).find(|host| address(*host) == ip).expect("a small one");
    (excluded.map(|(backend, _)| host(backend.ip())).collect(), frontend.all_down)
}

#[test]
fn what_fails_its_checks_is_left_out_unless_all_do() {
    let mut view = view(1, &[1, 2, 3], &[(1, 80), (2, 80), (3, 80)], true);
    assert_eq!(excluded(&view), (vec![], false), "before the first look all are up");
    down(&mut view, &[2]);
    assert_eq!(excluded(&view), (vec![2], false));
    down(&mut view, &[1, 2, 3]);
    assert_eq!(excluded(&view), (vec![], true));
    // One that cannot be reached is none to be kept.
    down(&mut view, &[1, 2]);
    view.hops.insert(address(3), Hop::Unresolved { interface: 2 });
    assert_eq!(excluded(&view), (vec![], true));
    let mut config = Config::clone(&view.config);
    config.load_balancers[0].all_down = AllDown::Refuse;
    view.config = config.into();
    assert_eq!(excluded(&view), (vec![1, 2], false));
}

#[test]
fn what_load_balancers_ask_alike_is_asked_once() {
    let mut config = Config::clone(&view(1, &[1, 2], &[(1, 80), (2, 80)], true).config);
    let mut second = config.load_balancers[0].clone();
    second.port = 81;
    config.load_balancers.push(second.clone());
    assert_eq!(checks(&config).len(), 2);
    second.health_check.as_mut().expect("TCP is checked").port = Some(8000);
    config.load_balancers.push(second);
    assert_eq!(checks(&config).len(), 4);
    config.load_balancers.iter_mut().for_each(|balancer| balancer.health_check = None);
    assert!(checks(&config).is_empty());
}

fn link(index: u32, kind: &str) -> Link {
    Link {
        index,
        mac: Mac([2, 0, 0, 0, 1, index as u8]),
        mtu: 1500,
        up: true,
        carrier: true,
        addresses: Vec::new(),
        kind: kind.to_owned(),
    }
}

/// A host with these further links, and with this at the end of its file.
fn host_with(links: &[(&str, u32, &str)], more: &str) -> View {
    let mut view = view(1, &[1, 2], &[(1, 80), (2, 80)], true);
    let text = file(1, &[1, 2], &[(1, 80), (2, 80)], true) + more;
    view.config = Arc::new(Config::parse(&text, "test", "test").expect("valid"));
    view.links.extend(links.iter().map(|(name, index, kind)| ((*name).into(), link(*index, kind))));
    view
}

#[test]
fn the_kind_of_an_uplink_says_how_it_is_attached_to() {
    use crate::config::XdpMode::{Auto, Generic, Native};
    for (kind, more, mode, reason) in [
        // A device of its own: its driver is asked.
        ("", "", Auto, ""),
        // The driver passes the program on to its ports, or refuses.
        ("bond", "", Auto, ""),
        ("veth", "", Generic, "xdpMode: native"),
        ("bridge", "", Generic, "a bridge"),
        ("vlan", "", Generic, "a vlan"),
        ("macvlan", "", Generic, "a macvlan"),
        ("veth", "xdpMode: native", Native, ""),
        ("macvlan", "xdpMode: native", Native, ""),
        ("", "xdpMode: generic", Generic, ""),
    ] {
        let mut view = host_with(&[], more);
        view.links.get_mut("eth0").expect("the uplink").kind = kind.to_owned();
        let uplink = &plan(&view).dataplane.uplinks["eth0"];
        assert_eq!(uplink.xdp, mode, "{kind} {more}");
        let said = uplink.reason.as_deref().unwrap_or_default();
        assert!(said.contains(reason) && said.is_empty() == reason.is_empty(), "{kind}: {said}");
    }
}

#[test]
fn one_generic_uplink_makes_all_generic() {
    let links = [("eth1", 3, ""), ("eth0.5", 4, "vlan")];
    let uplinks = plan(&host_with(&links, "uplinks: [eth1]")).dataplane.uplinks;
    assert!(uplinks.len() == 2 && uplinks.values().all(|one| one.xdp == XdpMode::Auto));
    let uplinks = plan(&host_with(&links, "uplinks: [eth1, eth0.5]")).dataplane.uplinks;
    assert!(uplinks.len() == 3 && uplinks.values().all(|one| one.xdp == XdpMode::Generic));
    let reason = |name: &str| uplinks[name].reason.clone().expect("a reason");
    assert!(reason("eth0.5").contains("a vlan"), "{}", reason("eth0.5"));
    assert!(reason("eth1").contains("eth0.5 is generic"), "{}", reason("eth1"));
}

#[test]
fn vips_are_held_and_announced_on_the_first_uplink_alone() {
    let desired = plan(&host_with(&[("eth1", 3, "")], "uplinks: [eth1]"));
    assert_eq!(desired.addresses.iter().map(|held| &held.interface).collect::<Vec<_>>(), ["eth0"]);
    let announced = desired.announcements.iter().map(|one| (one.interface, one.mac));
    assert_eq!(announced.collect::<Vec<_>>(), [(2, Mac([2, 0, 0, 0, 0, 1]))]);
}

#[test]
fn a_peer_is_reached_through_any_uplink_but_nothing_else() {
    let links = [("eth1", 3, ""), ("eth2", 4, "")];
    let at = |interface| {
        let mut view = host_with(&links, "uplinks: [eth1]");
        let mac = Mac([2, 0, 0, 0, 0, 2]);
        view.hops.insert(address(2), Hop::Neighbour { mac, interface });
        view
    };
    let desired = plan(&at(3));
    for v4 in [true, false] {
        let hop = desired.dataplane.nodes["n2"].hop(v4).expect("a way");
        assert_eq!((hop.mac, hop.interface), (Mac([2, 0, 0, 0, 0, 2]), 3));
    }
    assert_eq!(way_of(&at(3), "10.0.0.2:80"), Way::Peer);
    let Way::None(reason) = way_of(&at(4), "10.0.0.2:80") else { panic!("through eth2") };
    assert!(reason.contains("eth2") && reason.contains("`uplinks`"), "{reason}");
    // Its own ones are known as its own, whatever arrives from there.
    let senders = &desired.dataplane.senders;
    assert_eq!(senders[&Mac([2, 0, 0, 0, 1, 3])], "n1");
    assert_eq!(senders[&Mac([2, 0, 0, 0, 0, 2])], "n2");
}

#[test]
fn replies_are_looked_for_on_overlays_and_where_the_file_says() {
    let links = [
        ("eth1", 3, ""),
        ("flannel.1", 4, "vxlan"),
        ("genev_sys", 5, "geneve"),
        ("cni0", 6, "bridge"),
        ("tunl7", 7, "ipip"),
    ];
    let devices = |more: &str| {
        let mut view = host_with(&links, more);
        // No Ethernet there.
        view.links.get_mut("tunl7").expect("it").mac = Mac::default();
        plan(&view).dataplane.reply_devices.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(devices(""), ["flannel.1", "genev_sys"]);
    assert_eq!(devices("replyDevices: []"), [""; 0]);
    assert_eq!(devices("replyDevices: [cni*, tunl7, eth0]"), ["cni0"]);
    assert_eq!(devices("replyDevices: auto,cni0"), ["cni0", "flannel.1", "genev_sys"]);
    assert_eq!(devices("uplinks: [flannel.1]"), ["genev_sys"]);
}

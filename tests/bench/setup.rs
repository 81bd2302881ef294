//! Addresses, and a configuration of some size that leads packets along every measured way.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use kube_vip::config::{Affinity, Limits, Protocol, TableSize};
use kube_vip::plan::{Backend, DataPlane, Frontend, NextHop, Node, Through, Vip, Way};
use kube_vip::view::Mac;

/// Interface that test runs arrive on: the loopback of the namespace.
pub(crate) const IFINDEX: u32 = 1;

pub(crate) const HOST: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub(crate) const CLIENT: Mac = Mac([2, 0, 0, 0, 0, 0xc1]);

/// Virtual addresses of each family, each with a balanced port; as many as the prototypes had.
const VIPS: u16 = 400;
pub(crate) const BACKENDS: u8 = 10;
const PEERS: u8 = 3;
/// Number of the host behind a router, and of this one, in their network.
pub(crate) const FAR: u16 = 20;
pub(crate) const HERE: u16 = 1;
/// The host without agent.
const PLAIN: &str = " plain";
/// Number of the first backend on another host.
const FIRST_ELSEWHERE: u8 = 100;

/// The ports of the first virtual address, by what becomes of their packets.
pub(crate) mod port {
    pub(crate) const FORWARD: u16 = 80;
    pub(crate) const FORWARD_LARGE: u16 = 81;
    pub(crate) const DELIVER: u16 = 82;
    /// One backend only, so that it is known where the replies come from.
    pub(crate) const DELIVER_ONE: u16 = 83;
    /// Backends behind a router.
    pub(crate) const TUNNEL: u16 = 84;
    /// Backends on a host without agent.
    pub(crate) const NAT: u16 = 85;
    pub(crate) const BACKEND: u16 = 8080;
}

pub(crate) const LIMITS: Limits =
    Limits { frontends: 1024, backends: 8192, flows: 65536, half_open: 262_144, nat: 262_144 };

/// `host` in this host's network.
pub(crate) fn address(v6: bool, network: u8, host: u16) -> IpAddr {
    let [high, low] = host.to_be_bytes();
    if v6 {
        Ipv6Addr::new(0xfd00, 0, 0, network.into(), 0, 0, 0, host).into()
    } else {
        Ipv4Addr::new(10, network, high, low).into()
    }
}

pub(crate) fn client(v6: bool) -> IpAddr {
    address(v6, 1, 8)
}

pub(crate) fn vip(v6: bool) -> IpAddr {
    address(v6, 2, 0x101)
}

pub(crate) fn peer(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 1, number])
}

pub(crate) fn backend(v6: bool, number: u8) -> SocketAddr {
    SocketAddr::new(address(v6, 3, number.into()), port::BACKEND)
}

/// The measured frontends among as many others as the prototypes had.
pub(crate) fn configuration() -> DataPlane {
    configuration_on(IFINDEX)
}

/// The same with all hosts behind that interface.
pub(crate) fn configuration_on(ifindex: u32) -> DataPlane {
    let owner = Some("here".to_owned());
    let vip_of = || Vip {
        host_address: false,
        held: true,
        lease: "all".to_owned(),
        grant: None,
        owner: owner.clone(),
    };
    let mut desired = DataPlane::default();
    let node = |local, mac, host| {
        let hop =
            NextHop { mac, interface: ifindex, through: Through::Link, mtu: 1500, full: 1500 };
        let addresses = vec![address(false, 0, host), address(true, 0, host)];
        Node { local, hop4: Some(hop.clone()), hop6: Some(hop), addresses, pods: vec![] }
    };
    desired.nodes.insert("here".to_owned(), node(true, HOST, HERE));
    for number in 1..=PEERS {
        let peer = node(false, peer(number), 10 + u16::from(number));
        desired.nodes.insert(format!("peer{number}"), peer);
    }
    let mut far = node(false, peer(PEERS + 1), FAR);
    for hop in [&mut far.hop4, &mut far.hop6].into_iter().flatten() {
        hop.through = Through::Tunnel;
    }
    desired.nodes.insert("far".to_owned(), far);
    let mac = peer(PEERS + 2);
    let plain = NextHop { mac, interface: ifindex, through: Through::Nat, mtu: 1500, full: 1500 };
    desired.hops.insert(PLAIN.to_owned(), plain);
    for v6 in [false, true] {
        for number in 0..VIPS {
            let address = address(v6, 2, 0x101 + number);
            desired.vips.insert(address, vip_of());
            let key = (address, port::FORWARD, Protocol::Tcp);
            desired.frontends.insert(key, frontend(v6, TableSize::default(), elsewhere()));
        }
        let key = (vip(v6), port::FORWARD, Protocol::Udp);
        desired.frontends.insert(key, frontend(v6, TableSize::default(), elsewhere()));
        for (port, size, backends) in [
            (port::FORWARD_LARGE, TableSize::S65537, elsewhere()),
            (port::DELIVER, TableSize::default(), here(BACKENDS)),
            (port::DELIVER_ONE, TableSize::default(), here(1)),
            (port::TUNNEL, TableSize::default(), behind_a_router()),
            (port::NAT, TableSize::default(), without_agent()),
        ] {
            let key = (vip(v6), port, Protocol::Tcp);
            desired.frontends.insert(key, frontend(v6, size, backends));
        }
    }
    desired
}

/// The backends of `port::FORWARD` by address, with the Ethernet addresses of their hosts.
pub(crate) fn forwarded(v6: bool) -> Vec<(SocketAddr, Mac)> {
    let one = |number| (backend(v6, FIRST_ELSEWHERE + number), peer(1 + number % PEERS));
    (0..BACKENDS).map(one).collect()
}

/// Numbers of backends with the node each is on.
type Backends = Vec<(u8, Option<String>, Way)>;

fn here(count: u8) -> Backends {
    (0..count).map(|number| (number, Some("here".to_owned()), Way::Here)).collect()
}

fn behind_a_router() -> Backends {
    (0..BACKENDS).map(|number| (200 + number, Some("far".to_owned()), Way::Peer)).collect()
}

fn without_agent() -> Backends {
    (0..BACKENDS).map(|number| (220 + number, None, Way::Nat(PLAIN.to_owned()))).collect()
}

fn elsewhere() -> Backends {
    let peer = |number| format!("peer{}", 1 + number % PEERS);
    let one = |number| (FIRST_ELSEWHERE + number, Some(peer(number)), Way::Peer);
    (0..BACKENDS).map(one).collect()
}

fn frontend(v6: bool, size: TableSize, backends: Backends) -> Frontend {
    let backends: BTreeMap<_, _> = backends
        .into_iter()
        .map(|(number, node, way)| (backend(v6, number), Backend::new(node, 1, way)))
        .collect();
    let (name, affinity) = ("measured".to_owned(), Affinity::None);
    Frontend { name, size, affinity, seed: 7, backends, ..Frontend::default() }
}

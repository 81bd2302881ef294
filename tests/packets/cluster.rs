//! Configurations: the two VIPs, this host, its peer, and frontends at port 80 of everything.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use kube_vip::config::PortRange;
use kube_vip::dataplane::Port;
use kube_vip::plan::{Backend, DataPlane, Frontend, NextHop, Node, Through, Vip, Way};
use kube_vip::view::Mac;
use kube_vip_common::frontend::{Affinity, Protocol};
use kube_vip_common::table::TableSize;

use super::frames::{HOST, HOST4, HOST6, PEER, PEER4, PEER6, VIP4, VIP6, host, peer, vip};
use super::kernel::IFINDEX;

/// The balanced port.
pub(crate) const PORT: u16 = 80;
/// Where backends listen.
pub(crate) const TARGET: u16 = 8080;
/// A port of the VIP that nobody balances.
pub(crate) const SSH: u16 = 22;

/// Where probes come to, and what their answers say of the seeds.
pub(crate) const PROBE: u16 = 10000;
pub(crate) const DIGEST: u64 = 0x0102_0304_0506_0708;

/// Seed of every frontend's hash.
pub(crate) const SEED: u64 = 7;

/// Hosts without agent: the name of the next hop to them all, and its Ethernet address.
pub(crate) const PLAIN_HOP: &str = " plain";
pub(crate) const PLAIN: Mac = Mac([2, 0, 0, 0, 0, 0x99]);

/// Where a backend runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// On this host's own address.
    Host,
    /// In a Pod of this host.
    Pod(u16),
    /// On the peer's own address.
    Peer,
    /// In a Pod of that node.
    On(&'static str, u16),
    /// On a host without agent.
    Plain(u8),
}

impl At {
    pub(crate) fn address(self, v6: bool) -> SocketAddr {
        let pod = |n: u16| -> IpAddr {
            let [high, low] = n.to_be_bytes();
            if v6 {
                Ipv6Addr::new(0xfd01, 0, 0, 1, 0, 0, 0, n).into()
            } else {
                Ipv4Addr::new(10, 244, high, low).into()
            }
        };
        let ip = match self {
            Self::Host => host(v6),
            Self::Peer => peer(v6),
            Self::Pod(n) | Self::On(_, n) => pod(n),
            Self::Plain(n) if v6 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()).into(),
            Self::Plain(n) => Ipv4Addr::new(10, 0, 0, n).into(),
        };
        SocketAddr::new(ip, TARGET)
    }

    fn backend(self) -> Backend {
        let (node, way) = match self {
            Self::Host | Self::Pod(_) => (Some("host"), Way::Here),
            Self::Peer => (Some("peer"), Way::Peer),
            Self::On(node, _) => (Some(node), Way::Peer),
            Self::Plain(_) => (None, Way::Nat(PLAIN_HOP.to_owned())),
        };
        Backend::new(node.map(str::to_owned), 1, way)
    }
}

pub(crate) type Frontends = BTreeMap<Port, Frontend>;

/// A frontend with these backends.
pub(crate) fn frontend(v6: bool, backends: &[At]) -> Frontend {
    Frontend {
        name: "web".into(),
        size: TableSize::S251,
        affinity: Affinity::None,
        seed: SEED,
        backends: backends.iter().map(|at| (at.address(v6), at.backend())).collect(),
        ..Frontend::default()
    }
}

pub(crate) fn tcp(v6: bool) -> Port {
    (vip(v6), PORT, Protocol::Tcp)
}

pub(crate) fn udp(v6: bool) -> Port {
    (vip(v6), PORT, Protocol::Udp)
}

/// TCP and UDP frontends of both families, all with these backends.
pub(crate) fn everywhere(backends: &[At]) -> Frontends {
    let ports =
        [false, true].map(|v6| [tcp(v6), udp(v6)].map(|port| (port, frontend(v6, backends))));
    ports.into_iter().flatten().collect()
}

fn desired(vip: &Vip, frontends: Frontends) -> DataPlane {
    DataPlane {
        vips: BTreeMap::from([(VIP4.into(), vip.clone()), (VIP6.into(), vip.clone())]),
        nodes: BTreeMap::from([
            ("host".to_owned(), node(true, HOST, [HOST4.into(), HOST6.into()])),
            ("peer".to_owned(), node(false, PEER, [PEER4.into(), PEER6.into()])),
        ]),
        hops: BTreeMap::from([(PLAIN_HOP.to_owned(), plain_hop(PLAIN, IFINDEX))]),
        nat_ports: PortRange::default(),
        frontends,
        udp_idle: Duration::from_secs(120),
        abandoned_after: Duration::ZERO,
        drain_timeout: None,
        probe_port: PROBE,
        digest: DIGEST,
        ..DataPlane::default()
    }
}

pub(crate) fn node(local: bool, mac: Mac, addresses: [IpAddr; 2]) -> Node {
    let hop = Some(link(mac, IFINDEX));
    Node { local, hop4: hop.clone(), hop6: hop, addresses: addresses.to_vec(), pods: vec![] }
}

/// The way to a host on the same link.
pub(crate) fn link(mac: Mac, interface: u32) -> NextHop {
    NextHop { mac, interface, through: Through::Link, mtu: 1500, full: 1500 }
}

/// The one lease that all VIPs hang on.
pub(crate) const LEASE: &str = "all";

fn vip_of(held: bool, owner: Option<&str>) -> Vip {
    let (lease, owner) = (LEASE.to_owned(), owner.map(str::to_owned));
    Vip { host_address: false, held, lease, grant: None, owner }
}

/// This host has the VIPs.
pub(crate) fn held(frontends: Frontends) -> DataPlane {
    desired(&vip_of(true, Some("host")), frontends)
}

/// The peer has the VIPs.
pub(crate) fn elsewhere(frontends: Frontends) -> DataPlane {
    desired(&vip_of(false, Some("peer")), frontends)
}

/// Nobody is known to have the VIPs.
pub(crate) fn nowhere(frontends: Frontends) -> DataPlane {
    desired(&vip_of(false, None), frontends)
}

/// The "VIPs" are this host's own addresses (`bindToVip: false`).
pub(crate) fn own_addresses(frontends: Frontends) -> DataPlane {
    let vip = Vip { host_address: true, lease: String::new(), ..vip_of(true, None) };
    desired(&vip, frontends)
}

/// The next hop to hosts without agent.
pub(crate) fn plain_hop(mac: Mac, interface: u32) -> NextHop {
    NextHop { mac, interface, through: Through::Nat, mtu: 1500, full: 1500 }
}

//! What should be true on this host, as plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use kube_vip_common::frontend::{Affinity, Protocol};
use kube_vip_common::nat::PortRange;
use kube_vip_common::table::TableSize;

use crate::config::{HttpBackend, LocalClients, Trust, XdpMode};
use crate::view::{Health, Mac};

/// The output of the plan; each driver reads its own part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// For the address driver: what this host holds.
    pub addresses: BTreeSet<HeldAddress>,
    /// For the data plane driver.
    pub dataplane: DataPlane,
    /// For the announcer.
    pub announcements: BTreeSet<Announcement>,
    /// For the proxy: where it may listen.
    pub proxies: BTreeMap<SocketAddr, Proxy>,
}

/// An HTTP port that is proxied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Name for people.
    pub name: String,
    /// This host listens there: it owns the VIP, or it is about the host's own addresses.
    pub here: bool,
    /// Which certificates of https backends are believed.
    pub trust: Option<Trust>,
    /// Every backend that could be used fails its checks, so all are kept.
    pub all_down: bool,
    /// Who serves it, in the file's order.
    pub upstreams: Vec<Upstream>,
}

/// A server behind a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Where it is, and what it is called.
    pub backend: HttpBackend,
    /// It fails its checks, and gets nothing.
    pub excluded: bool,
    /// What this host's own probes say; nothing where there are none.
    pub health: Option<Health>,
}

impl Upstream {
    /// Its share of the requests: none where it is excluded.
    pub fn share(&self) -> u16 {
        if self.excluded { 0 } else { self.backend.weight }
    }
}

/// A VIP that is a local address of this host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeldAddress {
    /// Interface name.
    pub interface: String,
    /// The address; it is held as /32 or /128.
    pub address: IpAddr,
}

/// A VIP whose place the network is told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Announcement {
    /// Interface index to announce on.
    pub interface: u32,
    /// Hardware address that is announced.
    pub mac: Mac,
    /// The VIP.
    pub address: IpAddr,
}

/// What the kernel programs should know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataPlane {
    /// Interfaces the programs are attached to, by name.
    pub uplinks: BTreeMap<String, Uplink>,
    /// Interfaces through which replies leave besides, by name: only the egress program is there.
    pub reply_devices: BTreeMap<String, Uplink>,
    /// Addresses that are ours to judge.
    pub vips: BTreeMap<IpAddr, Vip>,
    /// Ethernet addresses that hosts may send from, besides the one each is reached at: id by address.
    pub senders: BTreeMap<Mac, String>,
    /// Hosts that take part, by id.
    pub nodes: BTreeMap<String, Node>,
    /// Of those, peers on this L2 network that tunnels are asked for to, by [`Tunnel`]'s name.
    pub tunnels: BTreeMap<String, Tunnel>,
    /// Where translated packets go next, by a name for each: hosts without agent, or routers.
    pub hops: BTreeMap<String, NextHop>,
    /// Ports of this host's own address for connections that are translated to come from it.
    pub nat_ports: PortRange,
    /// Balanced ports.
    pub frontends: BTreeMap<(IpAddr, u16, Protocol), Frontend>,
    /// How processes of this host reach the VIPs.
    pub clients: Clients,
    /// Rare paths write log lines.
    pub logging: bool,
    /// A UDP flow ends when nothing has come for this long; whole seconds count.
    pub udp_idle: Duration,
    /// The kernel programs let everything pass once no agent has been there for this long; zero where
    /// that never happens.
    pub abandoned_after: Duration,
    /// The most that clients may be told to send in a TCP segment.
    pub mss: Mss,
    /// How long a backend that takes no new flows keeps those it has.
    pub drain_timeout: Option<Duration>,
    /// The UDP port that other agents' probes come to; 0 where there are no others.
    pub probe_port: u16,
    /// Of what seeds come from: hosts with the same digest have the same tables.
    pub digest: u64,
    /// The VIPs may become another host's: it is told of connections that are translated here.
    pub replicates: bool,
}

impl DataPlane {
    /// The leases, with the grant of each that this host holds.
    pub fn leases(&self) -> BTreeMap<&str, Option<Grant>> {
        let vips = self.vips.values().filter(|vip| !vip.host_address);
        vips.map(|vip| (vip.lease.as_str(), vip.grant)).collect()
    }
}

/// A maximum segment size of each IP version, in bytes; 0 where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mss {
    /// Over IPv4.
    pub v4: u16,
    /// Over IPv6.
    pub v6: u16,
}

/// How processes of this host reach the VIPs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clients {
    /// Whose sockets are led to backends.
    pub whose: LocalClients,
    /// The cgroup whose processes those are; looked for where it is not given.
    pub cgroup: Option<PathBuf>,
}

/// An interface the programs are attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The kernel's number for it.
    pub index: u32,
    /// Its hardware address.
    pub mac: Mac,
    /// How arriving packets are to be handled.
    pub xdp: XdpMode,
    /// Why that is not the best of the modes, where the plan decided so.
    pub reason: Option<String>,
}

/// An address that is ours to judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// A host's own address with balanced ports (`bindToVip: false`): no ARP, fence or RST of ours.
    pub host_address: bool,
    /// It is a local address here: what has no frontend goes up to the kernel.
    pub held: bool,
    /// The lease that ownership hangs on; empty for a host's own address.
    pub lease: String,
    /// The grant of the election, where this host owns it.
    pub grant: Option<Grant>,
    /// The owner's id where it is known.
    pub owner: Option<String>,
}

/// Ownership by the election's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Number of the grant; a later one has a higher number.
    pub epoch: u64,
}

/// A host that takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// It is this host.
    pub local: bool,
    /// The way of IPv4 packets to it; absent while they cannot be forwarded.
    pub hop4: Option<NextHop>,
    /// The way of IPv6 packets to it.
    pub hop6: Option<NextHop>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Addresses of its Pods: at most one range of each family.
    pub pods: Vec<IpNet>,
}

impl Node {
    /// The way of one family's packets to it.
    pub fn hop(&self, v4: bool) -> Option<&NextHop> {
        if v4 { self.hop4.as_ref() } else { self.hop6.as_ref() }
    }
}

/// A second way to a peer on this L2 network: through a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The peer's id.
    pub peer: String,
    /// The way of IPv4 packets.
    pub hop4: Option<NextHop>,
    /// The way of IPv6 packets.
    pub hop6: Option<NextHop>,
}

impl Tunnel {
    /// What the way to a peer is called. No peer has an id that begins with a space.
    pub fn name(peer: &str) -> String {
        format!(" tunnel to {peer}")
    }

    /// The way of one family's packets.
    pub fn hop(&self, v4: bool) -> Option<&NextHop> {
        if v4 { self.hop4.as_ref() } else { self.hop6.as_ref() }
    }
}

/// Where packets to a host go next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Hardware address there: the host's own, or its router's.
    pub mac: Mac,
    /// The interface they leave through.
    pub interface: u32,
    /// What they leave as.
    pub through: Through,
    /// Largest IP packet that fits on the way, in bytes.
    pub mtu: u32,
    /// The same as interfaces and routes have it, whether it is true or not.
    pub full: u32,
}

/// What packets to a host travel through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// The link this host is on too.
    Link,
    /// Routers, in a tunnel.
    Tunnel,
    /// Whatever there is, to a host without agent.
    Nat,
}

/// A balanced port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontend {
    /// Name for people.
    pub name: String,
    /// Slots of its table.
    pub size: TableSize,
    /// What is hashed.
    pub affinity: Affinity,
    /// Agreed among all hosts.
    pub seed: u64,
    /// It is on a host's own address, not on a VIP.
    pub host_address: bool,
    /// Clients that find no backend are not answered.
    pub silent: bool,
    /// So many new connections a client may open in a second; nothing: as many as it likes.
    pub rate_limit: Option<u32>,
    /// Every backend that could be used fails its checks, so all are kept.
    pub all_down: bool,
    /// Translated connections come from this host's own address, not from the frontend's.
    pub from_node: bool,
    /// All its backends of the family, ready or not, by identity.
    pub backends: BTreeMap<SocketAddr, Backend>,
}

/// A server behind a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Id of the host it runs on, where that is a peer or this host.
    pub node: Option<String>,
    /// Its share.
    pub weight: u16,
    /// How packets get there, or why they cannot.
    pub way: Way,
    /// What this host's own probes say; nothing where there are none.
    pub health: Option<Health>,
    /// It fails its checks, and gets nothing new from this host.
    pub excluded: bool,
}

impl Backend {
    /// One that is not looked at.
    pub fn new(node: Option<String>, weight: u16, way: Way) -> Self {
        Self { node, weight, way, health: None, excluded: false }
    }

    /// Its share of what is new: none where it is excluded.
    pub fn share(&self) -> u16 {
        if self.excluded { 0 } else { self.weight }
    }

    /// It would get something new if its checks let it.
    pub(super) fn is_usable(&self) -> bool {
        self.weight > 0 && !matches!(self.way, Way::None(_))
    }
}

/// How packets get to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// It runs here.
    Here,
    /// To the peer it runs on, which delivers it.
    Peer,
    /// The same in a tunnel, though the peer is on this L2 network.
    Tunnel,
    /// To a host without agent, or to one that would not answer through this one: by address
    /// translation, to the next hop of that name.
    Nat(String),
    /// Not now, for this reason; it is left out of the table.
    None(String),
}

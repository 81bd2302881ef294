//! The configuration file: what it says, checked as a whole before anything is done.

use std::net::IpAddr;
use std::time::Duration;

pub use kube_vip_common::frontend::{Affinity, Protocol};
pub use kube_vip_common::table::TableSize;

/// A configuration that has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Tells several agents on one host apart: pins, locks and sockets carry it.
    pub instance: String,
    /// The uplink: VIPs are held, answered and announced there.
    pub interface: String,
    /// This host.
    pub local_peer: Peer,
    /// The other hosts.
    pub remote_peers: Vec<Peer>,
    /// The virtual addresses, in the file's order.
    pub vips: Vec<IpAddr>,
    /// Announce by gratuitous ARP and unsolicited neighbour advertisements.
    pub gratuitous_arp: bool,
    /// Time between two announcements after the first burst.
    pub announce_interval: Duration,
    /// There are no other hosts; ownership never ends.
    pub single_node: bool,
    /// This host owns the VIPs until election exists.
    pub start_as_leader: bool,
    /// What is balanced.
    pub load_balancers: Vec<LoadBalancer>,
    /// Let the kernel programs write log lines on their rare paths.
    pub log_data_plane: bool,
    /// Sizes of the maps.
    pub limits: Limits,
    /// One line for each setting that was understood and has no effect yet, for the log.
    pub notices: Vec<String>,
}

/// A host that takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name, unique among the peers.
    pub id: String,
    /// Its addresses; the first one is the one it is known by.
    pub addresses: Vec<IpAddr>,
    /// Port for the agents' own talk.
    pub port: u16,
}

/// One port of the VIPs (or of the hosts) and who serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadBalancer {
    /// Name for people.
    pub name: String,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Port clients connect to.
    pub port: u16,
    /// On the VIPs; otherwise on each host's own addresses.
    pub bind_to_vip: bool,
    /// Slots of the Maglev table.
    pub table_size: TableSize,
    /// What is hashed to choose a backend.
    pub affinity: Affinity,
    /// Who serves it.
    pub backends: Vec<Backend>,
}

/// A server behind a load balancer; its identity is address and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where it listens.
    pub address: IpAddr,
    /// Where it listens.
    pub port: u16,
    /// Its share relative to the others'; 0 takes no new connections.
    pub weight: u16,
}

/// Sizes of the maps, fixed while the agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Ports of VIPs.
    pub frontends: u32,
    /// Backends over all frontends.
    pub backends: u32,
    /// Connections delivered on this host, per address family.
    pub flows: u32,
}

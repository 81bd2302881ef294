//! The agent's configuration file, as tests write it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::build::{Lab, VIPS};
use crate::host::Host;

/// A configuration; `to_string` is the file.
#[derive(Clone, Debug)]
pub struct Config {
    /// The host it is for.
    pub local: Peer,
    /// The other hosts.
    pub remotes: Vec<Peer>,
    /// The virtual addresses.
    pub vips: Vec<IpAddr>,
    /// The uplinks, with commas between.
    pub interface: &'static str,
    /// Whether this host owns the virtual addresses as long as nothing else decides.
    pub start_as_leader: bool,
    /// `native` unless said: every port of the wire has a program, so that works.
    pub xdp_mode: &'static str,
    /// Whose sockets on the host are led to backends; `host` unless said.
    pub local_clients: &'static str,
    /// Whether the network is told where the virtual addresses are.
    pub gratuitous_arp: bool,
    /// What is balanced.
    pub balancers: Vec<Balancer>,
    /// Lines put at the end as they are.
    pub extra: String,
}

/// A host with an agent.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its host name.
    pub id: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// One entry of `loadBalancers`.
#[derive(Clone, Debug)]
pub struct Balancer {
    /// Its name.
    pub name: String,
    /// What it balances.
    pub transport: Transport,
    /// The port clients use.
    pub port: u16,
    /// On the virtual addresses, or on each host's own.
    pub bind_to_vip: bool,
    /// Who serves it.
    pub backends: Vec<SocketAddr>,
    /// Those among them that take no new connections.
    pub draining: Vec<SocketAddr>,
    /// Further settings, as they stand in the file.
    pub settings: Vec<String>,
}

impl Config {
    /// A configuration for `host`, all nodes of the lab being peers, n1 being the owner.
    pub fn of(lab: &Lab, host: &Host, balancers: &[Balancer]) -> Self {
        let peer = |host: &Host| Peer {
            id: host.name().to_owned(),
            addresses: vec![host.v4().into(), host.v6().into()],
        };
        Self {
            local: peer(host),
            remotes: lab.nodes().filter(|node| node.name() != host.name()).map(peer).collect(),
            vips: VIPS.to_vec(),
            interface: "eth0",
            start_as_leader: host.name() == "n1",
            xdp_mode: "native",
            local_clients: "host",
            gratuitous_arp: true,
            balancers: balancers.to_vec(),
            extra: String::new(),
        }
    }
}

impl Balancer {
    /// `name` on the virtual addresses at `port`, served by `backends`.
    pub fn new(name: &str, transport: Transport, port: u16, backends: Vec<SocketAddr>) -> Self {
        Self {
            name: name.to_owned(),
            transport,
            port,
            bind_to_vip: true,
            backends,
            draining: vec![],
            settings: Vec::new(),
        }
    }

    /// The same with a further setting, like `noBackend: drop`.
    pub fn with(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }

    /// The same at the hosts' own addresses.
    pub fn on_own_addresses(mut self) -> Self {
        self.bind_to_vip = false;
        self
    }
}

/// Both addresses of these hosts at `port`.
pub fn backends<'a>(hosts: impl IntoIterator<Item = &'a Host>, port: u16) -> Vec<SocketAddr> {
    let both = |host: &Host| [(host.v4(), port).into(), (host.v6(), port).into()];
    hosts.into_iter().flat_map(both).collect()
}

impl fmt::Display for Config {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "localPeer: {}", self.local)?;
        if !self.remotes.is_empty() {
            writeln!(out, "remotePeers:")?;
        }
        for peer in &self.remotes {
            writeln!(out, "- {peer}")?;
        }
        let vips = self.vips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
        writeln!(out, "vip: \"{vips}\"\ninterface: {}", self.interface)?;
        writeln!(out, "xdpMode: {}", self.xdp_mode)?;
        // A host of the lab is below the root, like a container that is a host itself.
        writeln!(out, "localClients: {}\ncgroupRoot: /sys/fs/cgroup", self.local_clients)?;
        writeln!(out, "gratuitousARP: {}", self.gratuitous_arp)?;
        writeln!(out, "startAsLeader: {}", self.start_as_leader)?;
        // Most suites are about packets, and want to know who owns.
        if !self.extra.contains("election:") {
            writeln!(out, "election: file")?;
        }
        if !self.balancers.is_empty() {
            writeln!(out, "loadBalancers:")?;
        }
        for balancer in &self.balancers {
            let kind = match balancer.transport {
                Transport::Tcp => "tcp",
                Transport::Udp => "udp",
            };
            writeln!(out, "- name: {}\n  type: {kind}\n  port: {}", balancer.name, balancer.port)?;
            for setting in &balancer.settings {
                writeln!(out, "  {setting}")?;
            }
            writeln!(out, "  bindToVip: {}\n  backends:", balancer.bind_to_vip)?;
            for backend in &balancer.backends {
                let (address, port) = (backend.ip(), backend.port());
                let drain = if balancer.draining.contains(backend) { ", drain: true" } else { "" };
                writeln!(out, "  - {{address: \"{address}\", port: {port}{drain}}}")?;
            }
        }
        out.write_str(&self.extra)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses = self.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
        write!(out, "{{id: {}, address: \"{addresses}\", port: 10000}}", self.id)
    }
}

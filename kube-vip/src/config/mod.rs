//! The configuration file: what it says, checked as a whole before anything is done.

mod balancers;
mod change;
mod error;
mod file;
mod forwarding;
mod given;
mod health;
mod host;
mod host_ports;
mod http;
mod limits;
mod nearest;
mod origin;
mod peers;
mod reader;
mod render;
mod retired;
mod sample;
mod uplinks;
mod yaml;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

pub use change::check_change;
pub use error::{ConfigError, Problem};
pub use forwarding::{Forwarding, MssClamp, NatSource};
pub use given::{Given, Key};
pub use host::check_host;
pub use host_ports::check_host_ports;
pub use http::{HttpBackend, HttpBalancer};
pub use kube_vip_common::frontend::{Affinity, Protocol};
pub use kube_vip_common::nat::PortRange;
pub use kube_vip_common::table::TableSize;
pub use origin::Origin;
pub use quorum::{Election, Quorum, SecretSource};
pub use sample::{MANIFEST, SAMPLE};

/// A configuration file larger than this is refused before it is read.
pub(crate) const MAX_FILE_BYTES: usize = 16 << 20;

/// A configuration that has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Tells several agents on one host apart: pins, locks and sockets carry it.
    pub instance: String,
    /// The first uplink: VIPs are held and announced there.
    pub interface: String,
    /// Further interfaces where packets arrive, and through which peers are reached.
    pub uplinks: Vec<String>,
    /// Where replies leave besides.
    pub reply_devices: ReplyDevices,
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
    /// A UDP flow ends when nothing has come for this long.
    pub udp_idle: Duration,
    /// The kernel programs let everything pass once no agent has been there for this long.
    pub abandoned_after: Duration,
    /// Whether clients are told to send smaller TCP segments than backends take.
    pub mss_clamp: MssClamp,
    /// How long a backend that takes no new flows keeps those it has; as long as they live if unset.
    pub drain_timeout: Option<Duration>,
    /// There are no other hosts; ownership never ends.
    pub single_node: bool,
    /// This host owns the VIPs where the files say who does; where the hosts agree it may begin.
    pub start_as_leader: bool,
    /// Who says who owns the VIPs.
    pub election: Election,
    /// Ids of the hosts that a VIP goes to first, in that order, where the hosts agree.
    pub preferences: BTreeMap<IpAddr, Vec<String>>,
    /// What is balanced.
    pub load_balancers: Vec<LoadBalancer>,
    /// What is proxied by the agent.
    pub http_balancers: Vec<HttpBalancer>,
    /// How arriving packets are to be handled.
    pub xdp_mode: XdpMode,
    /// Ports of the hosts' own addresses for connections that are translated to come from there.
    pub nat_ports: Option<PortRange>,
    /// Whose sockets on this host are led to backends.
    pub local_clients: LocalClients,
    /// The cgroup2 directory whose processes those are, where it is not to be looked for.
    pub cgroup_root: Option<PathBuf>,
    /// Let the kernel programs write log lines on their rare paths.
    pub log_data_plane: bool,
    /// At SIGTERM the data plane stays for the next agent.
    pub keep_on_exit: bool,
    /// Sizes of the maps.
    pub limits: Limits,
    /// One line for each setting that was understood and has no effect yet, for the log.
    pub notices: Vec<String>,
}

impl Config {
    /// Reads and checks the text of a file. `source` names the file in messages; `host` is this
    /// host's name, for a single node that names no peers.
    ///
    /// # Errors
    /// Everything that is wrong with the text, in one error.
    pub fn parse(text: &str, source: &str, host: &str) -> Result<Self, ConfigError> {
        file::read(text, source, host, &Given::default())
    }

    /// As [`Config::parse`], for content that may be anything.
    ///
    /// # Errors
    /// As [`Config::parse`], and where the bytes are not UTF-8 or too many.
    pub fn parse_bytes(bytes: &[u8], source: &str, host: &str) -> Result<Self, ConfigError> {
        Self::parse_given(bytes, source, host, &Given::default())
    }

    /// As [`Config::parse_bytes`], with what counts besides the file.
    ///
    /// # Errors
    /// As [`Config::parse_bytes`].
    pub fn parse_given(
        bytes: &[u8],
        source: &str,
        host: &str,
        given: &Given,
    ) -> Result<Self, ConfigError> {
        if bytes.len() > MAX_FILE_BYTES {
            let message = format!("the file is larger than {} MiB", MAX_FILE_BYTES >> 20);
            return Err(ConfigError::whole(source, None, message));
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => file::read(text, source, host, given),
            Err(error) => {
                let before = &bytes[..error.valid_up_to()];
                let line = 1 + before.iter().filter(|byte| **byte == b'\n').count() as u64;
                let message = format!(
                    "byte {:#04x} is not UTF-8 text; save the file as UTF-8",
                    bytes[error.valid_up_to()]
                );
                Err(ConfigError::whole(source, Some(line), message))
            }
        }
    }

    /// The uplinks, the first one first.
    pub fn interfaces(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.interface).chain(&self.uplinks)
    }

    /// This host and the others.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        std::iter::once(&self.local_peer).chain(&self.remote_peers)
    }
}

/// The file's content, or the first bytes of one that is too large.
pub(crate) fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(crate) fn unreadable(source: &str, error: &std::io::Error) -> ConfigError {
    let way_out = match error.kind() {
        std::io::ErrorKind::NotFound => "; `kube-vip sample config` prints one to begin with",
        _ => "",
    };
    ConfigError::whole(source, None, format!("cannot be read: {error}{way_out}"))
}

/// This host's name, as the kernel has it.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".into() } else { name.to_owned() }
}

/// How arriving packets are to be handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver where that works, else in the network stack.
    #[default]
    Auto,
    /// In the driver or not at all.
    Native,
    /// In the network stack.
    Generic,
    /// By the kernel alone.
    None,
}

/// Devices through which replies leave instead of an uplink, an overlay's for example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyDevices {
    /// Those of the usual kinds.
    pub by_kind: bool,
    /// Those with these names; `*` stands for any characters.
    pub names: Vec<String>,
}

impl Default for ReplyDevices {
    fn default() -> Self {
        Self { by_kind: true, names: Vec::new() }
    }
}

/// Whose sockets on a host are led to backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LocalClients {
    /// Those of processes in the agent's own network namespace.
    #[default]
    Host,
    /// Those of all network namespaces.
    All,
    /// Nobody's: packets go through the owner.
    None,
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
    /// Addresses of its Pods, or whatever else sends from behind it: one range of each family at most.
    pub pods: Vec<IpNet>,
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
    /// Which ways to the backends are taken.
    pub forwarding: Forwarding,
    /// Where translated connections come from.
    pub nat_source: NatSource,
    /// How they are looked at; nothing where they are not.
    pub health_check: Option<HealthCheck>,
    /// What is done while all of them fail their checks.
    pub all_down: AllDown,
    /// How clients are told that there is no backend.
    pub no_backend: NoBackend,
    /// So many new connections a client may open in a second; nothing: as many as it likes.
    pub rate_limit: Option<u32>,
    /// Who serves it.
    pub backends: Vec<Backend>,
}

/// What is done while all backends of a load balancer fail their checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AllDown {
    /// All are kept: the checks may be wrong, and refusing everybody helps nobody.
    #[default]
    Keep,
    /// Clients are treated as if there were no backend.
    Refuse,
}

/// How clients are told that a load balancer has no backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoBackend {
    /// By RST or port unreachable, so that they fail at once.
    #[default]
    Refuse,
    /// Not at all.
    Drop,
}

/// How backends are looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// Where, if not at the backend's own port.
    pub port: Option<u16>,
    /// From one probe to the next.
    pub period: Duration,
    /// What takes longer has failed.
    pub timeout: Duration,
    /// After so many failures in a row a backend is down.
    pub fall: u32,
    /// After so many successes in a row it is up again.
    pub rise: u32,
}

/// What is asked of a backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Probe {
    /// To take a connection.
    Tcp,
    /// To answer a GET.
    Http(HttpProbe),
}

/// A GET and the answer that is good.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpProbe {
    /// Path and query.
    pub path: String,
    /// The Host header, and the name a certificate must be for; else the address.
    pub host: Option<String>,
    /// First and last status that is good.
    pub status: (u16, u16),
    /// HTTPS, and who is believed.
    pub tls: Option<Trust>,
}

/// Which server certificates are believed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trust {
    /// All: that somebody speaks TLS is enough.
    Anybody,
    /// Those that lead to a certificate in this PEM file.
    CaFile(PathBuf),
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
    /// Those among them whose client has not yet proved that it exists; they have room of their own.
    pub half_open: u32,
    /// Connections translated on this host, per address family.
    pub nat: u32,
}

#[cfg(test)]
mod given_tests;
#[cfg(test)]
mod properties;
mod quorum;
#[cfg(test)]
mod tests;

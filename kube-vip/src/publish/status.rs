//! What an agent says of itself, as `kube-vip status -o json` prints it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::proxies::ProxyStatus;

/// Everything about one instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Name of the instance.
    pub instance: String,
    /// Version of the agent.
    pub version: String,
    /// This host's id among the peers.
    pub host: String,
    /// The agent's process.
    pub pid: u32,
    /// What should be true on this host is.
    pub ready: bool,
    /// The configuration in force.
    pub config: ConfigStatus,
    /// Interfaces packets arrive on.
    pub uplinks: Vec<UplinkStatus>,
    /// Interfaces through which replies leave besides.
    pub reply_devices: Vec<ReplyDeviceStatus>,
    /// How processes of this host reach the virtual addresses.
    pub clients: ClientsStatus,
    /// The other hosts that take part, by each address that is asked.
    #[serde(default)]
    pub peers: Vec<PeerStatus>,
    /// What the hosts have agreed on, where they elect among themselves.
    #[serde(default)]
    pub quorum: Option<QuorumStatus>,
    /// What the hosts tell each other of connections, where ownership moves between them.
    #[serde(default)]
    pub replication: Option<ReplicationStatus>,
    /// The virtual addresses.
    pub vips: Vec<VipStatus>,
    /// The balanced ports.
    pub frontends: Vec<FrontendStatus>,
    /// The HTTP ports that are proxied.
    #[serde(default)]
    pub proxies: Vec<ProxyStatus>,
    /// Packets by what became of them.
    pub counters: BTreeMap<String, u64>,
    /// Settings that were understood and have no effect, and fallbacks that were taken.
    pub notices: Vec<String>,
}

/// The configuration in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// The file.
    pub path: String,
    /// Why the file's newest content was refused, while an older one stays in force.
    pub refused: Option<String>,
}

/// An interface packets arrive on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkStatus {
    /// Interface name.
    pub name: String,
    /// How arriving packets are handled.
    pub xdp: XdpMode,
    /// How leaving packets are handled.
    pub egress: EgressMode,
    /// Why it is not the best of the modes.
    pub reason: Option<String>,
}

/// An interface through which replies leave, but nothing arrives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyDeviceStatus {
    /// Interface name.
    pub name: String,
    /// How leaving packets are handled.
    pub egress: EgressMode,
    /// Why it is not the best of the modes.
    pub reason: Option<String>,
}

/// How arriving packets are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the network stack, slower.
    Generic,
    /// By the kernel alone.
    None,
}

/// How leaving packets are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EgressMode {
    /// By a program at TCX.
    Tcx,
    /// By a program at a clsact qdisc.
    Clsact,
    /// By the kernel alone.
    None,
}

/// Another host that takes part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its id.
    pub id: String,
    /// The address of it that is asked.
    pub address: IpAddr,
    /// How packets of that address's family get there from here.
    pub way: PeerWay,
    /// Largest IP packet that fits on that way, in bytes, headers of a tunnel included.
    pub mtu: Option<u32>,
    /// Why nothing is forwarded to it now.
    pub reason: Option<String>,
    /// Version of its kernel programs, where it has answered.
    pub version: Option<String>,
    /// Time since it answered last.
    pub answered_ms: Option<u64>,
}

/// How packets get to another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerWay {
    /// On a link that both are on.
    Link,
    /// Behind a router, in a tunnel.
    Tunnel,
    /// Not at all.
    None,
}

/// How processes of this host reach the virtual addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientsStatus {
    /// Whose sockets are meant, as configured: `host`, `all` or `none`.
    pub processes: String,
    /// How they get to a backend.
    pub way: ClientsWay,
    /// The cgroup whose processes are led.
    pub cgroup: Option<String>,
    /// Why they are not led, or what is not as configured.
    pub reason: Option<String>,
}

/// How sockets of this host get to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientsWay {
    /// Led by programs on this host, when they connect or send.
    Led,
    /// Like any client of the network, through the owner.
    Owner,
}

/// What the hosts have agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumStatus {
    /// The part this host takes.
    pub role: QuorumRole,
    /// Id of the host that leads, as far as this one knows.
    pub leader: Option<String>,
    /// The hosts that take part.
    pub hosts: Vec<QuorumHostStatus>,
    /// A change of the voters is under way.
    pub changing: bool,
    /// VIPs that only this host's file names, or only the leader's.
    pub differing: Vec<IpAddr>,
    /// Hosts that only this host's file names, or that take part without being named there.
    pub strangers: Vec<String>,
    /// What keeps this host from taking part.
    pub trouble: Option<String>,
}

/// A host that takes part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumHostStatus {
    /// Its id.
    pub id: String,
    /// Where the others reach it.
    pub addresses: Vec<SocketAddr>,
    /// The part it takes.
    pub role: QuorumRole,
    /// Its share of the virtual addresses, relative to the others'.
    pub weight: u32,
    /// It is to hold none: `kube-vip drain`.
    pub drained: bool,
    /// The virtual addresses that are assigned to it.
    pub assigned: Vec<IpAddr>,
}

/// What part a host takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuorumRole {
    /// It belongs to no cluster yet.
    Outside,
    /// It follows without a vote.
    Learner,
    /// It votes.
    Voter,
    /// It leads.
    Leader,
}

/// What the hosts tell each other of connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationStatus {
    /// Whom this host tells.
    pub hosts: Vec<ReplicationHostStatus>,
    /// Translated connections that it was told of, each time it was told of one.
    pub translations: u64,
    /// Connections that are elsewhere though their slot leads here, each time it was told of one.
    pub strays: u64,
    /// What it was told and cannot use.
    pub refused: u64,
}

/// Another host, as it is told of connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationHostStatus {
    /// Its id.
    pub id: String,
    /// It answers.
    pub reached: bool,
    /// Translated connections that it was told of, each time it was told of one.
    pub translations: u64,
    /// Strays, likewise.
    pub strays: u64,
    /// Changes that it has yet to be told.
    pub behind: u64,
    /// All translated connections are being gone through for it.
    pub sweeping: bool,
    /// How long the last change took to be known there, or how old the oldest is that is not.
    pub lag_ms: u64,
}

/// A virtual address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipStatus {
    /// The address.
    pub address: IpAddr,
    /// This host owns it.
    pub owned: bool,
    /// Id of the host that owns it, where that is known.
    pub owner: Option<String>,
    /// It is a local address of this host.
    pub held: bool,
    /// The interface it belongs to.
    pub interface: String,
    /// By which right this host owns it.
    pub lease: Option<LeaseStatus>,
    /// Others that have said in the last ten minutes that it is at their place.
    #[serde(default)]
    pub conflicts: Vec<ConflictStatus>,
}

/// Somebody else's claim to a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictStatus {
    /// The Ethernet address it is said to be at.
    pub mac: String,
    /// Id of the host that has that address, where it takes part.
    pub peer: Option<String>,
    /// The interface it was heard on.
    pub interface: String,
    /// How it was said: `ARP` or `neighbour discovery`.
    pub by: String,
    /// Time since it was heard first.
    pub since_seconds: u64,
    /// Time since it was heard last.
    pub heard_seconds: u64,
}

/// By which right this host owns a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseStatus {
    /// Number of the grant.
    pub epoch: u64,
    /// Time until the programs fall silent by themselves; none if they never do.
    pub remaining_ms: Option<u64>,
}

/// A balanced port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrontendStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Address clients connect to.
    pub address: IpAddr,
    /// Port clients connect to.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Packets that arrived for it on this host.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Who serves it.
    pub backends: Vec<BackendStatus>,
}

/// A server behind a balanced port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Where it listens.
    pub address: IpAddr,
    /// Where it listens.
    pub port: u16,
    /// Id of the host it runs on, where that takes part.
    pub node: Option<String>,
    /// How packets get there from here.
    pub way: BackendWay,
    /// Whether it gets new connections.
    pub state: BackendState,
    /// Why it does not.
    pub reason: Option<String>,
    /// What this host's own checks say; none where there are none.
    pub health: Option<HealthStatus>,
    /// Its share relative to the others', as configured.
    pub weight: u16,
    /// Its share of new connections by weight, 0 to 1.
    pub share: f64,
    /// Packets sent to it by this host.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets it answered through this host.
    pub reply_packets: u64,
    /// Their bytes.
    pub reply_bytes: u64,
}

/// What this host's own checks say of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthStatus {
    /// It serves.
    pub up: bool,
    /// For so long it does, or does not.
    pub for_seconds: u64,
    /// Why the last check failed, if it did.
    pub error: Option<String>,
}

/// How packets get to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendWay {
    /// It runs on this host.
    Here,
    /// To the peer it runs on.
    Peer,
    /// The same, in a tunnel because `forwardingMethod` asks for one.
    Tunnel,
    /// By address translation.
    Nat,
    /// Not at all.
    None,
}

/// Whether a backend gets new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackendState {
    /// It does.
    #[serde(rename = "ready")]
    Ready,
    /// It does not.
    #[serde(rename = "not ready")]
    NotReady,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::publish) const EXAMPLE: &str = r#"{
        "instance": "default", "version": "0.1.0", "host": "n1", "pid": 1, "ready": true,
        "config": {"path": "/etc/kube-vip/config.yaml", "refused": null},
        "uplinks": [{"name": "eth0", "xdp": "native", "egress": "tcx", "reason": null}],
        "reply_devices": [],
        "clients": {"processes": "host", "way": "led", "cgroup": "/sys/fs/cgroup", "reason": null},
        "peers": [
            {"id": "n2", "address": "10.77.0.12", "way": "link", "mtu": 1500, "reason": null,
             "version": "0.1.0", "answered_ms": 400},
            {"id": "n3", "address": "10.78.0.13", "way": "tunnel", "mtu": 1400,
             "reason": "the agent of n3 has been stopped", "version": null, "answered_ms": null}],
        "quorum": {"role": "voter", "leader": "n2", "hosts": [
            {"id": "n1", "addresses": ["10.77.0.11:10000"], "role": "voter", "weight": 1,
             "drained": false, "assigned": ["10.77.0.100"]},
            {"id": "n2", "addresses": ["10.77.0.12:10000"], "role": "leader", "weight": 1,
             "drained": true, "assigned": []},
            {"id": "n3", "addresses": ["10.78.0.13:10000"], "role": "learner", "weight": 2,
             "drained": false, "assigned": ["fd77::100"]}],
            "changing": false, "differing": ["10.77.0.101"], "strangers": ["n4"], "trouble": null},
        "replication": {"hosts": [
            {"id": "n2", "reached": true, "translations": 120, "strays": 7, "behind": 3,
             "sweeping": false, "lag_ms": 12},
            {"id": "n3", "reached": false, "translations": 0, "strays": 0, "behind": 0,
             "sweeping": true, "lag_ms": 0}],
            "translations": 40, "strays": 2, "refused": 1},
        "vips": [
            {"address": "10.77.0.100", "owned": true, "owner": "n1", "held": true,
             "interface": "eth0", "lease": {"epoch": 1, "remaining_ms": 2500},
             "conflicts": [{"mac": "02:00:00:00:00:09", "peer": null, "interface": "eth0",
                "by": "ARP", "since_seconds": 60, "heard_seconds": 3}]},
            {"address": "fd77::100", "owned": false, "owner": null, "held": false,
             "interface": "eth0", "lease": null, "conflicts": []}],
        "frontends": [{"name": "web", "address": "10.77.0.100", "port": 80, "protocol": "tcp",
            "packets": 1204, "bytes": 90000, "backends": [
            {"address": "10.77.0.11", "port": 8080, "node": "n1", "way": "here", "state": "ready",
             "reason": null, "health": {"up": true, "for_seconds": 3700, "error": null},
             "weight": 1, "share": 0.5, "packets": 602, "bytes": 45000,
             "reply_packets": 600, "reply_bytes": 1000000},
            {"address": "10.77.0.12", "port": 8080, "node": "n2", "way": "none",
             "state": "not ready", "reason": "nobody answers for it",
             "health": {"up": false, "for_seconds": 9, "error": "connect: no route to host"},
             "weight": 1, "share": 0.0,
             "packets": 0, "bytes": 0, "reply_packets": 0, "reply_bytes": 0}]}],
        "proxies": [{"name": "app", "address": "10.77.0.100", "port": 8000, "listening": true,
            "connections": 3, "requests": 1000, "failed": 1, "backends": [
            {"url": "http://10.77.0.11:8080/app", "address": "10.77.0.11:8080", "state": "ready",
             "reason": null, "health": {"up": true, "for_seconds": 70, "error": null},
             "weight": 1, "share": 1.0}]}],
        "counters": {"arp_answered": 1, "dropped": 0},
        "notices": ["vipCidr: comes with BGP"]}"#;

    pub(in crate::publish) fn example() -> Status {
        serde_json::from_str(EXAMPLE).expect("the documented form")
    }

    #[test]
    fn the_documented_form_is_the_form() {
        let documented: serde_json::Value = serde_json::from_str(EXAMPLE).unwrap();
        assert_eq!(serde_json::to_value(example()).unwrap(), documented);
    }

    #[test]
    fn yaml_says_the_same() {
        let yaml = serde_saphyr::to_string(&example()).unwrap();
        assert_eq!(serde_saphyr::from_str::<Status>(&yaml).unwrap(), example());
    }
}

//! Keys of the old program that are understood and have no effect here, now or ever.

use super::reader::Section;
use super::yaml::{Node, Value};

const LATER_LEASE: &str =
    "election by a Kubernetes Lease comes later; hosts agree among themselves";
const LATER_BGP: &str = "BGP comes later; the VIP is announced by ARP and neighbour discovery";
const NEVER_PACKET: &str = "Equinix Metal is gone and its API with it; the key can be removed";

/// Key and the line that says why it has no effect.
const KEYS: [(&str, &str); 13] = [
    ("addPeersAsBackends", "peers are not backends by themselves; write them under `backends`"),
    ("vipCidr", "comes with BGP; the VIP is held as /32 or /128"),
    ("enableLeaderElection", LATER_LEASE),
    ("leaseDuration", LATER_LEASE),
    ("renewDeadline", LATER_LEASE),
    ("retryPeriod", LATER_LEASE),
    ("enableLoadBalancer", "not needed; what stands under `loadBalancers` is balanced"),
    ("enableBGP", LATER_BGP),
    ("bgpConfig", LATER_BGP),
    ("bgpPeerConfig", LATER_BGP),
    ("enablePacket", NEVER_PACKET),
    ("packetAPIKey", NEVER_PACKET),
    ("packetProject", NEVER_PACKET),
];

/// The names of the keys.
pub(super) fn keys() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|(key, _)| *key)
}

/// One line for each that is set to something. Values are not shown: some are secrets.
pub(super) fn notices(section: &Section<'_>) {
    for (key, why) in &KEYS {
        if section.get(key).is_some_and(|node| !is_zero(node)) {
            section.findings.notice(&section.path_of(key), why);
        }
    }
}

/// The old program's `sample config` writes every key with Go's zero value.
fn is_zero(node: &Node) -> bool {
    match &node.value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Int(value) => *value == 0,
        Value::Float(value) => *value == 0.0,
        Value::Text(text) => text.is_empty(),
        Value::List(list) => list.iter().all(is_zero),
        Value::Map(map) => map.iter().all(|entry| is_zero(&entry.value)),
    }
}

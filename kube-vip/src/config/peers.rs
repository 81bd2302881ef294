//! `localPeer` and `remotePeers`: the hosts that take part.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Peer;
use super::reader::{Located, Section, address, quote};

const KEYS: [&str; 4] = ["id", "address", "port", "podCIDR"];
const DEFAULT_PORT: u16 = 10000;

/// This host and the others.
pub(super) struct Peers {
    pub(super) local: Peer,
    pub(super) remote: Vec<Peer>,
}

/// Reads the peers; `host` is this host's name, for a single node that names no peers.
pub(super) fn read(
    section: &Section<'_>,
    vips: &[IpAddr],
    single_node: bool,
    host: &str,
) -> Option<Peers> {
    let reader = Reader { vips, single_node };
    let local = match section.get("localPeer") {
        Some(node) => Section::new(node, section.path_of("localPeer"), &KEYS, section.findings)
            .and_then(|local| reader.peer(&local)),
        None if single_node => {
            let (id, addresses, pods) = (host.to_owned(), Vec::new(), Vec::new());
            Some(Peer { id, addresses, port: DEFAULT_PORT, pods })
        }
        None => {
            let message = "missing; write this host's id and address \
                           (or `singleNode: true` if there are no other hosts)";
            section.missing("localPeer", message);
            None
        }
    };
    let others = section.list("remotePeers");
    if single_node && !others.is_empty() {
        let message = format!(
            "{} other hosts, but `singleNode: true` says there are none; \
             remove one of the two keys",
            others.len()
        );
        section.problem("remotePeers", message);
    }
    let mut seen = Seen::default();
    if let Some(local) = &local {
        seen.note(local, "localPeer");
    }
    let mut remote = Vec::new();
    let mut complete = true;
    for (node, path) in others {
        let Some(entry) = Section::new(node, path, &KEYS, section.findings) else {
            complete = false;
            continue;
        };
        let Some(peer) = reader.peer(&entry) else {
            complete = false;
            continue;
        };
        // One list for all hosts is usual; the old program skips its own entry too.
        let same = |local: &Peer| {
            (&local.id, &local.addresses, local.port) == (&peer.id, &peer.addresses, peer.port)
        };
        if local.as_ref().is_some_and(same) {
            continue;
        }
        complete &= seen.check(&peer, &entry);
        seen.note(&peer, &entry.path);
        remote.push(peer);
    }
    local.filter(|_| complete).map(|local| Peers { local, remote })
}

struct Reader<'a> {
    vips: &'a [IpAddr],
    single_node: bool,
}

impl Reader<'_> {
    fn peer(&self, entry: &Section<'_>) -> Option<Peer> {
        let id = id(entry);
        let addresses = self.addresses(entry);
        let port = if entry.has("port") { entry.port("port") } else { Some(DEFAULT_PORT) };
        let pods = self.pods(entry);
        Some(Peer { id: id?, addresses: addresses?, port: port?, pods: pods? })
    }

    /// `podCIDR`.
    fn pods(&self, entry: &Section<'_>) -> Option<Vec<IpNet>> {
        let words = entry.words("podCIDR");
        let mut pods: Vec<IpNet> = Vec::new();
        for Located { value, line, path } in &words {
            let shown = quote(value);
            let refusal = match value.parse::<IpNet>() {
                Err(_) => "is not a range of addresses; write one like 10.244.1.0/24".to_owned(),
                Ok(net) if net != net.trunc() => format!("begins at {0}; write {0}", net.trunc()),
                Ok(net) if net.prefix_len() == 0 => "is every address there is".to_owned(),
                Ok(net) if self.vips.iter().any(|vip| net.contains(vip)) => {
                    "contains a VIP, which is no Pod's".to_owned()
                }
                Ok(net) if pods.iter().any(|p| p.addr().is_ipv4() == net.addr().is_ipv4()) => {
                    "is the second range of its family; a host has one of each".to_owned()
                }
                Ok(net) => {
                    pods.push(net);
                    continue;
                }
            };
            entry.findings.problem(*line, path, format!("{shown} {refusal}"));
        }
        (pods.len() == words.len()).then_some(pods)
    }

    fn addresses(&self, entry: &Section<'_>) -> Option<Vec<IpAddr>> {
        if entry.is_blank("address") {
            entry.missing("address", "missing; write the host's own IP address");
            return None;
        }
        let words = entry.words("address");
        let found: Vec<Located<IpAddr>> =
            words.iter().filter_map(|word| address(word, entry.findings)).collect();
        let mut addresses = Vec::new();
        for address in &found {
            let ip = address.value;
            let refusal = if self.vips.contains(&ip) {
                Some("is a VIP; write the host's own address, the VIP moves between hosts")
            } else if ip.is_loopback() && !self.single_node {
                Some("is a loopback address; write the one other hosts reach this host at")
            } else if matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
                Some("is a link-local address; write a global or unique local one (fd00::/8)")
            } else if addresses.contains(&ip) {
                Some("is there twice; write it once")
            } else {
                None
            };
            match refusal {
                Some(why) => {
                    entry.findings.problem(address.line, &address.path, format!("{ip} {why}"));
                }
                None => addresses.push(ip),
            }
        }
        (!addresses.is_empty() && addresses.len() == words.len()).then_some(addresses)
    }
}

fn id(entry: &Section<'_>) -> Option<String> {
    let id = entry.required_text("id", "write a name, different for each host")?;
    let bad = |c: char| c.is_whitespace() || c.is_control();
    if id.value.len() > 64 || id.value.contains(bad) {
        let shown = quote(&id.value);
        entry.problem("id", format!("{shown} is not an id; take up to 64 bytes without spaces"));
        return None;
    }
    Some(id.value)
}

/// What earlier peers have taken.
#[derive(Default)]
struct Seen {
    ids: BTreeMap<String, String>,
    addresses: BTreeMap<IpAddr, String>,
}

impl Seen {
    fn note(&mut self, peer: &Peer, path: &str) {
        self.ids.entry(peer.id.clone()).or_insert_with(|| path.to_owned());
        for address in &peer.addresses {
            self.addresses.entry(*address).or_insert_with(|| path.to_owned());
        }
    }

    fn check(&self, peer: &Peer, entry: &Section<'_>) -> bool {
        if let Some(other) = self.ids.get(&peer.id) {
            let shown = quote(&peer.id);
            entry
                .problem("id", format!("{shown} is the id of {other} too; give each host its own"));
            return false;
        }
        for address in &peer.addresses {
            if let Some(other) = self.addresses.get(address) {
                let message =
                    format!("{address} is an address of {other} too; each host has its own");
                entry.problem("address", message);
                return false;
            }
        }
        true
    }
}

//! `loadBalancers`: the ports that are balanced and who serves them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kube_vip_common::table::MAX_MEMBERS;

use super::file::table_size;
use super::forwarding;
use super::reader::{Section, address, quote};
use super::{
    Affinity, AllDown, Backend, HttpBalancer, LoadBalancer, NoBackend, Protocol, TableSize, health,
    http,
};

const KEYS: [&str; 16] = [
    "name",
    "type",
    "port",
    "bindToVip",
    "backendPort",
    "backends",
    "tableSize",
    "sessionAffinity",
    "healthCheck",
    "allDown",
    "noBackend",
    "rateLimit",
    "forwardingMethod",
    "natSource",
    "caFile",
    "insecureSkipVerify",
];
pub(super) const BACKEND_KEYS: [&str; 5] = ["address", "port", "url", "weight", "drain"];

/// A table's slot is an index of 15 bits.
const MOST_BACKENDS: usize = MAX_MEMBERS;
pub(super) const MOST_WEIGHT: u32 = 256;
/// A microsecond apart.
const MOST_RATE: u32 = 1_000_000;

/// What the top of the file says about all of them.
pub(super) struct Defaults<'a> {
    pub(super) vips: &'a [IpAddr],
    pub(super) table_size: TableSize,
    /// There are ports for translated connections from the hosts' own addresses.
    pub(super) nat_ports: bool,
}

/// Those of all types.
pub(super) struct Balancers {
    /// What the kernel balances.
    pub(super) balanced: Vec<LoadBalancer>,
    /// What the agent proxies.
    pub(super) proxied: Vec<HttpBalancer>,
}

impl Balancers {
    /// The name of one that is on the VIPs.
    pub(super) fn on_vip(&self) -> Option<&str> {
        let balanced = self.balanced.iter().map(|lb| (lb.bind_to_vip, lb.name.as_str()));
        let proxied = self.proxied.iter().map(|lb| (lb.bind_to_vip, lb.name.as_str()));
        balanced.chain(proxied).find(|(on_vip, _)| *on_vip).map(|(_, name)| name)
    }
}

/// Reads all load balancers.
pub(super) fn read(section: &Section<'_>, defaults: &Defaults<'_>) -> Balancers {
    let mut seen = Seen::default();
    let mut found = Balancers { balanced: Vec::new(), proxied: Vec::new() };
    for (node, path) in section.list("loadBalancers") {
        let Some(entry) = Section::new(node, path, &KEYS, section.findings) else { continue };
        let protocol = match kind(&entry) {
            Kind::Http => {
                if let Some(lb) = http::read(&entry, defaults) {
                    seen.check(&entry, &lb.name, (lb.bind_to_vip, Protocol::Tcp, lb.port));
                    found.proxied.push(lb);
                }
                continue;
            }
            Kind::Balanced(protocol) => Some(protocol),
            Kind::Wrong => None,
        };
        if let Some(lb) = load_balancer(&entry, protocol, defaults) {
            seen.check(&entry, &lb.name, (lb.bind_to_vip, lb.protocol, lb.port));
            found.balanced.push(lb);
        }
    }
    found
}

/// What earlier ones have taken.
#[derive(Default)]
struct Seen {
    names: BTreeMap<String, String>,
    frontends: BTreeMap<(bool, Protocol, u16), String>,
}

impl Seen {
    fn check(&mut self, entry: &Section<'_>, name: &str, frontend: (bool, Protocol, u16)) {
        if let Some(other) = self.names.insert(name.to_owned(), entry.path.clone()) {
            let shown = quote(name);
            entry.problem("name", format!("{shown} is the name of {other} too; give each its own"));
        }
        if let Some(other) = self.frontends.insert(frontend, entry.path.clone()) {
            let (on_vip, protocol, port) = frontend;
            let place = if on_vip { "the VIP" } else { "the hosts" };
            let message = format!(
                "{} port {port} of {place} is taken by {other}; take another port, or put the \
                 backends of both into one load balancer",
                protocol.name()
            );
            entry.problem("port", message);
        }
    }
}

fn load_balancer(
    entry: &Section<'_>,
    protocol: Option<Protocol>,
    defaults: &Defaults<'_>,
) -> Option<LoadBalancer> {
    for key in ["caFile", "insecureSkipVerify"].into_iter().filter(|key| entry.has(key)) {
        entry.problem(key, "belongs to type http, and under healthCheck; take it out");
    }
    let port = entry.port("port");
    if !entry.has("port") {
        entry.missing("port", "missing; write the port clients connect to");
    }
    let bind_to_vip = entry.boolean("bindToVip").unwrap_or(false);
    let table_size = table_size(entry).unwrap_or(defaults.table_size);
    let affinity = affinity(entry);
    let health_check = health::read(entry, protocol);
    let all_down = all_down(entry);
    let no_backend =
        word(entry, "noBackend", [("refuse", NoBackend::Refuse), ("drop", NoBackend::Drop)]);
    let forwarding = forwarding::method(entry);
    let nat_source = forwarding::source(entry, defaults.nat_ports);
    let backends = backends(entry, port, defaults);
    let name = match (entry.text("name"), protocol, port) {
        (Some(name), ..) => name.value,
        (None, Some(protocol), Some(port)) => format!("{}-{port}", protocol.name()),
        (None, ..) => String::new(),
    };
    let (protocol, port) = (protocol?, port?);
    let lb = LoadBalancer {
        name,
        protocol,
        port,
        bind_to_vip,
        table_size,
        affinity,
        health_check,
        all_down,
        no_backend,
        rate_limit: entry.number("rateLimit", 1, MOST_RATE),
        forwarding,
        nat_source,
        backends,
    };
    fits(entry, &lb);
    keeps_ports(entry, &lb);
    remarks(entry, &lb, defaults);
    Some(lb)
}

enum Kind {
    Balanced(Protocol),
    Http,
    Wrong,
}

fn kind(entry: &Section<'_>) -> Kind {
    let Some(kind) = entry.text("type") else { return Kind::Balanced(Protocol::Tcp) };
    match kind.value.to_ascii_lowercase().as_str() {
        "tcp" => Kind::Balanced(Protocol::Tcp),
        "udp" => Kind::Balanced(Protocol::Udp),
        "sctp" => Kind::Balanced(Protocol::Sctp),
        "http" => Kind::Http,
        _ => {
            let shown = quote(&kind.value);
            entry.problem("type", format!("{shown} is not a type; write tcp, udp, sctp or http"));
            Kind::Wrong
        }
    }
}

pub(super) fn all_down(entry: &Section<'_>) -> AllDown {
    word(entry, "allDown", [("keep", AllDown::Keep), ("refuse", AllDown::Refuse)])
}

/// One of two words; the default where it is neither.
fn word<T: Copy + Default>(entry: &Section<'_>, key: &str, words: [(&str, T); 2]) -> T {
    let Some(text) = entry.text(key) else { return T::default() };
    let found = words.iter().find(|(word, _)| *word == text.value);
    if found.is_none() {
        let [(one, _), (other, _)] = words;
        entry.problem(key, format!("{} is not known; write {one} or {other}", quote(&text.value)));
    }
    found.map_or(T::default(), |(_, value)| *value)
}

fn affinity(entry: &Section<'_>) -> Affinity {
    match entry.text("sessionAffinity") {
        None => Affinity::None,
        Some(text) => match text.value.as_str() {
            "None" => Affinity::None,
            "ClientIP" => Affinity::ClientIp,
            other => {
                let message =
                    format!("{} is not an affinity; write None or ClientIP", quote(other));
                entry.problem("sessionAffinity", message);
                Affinity::None
            }
        },
    }
}

fn backends(entry: &Section<'_>, port: Option<u16>, defaults: &Defaults<'_>) -> Vec<Backend> {
    // The old program writes 0 where nothing is set.
    let unset = entry.number_is_zero("backendPort");
    let fallback = if unset { None } else { entry.port("backendPort") }.or(port);
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    let mut urls = 0;
    for (node, path) in entry.list("backends") {
        let Some(section) = Section::new(node, path, &BACKEND_KEYS, entry.findings) else {
            continue;
        };
        urls += usize::from(section.text("url").is_some());
        let Some(backend) = backend(&section, fallback, defaults) else { continue };
        if seen.insert((backend.address, backend.port)) {
            found.push(backend);
        } else {
            let message = format!(
                "{} port {} is in this list twice; keep one (`weight` gives a larger share)",
                backend.address, backend.port
            );
            section.problem("address", message);
        }
    }
    if urls > 0 {
        entry.findings.notice(
            &entry.path_of("backends"),
            "`url` belongs to type http and has no effect; `address` and `port` count",
        );
    }
    found
}

fn backend(
    section: &Section<'_>,
    fallback: Option<u16>,
    defaults: &Defaults<'_>,
) -> Option<Backend> {
    let ip = backend_address(section, defaults);
    let port = if section.has("port") { section.port("port") } else { fallback };
    let weight = section.number("weight", 0, MOST_WEIGHT).unwrap_or(1);
    let weight = if section.boolean("drain") == Some(true) { 0 } else { weight };
    Some(Backend { address: ip?, port: port?, weight: u16::try_from(weight).ok()? })
}

fn backend_address(section: &Section<'_>, defaults: &Defaults<'_>) -> Option<IpAddr> {
    let text = section.required_text("address", "write the backend's IP address")?;
    let ip = address(&text, section.findings)?.value;
    match refusal(ip, defaults) {
        Some(why) => {
            section.problem("address", format!("{ip} {why}"));
            None
        }
        None => Some(ip),
    }
}

/// Why an address is none of a backend.
pub(super) fn refusal(ip: IpAddr, defaults: &Defaults<'_>) -> Option<&'static str> {
    if ip.is_loopback() {
        Some("is a loopback address, which no packet from outside may go to; write the host's own")
    } else if matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        Some("is a link-local address; write a global or unique local one (fd00::/8)")
    } else if defaults.vips.contains(&ip) {
        Some("is a VIP; write the address of the host that serves")
    } else {
        None
    }
}

/// The checksum of SCTP covers the ports (RFC 9260 §6.8), and it is not one that a program in the
/// kernel could compute anew for a whole packet.
fn keeps_ports(entry: &Section<'_>, lb: &LoadBalancer) {
    if lb.protocol != Protocol::Sctp {
        return;
    }
    for backend in lb.backends.iter().filter(|backend| backend.port != lb.port) {
        let message = format!(
            "{} is served at port {}, but clients connect to {}; SCTP is balanced only where both \
             are the same, because its checksum covers them: let the backend listen on {2}",
            backend.address, backend.port, lb.port
        );
        entry.problem("backends", message);
    }
}

/// Sizes that cannot work.
fn fits(entry: &Section<'_>, lb: &LoadBalancer) {
    let (count, slots) = (lb.backends.len(), lb.table_size.slots());
    if count > MOST_BACKENDS {
        let message = format!("{count} backends; one load balancer has at most {MOST_BACKENDS}");
        entry.problem("backends", message);
    } else if count > slots as usize {
        let message = format!(
            "{count} backends, but the table has {slots} slots: some would never be chosen; \
             set `tableSize` to 100 slots per backend or more"
        );
        entry.problem("backends", message);
    }
}

/// What works and is probably not meant.
fn remarks(entry: &Section<'_>, lb: &LoadBalancer, defaults: &Defaults<'_>) {
    let findings = entry.findings;
    let path = entry.path_of("backends");
    if lb.backends.is_empty() {
        findings.notice(&path, "there are none; clients are refused until there are");
        return;
    }
    if lb.backends.iter().all(|backend| backend.weight == 0) {
        findings.notice(&path, "all have weight 0; clients are refused until one has more");
    }
    if lb.bind_to_vip {
        for vip in defaults.vips {
            if !lb.backends.iter().any(|backend| backend.address.is_ipv4() == vip.is_ipv4()) {
                let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
                let message = format!("none has an {family} address; clients of {vip} are refused");
                findings.notice(&path, &message);
            }
        }
    }
}

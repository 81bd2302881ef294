//! The file's top level: which keys there are and what they mean together.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use kube_vip_common::lease::LEASES;

use super::balancers::{self, Balancers, Defaults};
use super::given::Given;
use super::peers::{self, Peers};
use super::reader::{Findings, Located, Section, address, quote};
use super::retired;
use super::uplinks;
use super::yaml::{self, Value};
use super::{Config, ConfigError, Limits, LoadBalancer, LocalClients, TableSize};
use super::{forwarding, limits, quorum};

/// Keys that have an effect; [`retired::KEYS`] are known too.
const KEYS: [&str; 30] = [
    "vip",
    "interface",
    "uplinks",
    "replyDevices",
    "localPeer",
    "remotePeers",
    "loadBalancers",
    "address",
    "gratuitousARP",
    "singleNode",
    "startAsLeader",
    "instance",
    "tableSize",
    "announceInterval",
    "logDataPlane",
    "xdpMode",
    "natPorts",
    "localClients",
    "cgroupRoot",
    "limits",
    "secret",
    "udpIdle",
    "drainTimeout",
    "abandonedAfter",
    "mssClamp",
    "keepOnExit",
    "election",
    "quorum",
    "secretFile",
    "insecurePeers",
];

/// Reads and checks a whole file, and what is given besides.
pub(super) fn read(
    text: &str,
    source: &str,
    host: &str,
    given: &Given,
) -> Result<Config, ConfigError> {
    let mut root =
        yaml::parse(text).map_err(|error| ConfigError::whole(source, error.line, error.message))?;
    if matches!(root.value, Value::Null) {
        if given.is_empty() {
            let message = "the file is empty; `kube-vip sample config` prints one to begin with";
            return Err(ConfigError::whole(source, None, message));
        }
        root.value = Value::Map(Vec::new());
    }
    given.write_over(&mut root);
    let findings = Findings::default();
    let known: Vec<&str> = KEYS.into_iter().chain(retired::keys()).collect();
    let config = Section::new(&root, String::new(), &known, &findings)
        .and_then(|section| Some((config(&section, host)?, section)));
    let complete = config.map(|(config, section)| {
        retired::notices(&section);
        config
    });
    let single_node = complete.as_ref().is_none_or(|config| config.single_node);
    let (found, mut notices) = findings.into_parts();
    let mut problems = given.problems(single_node);
    problems.extend(found.into_iter().map(|problem| given.name(problem)));
    match complete {
        Some(mut config) if problems.is_empty() => {
            notices.extend(given.notices(&root));
            config.notices = notices;
            Ok(config)
        }
        _ => Err(ConfigError::new(source, problems)),
    }
}

/// Reads everything, so that everything wrong is named; `None` only with a problem on record.
fn config(section: &Section<'_>, host: &str) -> Option<Config> {
    let single_node = section.boolean("singleNode").unwrap_or(false);
    let vips = vips(section);
    let peers = peers::read(section, &vips, single_node, host);
    let table_size = table_size(section).unwrap_or_default();
    let nat_ports = forwarding::ports(section);
    let defaults = Defaults { vips: &vips, table_size, nat_ports: section.has("natPorts") };
    let balancers = balancers::read(section, &defaults);
    enough_to_do(section, &vips, &balancers);
    let Balancers { balanced: load_balancers, proxied: http_balancers } = balancers;

    let flag = |key, default| section.boolean(key).unwrap_or(default);
    let gratuitous_arp = flag("gratuitousARP", true);
    let start_as_leader = flag("startAsLeader", false);
    let log_data_plane = flag("logDataPlane", false);
    let keep_on_exit = flag("keepOnExit", false);
    let xdp_mode = uplinks::xdp_mode(section);
    let reply_devices = uplinks::reply_devices(section);
    let interfaces = uplinks::read(section);
    let local_clients = local_clients(section);
    let cgroup_root = cgroup_root(section);
    let instance = instance(section);
    let announce_interval = announce_interval(section);
    let second = Duration::from_secs(1);
    let udp_idle = section.duration("udpIdle", second..=86_400 * second).unwrap_or(UDP_IDLE);
    let drain_timeout = section.duration("drainTimeout", second..=31_536_000 * second);
    let abandoned_after = section.duration("abandonedAfter", 60 * second..=31_536_000 * second);
    let abandoned_after = abandoned_after.unwrap_or(ABANDONED_AFTER);
    let mss_clamp = forwarding::mss_clamp(section);
    let limits = limits(section, &vips, peers.as_ref(), &load_balancers);
    let quorum::Written { election, preferences } =
        quorum::read(section, single_node, peers.as_ref(), &vips);
    let Peers { local, remote } = peers?;
    let (interface, uplinks) = interfaces?;
    Some(Config {
        instance: instance?,
        interface,
        uplinks,
        reply_devices,
        local_peer: local,
        remote_peers: remote,
        vips,
        gratuitous_arp,
        announce_interval,
        udp_idle,
        abandoned_after,
        drain_timeout,
        mss_clamp,
        single_node,
        start_as_leader,
        election,
        preferences,
        load_balancers,
        http_balancers,
        xdp_mode,
        nat_ports,
        local_clients,
        cgroup_root,
        log_data_plane,
        keep_on_exit,
        limits,
        notices: Vec::new(),
    })
}

/// The VIPs: `vip`, else `address` where that is an IP address.
fn vips(section: &Section<'_>) -> Vec<IpAddr> {
    let words = section.words("vip");
    let from_address = section.text("address");
    let mut found: Vec<Located<IpAddr>> =
        words.iter().filter_map(|word| address(word, section.findings)).collect();
    if let Some(text) = from_address {
        if words.is_empty() {
            if looks_like_a_name(&text.value) {
                let message = format!(
                    "{} is a DNS name, and names come later; write the virtual IP under `vip`",
                    quote(&text.value)
                );
                section.problem("address", message);
            } else {
                found.extend(address(&text, section.findings));
            }
        } else if looks_like_a_name(&text.value) {
            section
                .findings
                .notice("address", "DNS names come later; the addresses under `vip` are used");
        } else if !words.iter().any(|word| word.value == text.value) {
            section.findings.notice("address", "has no effect beside `vip`");
        }
    }
    let mut vips = Vec::new();
    for vip in found {
        if let Some(kind) = unfit_as_vip(vip.value) {
            let message = format!(
                "{} is a {kind} address; a virtual IP is a free address of the hosts' network",
                vip.value
            );
            section.findings.problem(vip.line, &vip.path, message);
        } else if vips.contains(&vip.value) {
            let message = format!("{} is there twice; write it once", vip.value);
            section.findings.problem(vip.line, &vip.path, message);
        } else {
            vips.push(vip.value);
        }
    }
    if vips.len() > LEASES {
        let message = format!("{} addresses; {LEASES} is the most", vips.len());
        section.problem("vip", message);
    }
    vips
}

/// Only then can a text that is no address be meant as a name.
fn looks_like_a_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    text.chars().all(allowed)
        && text
            .rsplit('.')
            .next()
            .is_some_and(|top| top.contains(|c: char| c.is_ascii_alphabetic()))
}

fn unfit_as_vip(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_loopback() => Some("loopback"),
        IpAddr::V4(v4) if v4.is_link_local() => Some("link-local"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("link-local"),
        _ => None,
    }
}

fn enough_to_do(section: &Section<'_>, vips: &[IpAddr], balancers: &Balancers) {
    // A VIP that is written, but wrong, has been named already.
    if !vips.is_empty() || !section.is_blank("vip") || !section.is_blank("address") {
        return;
    }
    match balancers.on_vip() {
        Some(name) => {
            let message = format!(
                "missing, but load balancer {} has `bindToVip: true`; write the virtual IP, \
                 or `bindToVip: false` to balance a port of the hosts' own addresses",
                quote(name)
            );
            section.missing("vip", &message);
        }
        None if section.is_blank("loadBalancers") => {
            section.missing("vip", "missing, and there are no loadBalancers; write the virtual IP");
        }
        None => {}
    }
}

fn instance(section: &Section<'_>) -> Option<String> {
    let Some(name) = section.text("instance") else { return Some("default".into()) };
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.value.len() <= 32 && name.value.chars().all(allowed) {
        return Some(name.value);
    }
    let message = format!(
        "{} is not the name of an instance; take 1 to 32 of a-z, 0-9 and \"-\"",
        quote(&name.value)
    );
    section.problem("instance", message);
    None
}

/// `tableSize`, at the top or of one load balancer.
pub(super) fn table_size(section: &Section<'_>) -> Option<TableSize> {
    let wanted = section.number("tableSize", 1, u32::MAX)?;
    let size = TableSize::from_slots(wanted);
    if size.is_none() {
        let sizes = TableSize::ALL.map(|size| size.slots().to_string()).join(", ");
        section.problem("tableSize", format!("{wanted} is not one of the sizes: {sizes}"));
    }
    size
}

/// Whoever restarts an agent has done so by then.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);
/// Below two minutes a NAT must not forget a UDP flow (RFC 4787 §4.3), and Linux's connection
/// tracking does not either, so clients count on it.
const UDP_IDLE: Duration = Duration::from_secs(120);

fn announce_interval(section: &Section<'_>) -> Duration {
    let most = Duration::from_secs(3600);
    let interval = section.duration("announceInterval", Duration::from_millis(100)..=most);
    interval.unwrap_or(Duration::from_secs(3))
}

fn local_clients(section: &Section<'_>) -> LocalClients {
    let Some(text) = section.text("localClients") else { return LocalClients::default() };
    match text.value.as_str() {
        "host" => LocalClients::Host,
        "all" => LocalClients::All,
        "none" => LocalClients::None,
        other => {
            let message = format!("{} is not known; write host, all or none", quote(other));
            section.problem("localClients", message);
            LocalClients::default()
        }
    }
}

/// Whether there is a cgroup is seen when it is needed: without one the host does without.
fn cgroup_root(section: &Section<'_>) -> Option<PathBuf> {
    let text = section.text("cgroupRoot")?.value;
    if text.starts_with('/') && !text.contains(char::is_control) {
        return Some(PathBuf::from(text));
    }
    let message = format!(
        "{} is not an absolute path; write where the host's cgroup2 hierarchy is mounted,          like /sys/fs/cgroup",
        quote(&text)
    );
    section.problem("cgroupRoot", message);
    None
}

fn limits(
    section: &Section<'_>,
    vips: &[IpAddr],
    peers: Option<&Peers>,
    load_balancers: &[LoadBalancer],
) -> Limits {
    let hosts = peers.into_iter().flat_map(|peers| peers.remote.iter().chain([&peers.local]));
    let known: BTreeSet<IpAddr> = hosts.flat_map(|host| host.addresses.iter().copied()).collect();
    limits::read(section, &limits::Needs::of(vips.len(), known.len(), load_balancers))
}

//! The configuration against the host it is to run on; the host's links are given, not looked at.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::error::{ConfigError, Problem};
use super::{Config, HttpBalancer, Peer, Probe, Trust};
use crate::source::health::check_ca_file;
use crate::view::{Link, Mac};

/// Where kube-proxy's ipvs mode keeps every Service address of the cluster, on every host.
const KUBE_IPVS: &str = "kube-ipvs0";

/// Checks what depends on this host. What an agent that was killed has left behind is no fault.
///
/// # Errors
/// Everything that does not fit, in one error.
pub fn check_host(config: &Config, links: &BTreeMap<String, Link>) -> Result<(), ConfigError> {
    let mut problems = Vec::new();
    let mut refuse = |path: &str, message: String| {
        problems.push(Problem { origin: None, line: None, path: path.to_owned(), message });
    };
    match links.get(&config.interface) {
        None => refuse("interface", missing_interface(&config.interface, links)),
        Some(link) => {
            if let Some(message) = unfit_interface(&config.interface, link, links) {
                refuse("interface", message);
            }
            for vip in &config.vips {
                if let Some(message) = vip_on_interface(*vip, config, link) {
                    refuse("vip", message);
                }
            }
        }
    }
    for name in &config.uplinks {
        let message = match links.get(name) {
            None => Some(missing_interface(name, links)),
            Some(link) => unfit_interface(name, link, links),
        };
        if let Some(message) = message {
            refuse("uplinks", message);
        }
    }
    for vip in &config.vips {
        if let Some(message) = vip_elsewhere(*vip, &config.interface, links) {
            refuse("vip", message);
        }
    }
    for address in &config.local_peer.addresses {
        if !links.values().any(|link| has(link, *address)) {
            refuse("localPeer.address", not_ours(*address, config, links));
        }
    }
    let balanced = config.load_balancers.iter().map(|it| (&it.name, &it.health_check));
    let proxied = config.http_balancers.iter().map(|it| (&it.name, &it.health_check));
    for (name, check) in balanced.chain(proxied) {
        if let Some(Probe::Http(http)) = check.as_ref().map(|check| &check.probe)
            && let Some(Trust::CaFile(file)) = &http.tls
            && let Err(error) = check_ca_file(file)
        {
            refuse("loadBalancers", format!("healthCheck.caFile of {name:?}: {error}"));
        }
    }
    for HttpBalancer { name, trust, .. } in &config.http_balancers {
        if let Some(Trust::CaFile(file)) = trust
            && let Err(error) = check_ca_file(file)
        {
            refuse("loadBalancers", format!("caFile of {name:?}: {error}"));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(ConfigError::new("", problems)) }
}

fn has(link: &Link, address: IpAddr) -> bool {
    link.addresses.iter().any(|net| net.addr() == address)
}

fn missing_interface(name: &str, links: &BTreeMap<String, Link>) -> String {
    let usable = list(usable(links));
    format!("interface {name:?} does not exist; this host has {usable}")
}

fn usable(links: &BTreeMap<String, Link>) -> impl Iterator<Item = String> {
    links.iter().filter(|(_, link)| link.mac != Mac::default()).map(|(name, _)| name.clone())
}

fn unfit_interface(name: &str, link: &Link, links: &BTreeMap<String, Link>) -> Option<String> {
    if link.mac != Mac::default() {
        return None;
    }
    let loopback =
        !link.addresses.is_empty() && link.addresses.iter().all(|net| net.addr().is_loopback());
    let what = if loopback { "is the loopback" } else { "has no hardware address" };
    let usable = list(usable(links));
    Some(format!("interface {name:?} {what}: no VIP can be found there; this host has {usable}"))
}

/// A VIP needs a neighbour of its own family on the interface, and must not be one.
fn vip_on_interface(vip: IpAddr, config: &Config, link: &Link) -> Option<String> {
    let name = &config.interface;
    if let Some(own) = link.addresses.iter().find(|net| net.addr() == vip && !is_host_net(net)) {
        return Some(format!(
            "{vip} is an ordinary address of {name} ({own}); a virtual IP is a free address"
        ));
    }
    let of_family = |net: &&IpNet| {
        let address = net.addr();
        let global = match address {
            IpAddr::V4(v4) => !v4.is_link_local(),
            IpAddr::V6(_) => true,
        };
        address.is_ipv4() == vip.is_ipv4()
            && !address.is_loopback()
            && !config.vips.contains(&address)
            && global
    };
    if link.addresses.iter().any(|net| of_family(&net)) {
        return None;
    }
    let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
    Some(format!(
        "{vip} cannot be held on {name}, which has no {family} address of its own; \
         give it one, or take the VIP out"
    ))
}

fn is_host_net(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

fn vip_elsewhere(vip: IpAddr, interface: &str, links: &BTreeMap<String, Link>) -> Option<String> {
    let (name, _) = links
        .iter()
        .find(|(name, link)| *name != interface && *name != KUBE_IPVS && has(link, vip))?;
    Some(format!(
        "{vip} is on interface {name} of this host already; \
         remove it there (ip address del {vip} dev {name}), or write `interface: {name}`"
    ))
}

fn not_ours(address: IpAddr, config: &Config, links: &BTreeMap<String, Link>) -> String {
    let own = links
        .values()
        .flat_map(|link| &link.addresses)
        .map(IpNet::addr)
        .filter(|own| !own.is_loopback() && !is_link_local(*own) && !config.vips.contains(own))
        .map(|own| own.to_string());
    let own = list(own);
    // The usual cause: one host's file on another host.
    let copied = config.remote_peers.iter().find(|peer| {
        peer.addresses.iter().any(|address| links.values().any(|link| has(link, *address)))
    });
    let hint = match copied {
        Some(Peer { id, .. }) => format!("; it is {id:?} of remotePeers, write that as localPeer"),
        None => String::new(),
    };
    format!("{address} is not an address of this host, which has {own}{hint}")
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// The first few of what may be hundreds.
fn list(words: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 8;
    let words: Vec<String> = words.collect();
    match words.len() {
        0 => "none".into(),
        n if n > SHOWN => format!("{} and {} more", words[..SHOWN].join(", "), n - SHOWN),
        _ => words.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "localPeer: {id: a, address: '10.0.0.1,fd00::1'}\n\
                        interface: eth0\nvip: 10.0.0.100,fd00::100\n";

    fn link(mac: u8, addresses: &[&str]) -> Link {
        Link {
            index: 2,
            mac: Mac([0, 0, 0, 0, 0, mac]),
            mtu: 1500,
            up: true,
            carrier: true,
            kind: String::new(),
            addresses: addresses.iter().map(|net| net.parse().expect("a prefix")).collect(),
        }
    }

    fn verdict(file: &str, links: &[(&str, Link)]) -> Result<(), String> {
        let config = Config::parse(file, "test", "host").expect("valid");
        let mut all = BTreeMap::from([("lo".to_owned(), link(0, &["127.0.0.1/8", "::1/128"]))]);
        all.extend(links.iter().map(|(name, link)| ((*name).to_owned(), link.clone())));
        check_host(&config, &all).map_err(|error| error.to_string())
    }

    const OWN: [&str; 3] = ["10.0.0.1/24", "fd00::1/64", "fe80::1/64"];

    #[test]
    fn a_fitting_host_passes() {
        assert_eq!(verdict(FILE, &[("eth0", link(1, &OWN))]), Ok(()));
    }

    #[test]
    fn link_local_is_enough_for_an_ipv6_vip() {
        let file = "localPeer: {id: a, address: 10.0.0.1}\ninterface: eth0\nvip: fd00::100\n";
        assert_eq!(verdict(file, &[("eth0", link(1, &["10.0.0.1/24", "fe80::1/64"]))]), Ok(()));
    }

    #[test]
    fn a_vip_left_by_a_killed_agent_is_no_fault() {
        let left = ["10.0.0.1/24", "fd00::1/64", "10.0.0.100/32", "fd00::100/128"];
        assert_eq!(verdict(FILE, &[("eth0", link(1, &left))]), Ok(()));
    }

    #[test]
    fn kube_proxy_may_hold_the_vip_too() {
        let ipvs = link(9, &["10.0.0.100/32"]);
        assert_eq!(verdict(FILE, &[("eth0", link(1, &OWN)), (KUBE_IPVS, ipvs)]), Ok(()));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        type Case = (&'static str, Vec<(&'static str, Link)>, &'static str);
        let cases: [Case; 8] = [
            (
                FILE,
                vec![("eth1", link(1, &OWN)), ("wlan0", link(2, &[]))],
                "interface: interface \"eth0\" does not exist; this host has eth1, wlan0",
            ),
            (
                FILE,
                vec![("eth0", link(0, &OWN)), ("eth1", link(2, &[]))],
                "interface: interface \"eth0\" has no hardware address: no VIP can be found there; \
                 this host has eth1",
            ),
            (
                "localPeer: {id: a, address: 10.0.0.1}\ninterface: lo\nloadBalancers: []\nvip: 10.0.0.9\n",
                vec![("eth0", link(1, &OWN))],
                "interface: interface \"lo\" is the loopback: no VIP can be found there; \
                 this host has eth0 (and 1 more)",
            ),
            (
                FILE,
                vec![("eth0", link(1, &["10.0.0.1/24"])), ("eth1", link(2, &["fd00::1/64"]))],
                "vip: fd00::100 cannot be held on eth0, which has no IPv6 address of its own; \
                 give it one, or take the VIP out",
            ),
            (
                FILE,
                vec![
                    ("eth0", link(1, &["fd00::1/64", "10.0.0.100/32"])),
                    ("eth1", link(2, &["10.0.0.1/24"])),
                ],
                "vip: 10.0.0.100 cannot be held on eth0, which has no IPv4 address of its own; \
                 give it one, or take the VIP out",
            ),
            (
                FILE,
                vec![("eth0", link(1, &["10.0.0.7/24", "fd00::1/64"]))],
                "localPeer.address: 10.0.0.1 is not an address of this host, \
                 which has 10.0.0.7, fd00::1",
            ),
            (
                FILE,
                vec![("eth0", link(1, &OWN)), ("eth1", link(2, &["10.0.0.100/32"]))],
                "vip: 10.0.0.100 is on interface eth1 of this host already; \
                 remove it there (ip address del 10.0.0.100 dev eth1), or write `interface: eth1`",
            ),
            (
                FILE,
                vec![("eth0", link(1, &["10.0.0.1/24", "10.0.0.100/24", "fd00::1/64"]))],
                "vip: 10.0.0.100 is an ordinary address of eth0 (10.0.0.100/24); \
                 a virtual IP is a free address",
            ),
        ];
        for (file, links, expected) in cases {
            assert_eq!(verdict(file, &links), Err(expected.to_owned()));
        }
    }

    #[test]
    fn each_uplink_must_be_there() {
        let file = format!("{FILE}uplinks: [eth1, eth2]\n");
        let wrong = "uplinks: interface \"eth2\" does not exist; this host has eth0, eth1";
        let links = [("eth0", link(1, &OWN)), ("eth1", link(2, &[]))];
        assert_eq!(verdict(&file, &links), Err(wrong.to_owned()));
        let links = [("eth0", link(1, &OWN)), ("eth1", link(2, &[])), ("eth2", link(0, &[]))];
        assert_eq!(
            verdict(&file, &links),
            Err("uplinks: interface \"eth2\" has no hardware address: no VIP can be found there; \
                 this host has eth0, eth1"
                .to_owned())
        );
    }

    #[test]
    fn a_file_copied_from_another_host_says_so() {
        let file = "localPeer: {id: a, address: 10.0.0.1}\nremotePeers: [{id: b, address: 10.0.0.2}]\n\
                    interface: eth0\nvip: 10.0.0.100\n";
        let swapped = file.replace("10.0.0.1}", "10.0.0.3}");
        let expected = "localPeer.address: 10.0.0.3 is not an address of this host, which has \
                        10.0.0.2; it is \"b\" of remotePeers, write that as localPeer";
        assert_eq!(verdict(&swapped, &[("eth0", link(1, &["10.0.0.2/24"]))]), Err(expected.into()));
    }
}

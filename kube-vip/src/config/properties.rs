//! What holds for every file: no panic, and a valid configuration survives being written and read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, "f", "host")
}

/// Whatever comes out, it says something on one line.
fn says_something(result: &Result<Config, ConfigError>) {
    if let Err(error) = result {
        let text = error.to_string();
        assert!(!error.problems().is_empty() && text.len() > "f: ".len(), "{text}");
        assert!(!text.contains('\n'), "{text}");
        assert!(text.len() < 2000, "{text}");
    }
}

/// Pieces of YAML and of our own keys, for text that gets past the first character.
fn fragments() -> impl Strategy<Value = String> {
    let pieces = select(vec![
        "vip",
        "localPeer",
        "remotePeers",
        "loadBalancers",
        "backends",
        "port",
        "interface",
        ": ",
        ":",
        "\n",
        "- ",
        " ",
        "  ",
        "{",
        "}",
        "[",
        "]",
        ",",
        "&a ",
        "*a",
        "<<: ",
        "'",
        "\"",
        "|",
        ">",
        "#",
        "!!int ",
        "!!str ",
        "? ",
        "---\n",
        "...\n",
        "%YAML 1.2\n",
        "\t",
        "10.0.0.1",
        "fd00::1",
        "true",
        "null",
        "~",
        "0",
        "-1",
        "1e999",
        "0x1f",
        "\u{feff}",
        "\u{0}",
        "\r\n",
        "é",
        "99999999999999999999999999999999999999999",
    ]);
    prop::collection::vec(pieces, 0..60).prop_map(|pieces| pieces.concat())
}

fn peer() -> impl Strategy<Value = (Option<u16>, bool, bool)> {
    (prop::option::of(1..=u16::MAX), any::<bool>(), any::<bool>())
}

fn backend() -> impl Strategy<Value = Backend> {
    let address = prop_oneof![
        (1u8..=254).prop_map(|n| IpAddr::V4(Ipv4Addr::new(10, 2, 0, n))),
        (1u16..=999).prop_map(|n| IpAddr::V6(Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, n))),
    ];
    (address, 1..=u16::MAX, 0..=256u16).prop_map(|(address, port, weight)| Backend {
        address,
        port,
        weight,
    })
}

fn balancer() -> impl Strategy<Value = LoadBalancer> {
    let protocol = select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp]);
    let affinity = select(vec![Affinity::None, Affinity::ClientIp]);
    let backends = prop::collection::vec(backend(), 0..6).prop_map(|mut backends| {
        let mut seen = BTreeSet::new();
        backends.retain(|backend| seen.insert((backend.address, backend.port)));
        backends
    });
    (
        "[a-z #:'\"-]{0,8}",
        protocol,
        1..=u16::MAX,
        any::<bool>(),
        select(TableSize::ALL.to_vec()),
        affinity,
        (select(Forwarding::ALL.to_vec()), select(vec![NatSource::Vip, NatSource::Node])),
        backends,
        (
            prop::option::of(health_check()),
            any::<bool>(),
            any::<bool>(),
            prop::option::of(1..=1_000_000u32),
        ),
    )
        .prop_map(
            |(name, protocol, port, bind_to_vip, table_size, affinity, nat, mut backends, more)| {
                if protocol == Protocol::Sctp {
                    let mut seen = BTreeSet::new();
                    backends.iter_mut().for_each(|backend| backend.port = port);
                    backends.retain(|backend| seen.insert(backend.address));
                }
                let ((_, forwarding), nat_source) = nat;
                let (health_check, refuse, drop, rate_limit) = more;
                LoadBalancer {
                    name,
                    protocol,
                    port,
                    bind_to_vip,
                    table_size,
                    affinity,
                    health_check,
                    all_down: if refuse { AllDown::Refuse } else { AllDown::Keep },
                    no_backend: if drop { NoBackend::Drop } else { NoBackend::Refuse },
                    rate_limit,
                    forwarding,
                    nat_source,
                    backends,
                }
            },
        )
}

prop_compose! {
    fn health_check()(
        http in prop::option::of(http()),
        port in prop::option::of(1..=u16::MAX),
        period in 100..=3_600_000u64,
        timeout in 10..=100u64,
        fall in 1..=100u32,
        rise in 1..=100u32,
    ) -> HealthCheck {
        HealthCheck {
            probe: http.map_or(Probe::Tcp, Probe::Http),
            port,
            period: Duration::from_millis(period),
            timeout: Duration::from_millis(timeout),
            fall,
            rise,
        }
    }
}

prop_compose! {
    fn http()(
        path in "/[a-z?=&/#-]{0,20}",
        host in prop::option::of("[a-z][a-z.:-]{0,20}"),
        first in 100..=599u16,
        more in 0..=100u16,
        tls in prop::option::of(prop::option::of("/[a-z/.]{1,20}")),
    ) -> HttpProbe {
        let tls = tls.map(|file| file.map_or(Trust::Anybody, |file| Trust::CaFile(file.into())));
        HttpProbe { path, host, status: (first, (first + more).min(599)), tls }
    }
}

prop_compose! {
    fn config()(
        instance in "[a-z0-9-]{1,32}",
        interface in "[a-z][a-z0-9.@-]{0,14}",
        uplinks in prop::collection::btree_set("[A-Z][a-z0-9.@-]{0,14}", 0..3),
        replies in prop::collection::vec("[A-Z*][a-z0-9.*]{0,20}", 0..3),
        vips in 0..=2usize,
        peers in prop::collection::vec(peer(), 1..5),
        flags in any::<[bool; 3]>(),
        local_clients in select(vec![LocalClients::Host, LocalClients::All, LocalClients::None]),
        cgroup_root in prop::option::of("/[a-z /]{0,20}[a-z]"),
        interval in 100..=3_600_000u64,
        nat_last in 1024..=u16::MAX,
        mut load_balancers in prop::collection::vec(balancer(), 0..5),
    ) -> Config {
        let all: [IpAddr; 2] = [Ipv4Addr::new(10, 0, 0, 100).into(), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100).into()];
        let peers = peers.into_iter().zip(1u8..).map(|((port, dual, pods), n)| Peer {
            id: format!("n{n}"),
            addresses: std::iter::once(IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)))
                .chain(dual.then(|| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()))))
                .collect(),
            port: port.unwrap_or(10000),
            pods: pods.then(|| ipnet::Ipv4Net::new_assert(Ipv4Addr::new(10, 244, n, 0), 24).into()).into_iter().collect(),
        });
        let mut peers: Vec<Peer> = peers.collect();
        let mut seen = BTreeSet::new();
        load_balancers.retain(|lb| seen.insert((lb.bind_to_vip, lb.protocol, lb.port)));
        for (lb, n) in load_balancers.iter_mut().zip(0..) {
            lb.name = format!("{}{n}", lb.name.trim_start());
        }
        if vips == 0 {
            load_balancers.retain(|lb| !lb.bind_to_vip);
        }
        let vips = if load_balancers.is_empty() { vips.max(1) } else { vips };
        Config {
            instance,
            interface,
            uplinks: uplinks.into_iter().collect(),
            reply_devices: if replies.is_empty() {
                ReplyDevices::default()
            } else {
                ReplyDevices { by_kind: flags[1], names: replies }
            },
            local_peer: peers.remove(0),
            single_node: peers.is_empty() && flags[0],
            remote_peers: peers,
            vips: all[..vips].to_vec(),
            gratuitous_arp: flags[1],
            announce_interval: Duration::from_millis(interval),
            udp_idle: Duration::from_secs(120),
            abandoned_after: Duration::from_secs(3600),
            drain_timeout: None,
            mss_clamp: MssClamp::Off,
            start_as_leader: flags[2],
            election: Election::File,
            preferences: BTreeMap::new(),
            load_balancers,
            http_balancers: Vec::new(),
            xdp_mode: XdpMode::Auto,
            nat_ports: Some(PortRange { first: 1024, last: nat_last }),
            local_clients,
            cgroup_root: cgroup_root.map(PathBuf::from),
            log_data_plane: flags[0],
            keep_on_exit: flags[2],
            limits: Limits { half_open: 65536, frontends: 1024, backends: 8192, flows: 65536, nat: 65536 },
            notices: Vec::new(),
        }
    }
}

/// A file that says what the configuration is.
fn render(config: &Config) -> String {
    let join = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let peer = |peer: &Peer| {
        let pods: Vec<_> = peer.pods.iter().map(ToString::to_string).collect();
        let (id, addresses) = (&peer.id, join(&peer.addresses));
        format!(
            "{{id: {id}, address: '{addresses}', port: {}, podCIDR: '{}'}}",
            peer.port,
            pods.join(",")
        )
    };
    let ports = config.nat_ports.map(|range| format!("natPorts: {}-{}\n", range.first, range.last));
    let ports = ports.unwrap_or_default();
    let mut text = format!(
        "instance: '{}'\ninterface: '{}'\nlocalPeer: {}\nvip: '{}'\ngratuitousARP: {}\nannounceInterval: {}ms\n\
         election: file\nsingleNode: {}\nstartAsLeader: {}\nlogDataPlane: {}\nkeepOnExit: {}\n{ports}remotePeers:\n",
        config.instance,
        config.interface,
        peer(&config.local_peer),
        join(&config.vips),
        config.gratuitous_arp,
        config.announce_interval.as_millis(),
        config.single_node,
        config.start_as_leader,
        config.log_data_plane,
        config.keep_on_exit,
    );
    if let Some(path) = &config.cgroup_root {
        text.insert_str(0, &format!("cgroupRoot: '{}'\n", path.display()));
    }
    let whose = match config.local_clients {
        LocalClients::Host => "host",
        LocalClients::All => "all",
        LocalClients::None => "none",
    };
    text.insert_str(0, &format!("localClients: {whose}\n"));
    for other in &config.remote_peers {
        writeln!(text, "- {}", peer(other)).unwrap();
    }
    writeln!(text, "uplinks: '{}'", config.uplinks.join(", ")).unwrap();
    let ReplyDevices { by_kind, names } = &config.reply_devices;
    if !names.is_empty() {
        let kinds = if *by_kind { ", auto" } else { "" };
        writeln!(text, "replyDevices: '{}{kinds}'", names.join(",")).unwrap();
    }
    text += "loadBalancers:\n";
    for lb in &config.load_balancers {
        text += &render_check(lb);
        let affinity = if lb.affinity == Affinity::None { "None" } else { "ClientIP" };
        writeln!(
            text,
            "  name: '{}'\n  type: {}\n  port: {}\n  bindToVip: {}\n  tableSize: {}\n  sessionAffinity: {affinity}\n  \
             forwardingMethod: {}\n  natSource: {}\n  backends:",
            lb.name.replace('\'', "''"), lb.protocol.name(), lb.port, lb.bind_to_vip, lb.table_size.slots(),
            lb.forwarding.word(), if lb.nat_source == NatSource::Vip { "vip" } else { "node" },
        ).unwrap();
        for backend in &lb.backends {
            writeln!(
                text,
                "  - {{address: '{}', port: {}, weight: {}}}",
                backend.address, backend.port, backend.weight
            )
            .unwrap();
        }
    }
    text
}

/// The beginning of a load balancer.
fn render_check(lb: &LoadBalancer) -> String {
    let mut text = format!(
        "- allDown: {}\n  noBackend: {}\n  healthCheck:\n",
        if lb.all_down == AllDown::Keep { "keep" } else { "refuse" },
        if lb.no_backend == NoBackend::Refuse { "refuse" } else { "drop" },
    );
    if let Some(rate) = lb.rate_limit {
        text.insert_str(1, &format!(" rateLimit: {rate}\n "));
    }
    let Some(check) = &lb.health_check else { return text + "    type: none\n" };
    let kind = match &check.probe {
        Probe::Tcp => "tcp",
        Probe::Http(http) if http.tls.is_none() => "http",
        Probe::Http(_) => "https",
    };
    let (period, timeout) = (check.period.as_millis(), check.timeout.as_millis());
    write!(
        text,
        "    type: {kind}\n    period: {period}ms\n    timeout: {timeout}ms\n    fall: {}\n    rise: {}\n",
        check.fall, check.rise
    )
    .unwrap();
    if let Some(port) = check.port {
        writeln!(text, "    port: {port}").unwrap();
    }
    let Probe::Http(http) = &check.probe else { return text };
    let (first, last) = http.status;
    writeln!(text, "    path: '{}'\n    status: {first}-{last}", http.path).unwrap();
    if let Some(host) = &http.host {
        writeln!(text, "    host: '{host}'").unwrap();
    }
    match &http.tls {
        None => {}
        Some(Trust::Anybody) => text += "    insecureSkipVerify: true\n",
        Some(Trust::CaFile(file)) => writeln!(text, "    caFile: '{}'", file.display()).unwrap(),
    }
    text
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        says_something(&Config::parse_bytes(&bytes, "f", "host"));
    }

    #[test]
    fn any_text(text in any::<String>()) {
        says_something(&parse(&text));
    }

    #[test]
    fn any_pieces(text in fragments()) {
        says_something(&parse(&text));
        says_something(&parse(&format!("{SAMPLE}{text}")));
    }

    #[test]
    fn a_damaged_sample(
        damage in prop::collection::vec((any::<Index>(), 0..4usize, any::<u8>(), fragments()), 1..4),
    ) {
        let mut bytes = SAMPLE.as_bytes().to_vec();
        for (at, kind, byte, piece) in damage {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => { bytes.remove(at); }
                2 => { bytes.splice(at..at, piece.into_bytes()); }
                _ => bytes.truncate(at.max(1)),
            }
        }
        says_something(&Config::parse_bytes(&bytes, "f", "host"));
    }

    #[test]
    fn what_is_written_is_read_back(config in config()) {
        let text = render(&config);
        let mut read = parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        read.notices.clear();
        prop_assert_eq!(read, config, "{}", text);
    }
}

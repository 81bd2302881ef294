//! Files and what is said of them.

use super::*;

const HEAD: &str = "\
localPeer: {id: a, address: 10.0.0.1}
remotePeers:
- {id: b, address: 10.0.0.2}
vip: 10.0.0.100
interface: eth0
";

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, "f", "host").map_err(|error| error.to_string())
}

/// What is read, without the warning that two hosts are few.
fn good(text: &str) -> Config {
    let mut config = parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    config.notices.retain(|line| !line.starts_with(FEW));
    config
}

const FEW: &str = "remotePeers: two hosts: when one is lost";

/// The head of a file with one line exchanged.
fn head(from: &str, to: &str) -> String {
    assert!(HEAD.contains(from), "{from}");
    HEAD.replace(from, to)
}

fn with(more: &str) -> String {
    format!("{HEAD}{more}\n")
}

fn balancer(inner: &str) -> String {
    with(&format!("loadBalancers:\n- {{name: web, type: tcp, port: 80, bindToVip: true, {inner}}}"))
}

fn http(backends: &str) -> String {
    balancer(&format!("backends: [{backends}]")).replace("type: tcp", "type: http")
}

#[test]
fn the_sample_is_what_it_says() {
    let config = good(SAMPLE);
    assert_eq!(config.notices, Vec::<String>::new());
    assert_eq!(config.instance, "default");
    assert_eq!(config.interface, "eth0");
    assert_eq!(config.vips, ["192.168.0.100".parse::<IpAddr>().unwrap()]);
    assert_eq!(
        config.peers().map(|peer| (peer.id.as_str(), peer.port)).collect::<Vec<_>>(),
        [("server1", 10000), ("server2", 10000), ("server3", 10000)]
    );
    assert!(config.start_as_leader && config.gratuitous_arp && !config.single_node);
    assert_eq!(config.announce_interval, Duration::from_secs(3));
    let [lb] = config.load_balancers.as_slice() else { panic!("{:?}", config.load_balancers) };
    assert_eq!((lb.protocol, lb.port, lb.bind_to_vip), (Protocol::Tcp, 6443, true));
    assert_eq!((lb.table_size, lb.affinity), (TableSize::S4093, Affinity::None));
    assert!(lb.backends.iter().all(|backend| (backend.port, backend.weight) == (6444, 1)));
    assert_eq!(
        config.limits,
        Limits { frontends: 1024, backends: 8192, flows: 65536, half_open: 65536, nat: 65536 }
    );
}

/// `kube-vip sample config` of v0.1.8, as that program prints it.
#[test]
fn the_old_programs_own_sample_is_understood() {
    let text = "\
localPeer:
  id: server1
  address: 192.168.0.1
  port: 10000
remotePeers:
- id: server2
  address: 192.168.0.2
  port: 10000
- id: server3
  address: 192.168.0.3
  port: 10000
addPeersAsBackends: false
vip: 192.168.0.100
vipCidr: \"\"
address: \"\"
gratuitousARP: true
singleNode: false
startAsLeader: false
interface: eth0
enableLeaderElection: false
leaseDuration: 0
renewDeadline: 0
retryPeriod: 0
enableLoadBalancer: false
enableBGP: false
bgpConfig:
  routerid: \"\"
  as: 0
  peers: []
bgpPeerConfig: {}
enablePacket: false
packetAPIKey: \"\"
packetProject: \"\"
loadBalancers:
- name: Kubernetes Control Plane
  type: tcp
  port: 6443
  bindToVip: false
  backendPort: 0
  backends:
  - port: 6444
    address: 192.168.0.70
    url: \"\"
";
    let config = good(text);
    assert_eq!(config.notices, Vec::<String>::new());
    assert!(!config.load_balancers[0].bind_to_vip);
    assert_eq!(config.load_balancers[0].backends[0].port, 6444);
}

#[test]
fn defaults_are_the_documented_ones() {
    let config =
        good(&with("loadBalancers: [{port: 53, type: UDP, backends: [{address: 10.0.0.3}]}]"));
    assert!(config.gratuitous_arp && !config.single_node && !config.start_as_leader);
    assert!(!config.log_data_plane);
    assert_eq!((config.local_clients, config.cgroup_root), (LocalClients::Host, None));
    let lb = &config.load_balancers[0];
    assert_eq!(lb.name, "udp-53");
    assert_eq!((lb.protocol, lb.bind_to_vip), (Protocol::Udp, false));
    assert_eq!((lb.backends[0].port, lb.backends[0].weight), (53, 1));
    assert_eq!(config.local_peer.port, 10000);
}

#[test]
fn dual_stack_is_written_in_several_ways() {
    let both: Vec<IpAddr> = ["10.0.0.100", "fd00::100"].map(|ip| ip.parse().unwrap()).into();
    for vip in [
        "10.0.0.100,fd00::100",
        "' 10.0.0.100 , fd00::100 '",
        "[10.0.0.100, fd00::100]",
        "\n- 10.0.0.100\n- fd00::100",
    ] {
        assert_eq!(good(&head("vip: 10.0.0.100", &format!("vip: {vip}"))).vips, both, "{vip}");
    }
    let config = good(&head("address: 10.0.0.1}", "address: '10.0.0.1,fd00::1'}"));
    assert_eq!(config.local_peer.addresses.len(), 2);
}

#[test]
fn address_stands_in_for_vip() {
    let config = good(&head("vip: 10.0.0.100", "address: 10.0.0.100"));
    assert_eq!(config.vips.len(), 1);
    assert_eq!(config.notices, Vec::<String>::new());
}

#[test]
fn a_single_node_needs_no_peers() {
    let config = good("vip: 10.0.0.100\ninterface: eth0\nsingleNode: true\n");
    assert_eq!(
        config.local_peer,
        Peer { id: "host".into(), addresses: vec![], port: 10000, pods: vec![] }
    );
}

#[test]
fn one_list_of_peers_serves_all_hosts() {
    let config = good(&with("").replace("- {id: b", "- {id: a, address: 10.0.0.1}\n- {id: b"));
    assert_eq!(config.remote_peers.iter().map(|peer| &peer.id).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn limits_grow_with_the_file() {
    let backends: Vec<String> =
        (0..200).map(|i| format!("{{address: 10.1.0.{i}, port: 1}}")).collect();
    let balancers: Vec<String> = (1..=50)
        .map(|port| {
            format!("- {{port: {port}, bindToVip: true, backends: [{}]}}", backends.join(","))
        })
        .collect();
    let text =
        with(&format!("limits: {{frontends: 10}}\nloadBalancers:\n{}", balancers.join("\n")));
    let config = good(&text);
    assert_eq!(
        config.limits,
        Limits { frontends: 128, backends: 32768, flows: 65536, half_open: 65536, nat: 65536 }
    );
    assert_eq!(config.notices, ["limits.frontends: raised to 128, twice what the file needs"]);
}

#[test]
fn keys_without_effect_are_named_once_and_their_values_never() {
    let config = good(&with(
        "enableBGP: true\nbgpConfig: {as: 65000, secret: hunter2}\npacketAPIKey: hunter2\n\
         leaseDuration: 5\naddPeersAsBackends: true\naddress: kube.example\n\
         loadBalancers:\n\
         - {name: h, type: HTTP, port: 80, rateLimit: 9, backends: [{url: 'http://10.0.0.9'}]}\n\
         - {name: t, port: 81, bindToVip: true, backends: [{address: fd00::3, url: 'http://y'}]}\n\
         - {name: u, port: 82, backends: []}",
    ));
    let keys: Vec<&str> =
        config.notices.iter().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(
        keys,
        [
            "address",
            "loadBalancers[0].rateLimit",
            "loadBalancers[1].backends",
            "loadBalancers[1].backends",
            "loadBalancers[2].backends",
            "addPeersAsBackends",
            "leaseDuration",
            "enableBGP",
            "bgpConfig",
            "packetAPIKey",
        ]
    );
    assert!(!config.notices.iter().any(|line| line.contains("hunter2") || line.contains('\n')));
    assert_eq!(config.load_balancers.len(), 2);
}

#[test]
fn hosts_with_peers_agree_among_themselves_unless_told_otherwise() {
    let alone = head("remotePeers:\n- {id: b, address: 10.0.0.2}\n", "");
    let by_quorum = |text: &str| matches!(good(text).election, Election::Quorum(_));
    assert!(by_quorum(HEAD) && by_quorum(&with("election: quorum")));
    assert!(!by_quorum(&with("election: file")) && !by_quorum(&alone));
    assert!(!by_quorum(&(alone + "singleNode: true\n")));
}

#[test]
fn hosts_that_are_too_few_are_told_what_they_lose() {
    let notices = |text: &str| parse(text).expect(text).notices;
    let two = notices(HEAD);
    assert!(matches!(&two[..], [line] if line.starts_with(FEW)), "{two:?}");
    let third = head("- {id: b", "- {id: c, address: 10.0.0.3}\n- {id: b");
    assert_eq!(notices(&third), Vec::<String>::new());
    assert_eq!(notices(&with("election: file")), Vec::<String>::new());
}

#[test]
fn vips_prefer_hosts_in_the_order_that_is_written() {
    let two = |more: &str| good(&(head("10.0.0.100", "'10.0.0.100,fd00::100'") + more));
    let list = |ids: &[&str]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    let [v4, v6]: [IpAddr; 2] = ["10.0.0.100", "fd00::100"].map(|ip| ip.parse().unwrap());
    let config = two("quorum: {prefer: [b, a]}\n");
    assert_eq!(config.preferences, [(v4, list(&["b", "a"])), (v6, list(&["b", "a"]))].into());
    let config = two("quorum: {prefer: {'fd00::100': 'b,a'}}\n");
    assert_eq!(config.preferences, [(v6, list(&["b", "a"]))].into());
    let config = two("quorum: {prefer: [c]}\n");
    assert_eq!(config.notices, [r#"quorum.prefer[0]: "c" is none of this file's hosts"#]);
    assert!(two("election: file\nquorum: {prefer: [b]}\n").preferences.is_empty());
}

#[test]
fn what_only_the_hosts_own_election_needs_is_named_without_it() {
    let quorum = "secretFile: /x\nquorum: {weight: 2}\n";
    let keys = |text: String| -> Vec<String> {
        let notices = good(&text).notices.into_iter();
        notices.map(|line| line.split(": ").next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(keys(with(&format!("{quorum}election: file\n"))), ["secretFile", "quorum"]);
    assert!(keys(with(quorum)).is_empty());
}

#[test]
fn http_backends_are_urls() {
    let list = "{url: 'http://10.0.0.3'}, {url: 'https://[fd00::3]:8443/app/', weight: 3}, \
                {url: 'http://web.example:81', address: 10.0.0.4, drain: true}";
    let config = good(&http(list).replace("port: 80,", "port: 80, insecureSkipVerify: true,"));
    let [lb] = &config.http_balancers[..] else { panic!("{:?}", config.http_balancers) };
    assert_eq!((lb.name.as_str(), lb.port, lb.bind_to_vip), ("web", 80, true));
    assert_eq!(lb.trust, Some(Trust::Anybody));
    assert_eq!(lb.health_check.as_ref().map(|check| &check.probe), Some(&Probe::Tcp));
    let shown = |it: &HttpBackend| {
        (it.address.to_string(), it.authority.clone(), it.host().to_owned(), it.weight)
    };
    let owned =
        |(a, b, c, d): (&str, &str, &str, u16)| (a.to_owned(), b.to_owned(), c.to_owned(), d);
    let expected = [
        ("10.0.0.3:80", "10.0.0.3", "10.0.0.3", 1),
        ("[fd00::3]:8443", "[fd00::3]:8443", "fd00::3", 3),
        ("10.0.0.4:81", "web.example:81", "web.example", 0),
    ];
    assert_eq!(lb.backends.iter().map(shown).collect::<Vec<_>>(), expected.map(owned));
    let prefixes: Vec<_> = lb.backends.iter().map(|it| (it.tls, it.prefix.as_str())).collect();
    assert_eq!(prefixes, [(false, ""), (true, "/app"), (false, "")]);
    assert_eq!(config.notices, Vec::<String>::new());
}

#[test]
fn every_mistake_is_named_with_its_value_and_the_way_out() {
    let web = "loadBalancers[0]";
    let cases: Vec<(String, String)> = vec![
        // Keys.
        (with("vpi: 10.0.0.101"), r#"f, line 6: vpi: unknown key "vpi"; did you mean "vip"?"#.into()),
        (head("interface", "Interface"), r#"f, line 5: Interface: unknown key "Interface"; did you mean "interface"?"#.into()),
        (balancer("prot: 1"), format!(r#"f, line 7: {web}.prot: unknown key "prot"; did you mean "port"?"#)),
        (head("id: b,", "id: b, colour: red,"), r#"f, line 3: remotePeers[0].colour: unknown key "colour"; known here: id, address, port, podCIDR"#.into()),
        // The hosts' own election.
        (with("quorum: {prefer: {10.0.0.9: [a]}}"), "f, line 6: quorum.prefer.10.0.0.9: 10.0.0.9 is none of the file's VIPs".into()),
        (with("quorum: {prefer: {x: [a]}}"), r#"f, line 6: quorum.prefer.x: "x" is not an IP address; write one like 192.168.0.10 or fd00::10"#.into()),
        (with("election: raft"), r#"f, line 6: election: "raft" is no election; write quorum or file"#.into()),
        (head("remotePeers:\n- {id: b, address: 10.0.0.2}\n", "") + "election: quorum\n", "f, line 4: election: quorum takes other hosts: write them under remotePeers, or leave the key out".into()),
        (with("secret: hunter2"), "f, line 6: secret: 7 characters are not 32 bytes (43 or 44 characters of base64, or 64 hexadecimal digits); write what `kube-vip secret` prints, not a password".into()),
        (with("secretFile: secret"), r#"f, line 6: secretFile: "secret" is not an absolute path"#.into()),
        (with("secret: abc\nsecretFile: /x"), "f, line 7: secretFile: there is a `secret` too; keep one of the two".into()),
        (with("secretFile: /x\ninsecurePeers: true"), "f, line 7: insecurePeers: there is a secret too, which would not be used; keep one of the two".into()),
        (with("quorum: {lease: 100ms}"), "f, line 6: quorum.lease: 100ms would end between two heartbeats of 40ms; take 120ms or more, or a shorter heartbeat".into()),
        (with("quorum: {stateDir: var}"), r#"f, line 6: quorum.stateDir: "var" is not an absolute path"#.into()),
        // VIPs.
        (head("10.0.0.100", "300.1.1.1"), r#"f, line 4: vip: "300.1.1.1" is not an IP address; write one like 192.168.0.10 or fd00::10"#.into()),
        (head("10.0.0.100", "10.0.0.100/24"), r#"f, line 4: vip: "10.0.0.100/24" is more than an address; write 10.0.0.100"#.into()),
        (head("10.0.0.100", "0.0.0.0"), r#"f, line 4: vip: "0.0.0.0" is the unspecified address; write the address of one host"#.into()),
        (head("10.0.0.100", "224.0.0.1"), r#"f, line 4: vip: "224.0.0.1" is a multicast address; write the address of one host"#.into()),
        (head("10.0.0.100", "127.0.0.1"), "f, line 4: vip: 127.0.0.1 is a loopback address; a virtual IP is a free address of the hosts' network".into()),
        (head("10.0.0.100", "fe80::1"), "f, line 4: vip: fe80::1 is a link-local address; a virtual IP is a free address of the hosts' network".into()),
        (head("10.0.0.100", "::ffff:10.0.0.9"), r#"f, line 4: vip: "::ffff:10.0.0.9" is an IPv4 address in IPv6 clothes; write 10.0.0.9"#.into()),
        (head("10.0.0.100", "10.0.0.100,10.0.0.100"), "f, line 4: vip: 10.0.0.100 is there twice; write it once".into()),
        (head("10.0.0.100", "{a: b}"), "f, line 4: vip: a map is not a text".into()),
        (head("vip: 10.0.0.100", "address: kube.example"), r#"f, line 4: address: "kube.example" is a DNS name, and names come later; write the virtual IP under `vip`"#.into()),
        (head("10.0.0.100", "10.0.0.2"), "f, line 3: remotePeers[0].address: 10.0.0.2 is a VIP; write the host's own address, the VIP moves between hosts".into()),
        (head("vip: 10.0.0.100\n", ""), "f: vip: missing, and there are no loadBalancers; write the virtual IP".into()),
        (
            balancer("backends: []").replace("vip: 10.0.0.100\n", ""),
            r#"f: vip: missing, but load balancer "web" has `bindToVip: true`; write the virtual IP, or `bindToVip: false` to balance a port of the hosts' own addresses"#.into(),
        ),
        // Interface.
        (head("eth0", "''"), "f: interface: missing; write the name of the network interface for the virtual IP, like eth0".into()),
        (head("eth0", "a234567890123456"), r#"f, line 5: interface: "a234567890123456" has 16 bytes; interface names have at most 15"#.into()),
        (head("eth0", "'eth 0'"), r#"f, line 5: interface: "eth 0" is not the name of an interface; `ip link` lists them"#.into()),
        (head("eth0", "','"), "f: interface: missing; write the name of the network interface for the virtual IP, like eth0".into()),
        (head("eth0", "eth0,eth0"), "f, line 5: interface: eth0 is there twice; write it once".into()),
        (with("uplinks: [eth1, eth0]"), "f, line 6: uplinks[1]: eth0 is there twice; write it once".into()),
        (with("uplinks: eth/1"), r#"f, line 6: uplinks: "eth/1" is not the name of an interface; `ip link` lists them"#.into()),
        (with("replyDevices: vxlan 1"), r#"f, line 6: replyDevices: "vxlan 1" is neither the name of an interface nor a pattern like vxlan*, nor auto"#.into()),
        // Peers.
        (head("localPeer: {id: a, address: 10.0.0.1}\n", ""), "f: localPeer: missing; write this host's id and address (or `singleNode: true` if there are no other hosts)".into()),
        (head("id: b", "id: a"), r#"f, line 3: remotePeers[0].id: "a" is the id of localPeer too; give each host its own"#.into()),
        (head("10.0.0.2", "10.0.0.1"), "f, line 3: remotePeers[0].address: 10.0.0.1 is an address of localPeer too; each host has its own".into()),
        (head("id: b, ", ""), "f, line 3: remotePeers[0].id: missing; write a name, different for each host".into()),
        (head(", address: 10.0.0.2", ""), "f, line 3: remotePeers[0].address: missing; write the host's own IP address".into()),
        (head("address: 10.0.0.2", "address: 10.0.0.2, port: 0"), "f, line 3: remotePeers[0].port: 0 is not a port; ports are 1 to 65535".into()),
        (head("address: 10.0.0.2", "address: 127.0.0.1"), "f, line 3: remotePeers[0].address: 127.0.0.1 is a loopback address; write the one other hosts reach this host at".into()),
        (head("id: b", "id: 1.10"), "f, line 3: remotePeers[0].id: 1.1 is not read as text; put it in quotes".into()),
        (with("singleNode: true"), "f, line 2: remotePeers: 1 other hosts, but `singleNode: true` says there are none; remove one of the two keys".into()),
        (head("\n- {id: b, address: 10.0.0.2}", " x"), r#"f, line 2: remotePeers: "x" is not a list; begin each element with "- ""#.into()),
        (head("{id: b, address: 10.0.0.2}", "10.0.0.2"), r#"f, line 3: remotePeers[0]: "10.0.0.2" stands where keys belong, like `id: …`"#.into()),
        (head("id: b,", "id: b, podCIDR: 10.244.1.0,"), r#"f, line 3: remotePeers[0].podCIDR: "10.244.1.0" is not a range of addresses; write one like 10.244.1.0/24"#.into()),
        (head("id: b,", "id: b, podCIDR: 10.244.1.7/24,"), r#"f, line 3: remotePeers[0].podCIDR: "10.244.1.7/24" begins at 10.244.1.0/24; write 10.244.1.0/24"#.into()),
        (head("id: b,", "id: b, podCIDR: 0.0.0.0/0,"), r#"f, line 3: remotePeers[0].podCIDR: "0.0.0.0/0" is every address there is"#.into()),
        (head("id: b,", "id: b, podCIDR: 10.0.0.0/24,"), r#"f, line 3: remotePeers[0].podCIDR: "10.0.0.0/24" contains a VIP, which is no Pod's"#.into()),
        (head("id: b,", "id: b, podCIDR: '10.1.0.0/24,10.2.0.0/24',"), r#"f, line 3: remotePeers[0].podCIDR: "10.2.0.0/24" is the second range of its family; a host has one of each"#.into()),
        // Load balancers.
        (balancer("port: 0").replace("port: 80, ", ""), format!("f, line 7: {web}.port: 0 is not a port; ports are 1 to 65535")),
        (balancer("").replace("port: 80", "port: 65536"), format!("f, line 7: {web}.port: 65536 is not a port; ports are 1 to 65535")),
        (balancer("").replace("port: 80", "port: 99999999999999999999999999999999999999999999"), format!("f, line 7: {web}.port: 100000000000000000000000000000000000000000000 is not a port; ports are 1 to 65535")),
        (balancer("").replace("port: 80, ", ""), format!("f, line 7: {web}.port: missing; write the port clients connect to")),
        (balancer("").replace("tcp", "dccp"), format!(r#"f, line 7: {web}.type: "dccp" is not a type; write tcp, udp, sctp or http"#)),
        (balancer("").replace("true", "maybe"), format!(r#"f, line 7: {web}.bindToVip: "maybe" is not true or false"#)),
        (balancer("tableSize: 1000"), format!("f, line 7: {web}.tableSize: 1000 is not one of the sizes: 251, 1021, 4093, 16381, 65537")),
        (balancer("sessionAffinity: clientip"), format!(r#"f, line 7: {web}.sessionAffinity: "clientip" is not an affinity; write None or ClientIP"#)),
        (balancer("") + "- {port: 80, bindToVip: true, name: x}\n", "f, line 8: loadBalancers[1].port: tcp port 80 of the VIP is taken by loadBalancers[0]; take another port, or put the backends of both into one load balancer".into()),
        (balancer("") + "- {port: 81, name: web}\n", r#"f, line 8: loadBalancers[1].name: "web" is the name of loadBalancers[0] too; give each its own"#.into()),
        (balancer("caFile: /x"), format!("f, line 7: {web}.caFile: belongs to type http, and under healthCheck; take it out")),
        // Type http.
        (http("{address: 10.0.0.3}"), format!("f, line 7: {web}.backends[0].url: missing; type http sends requests to a URL, like http://192.168.0.1:8080")),
        (http("{url: 10.0.0.3}"), format!(r#"f, line 7: {web}.backends[0].url: "10.0.0.3" is not a URL; write one like http://192.168.0.1:8080"#)),
        (http("{url: 'ftp://10.0.0.3'}"), format!(r#"f, line 7: {web}.backends[0].url: "ftp://10.0.0.3" is not a URL; write one like http://192.168.0.1:8080"#)),
        (http("{url: 'http://10.0.0.3:0'}"), format!(r#"f, line 7: {web}.backends[0].url: "http://10.0.0.3:0" has a port that is none; ports are 1 to 65535"#)),
        (http("{url: 'http://10.0.0.3:99999'}"), format!(r#"f, line 7: {web}.backends[0].url: "http://10.0.0.3:99999" has a port that is none; ports are 1 to 65535"#)),
        (http("{url: 'http://a:b@10.0.0.3'}"), format!(r#"f, line 7: {web}.backends[0].url: "http://a:b@10.0.0.3" holds a user's name or password, which is not sent; take it out"#)),
        (http("{url: 'http://10.0.0.3/?a'}"), format!(r#"f, line 7: {web}.backends[0].url: "http://10.0.0.3/?a" has a query, but requests bring their own; take it out"#)),
        (http("{url: 'http://x.example'}"), format!(r#"f, line 7: {web}.backends[0].url: "http://x.example" names its host, and names come later; write where it is under `address` too"#)),
        (http("{url: 'http://10.0.0.3', address: 10.0.0.4}"), format!("f, line 7: {web}.backends[0].address: 10.0.0.4 is not the address in the url; keep one of the two")),
        (http("{url: 'http://10.0.0.100'}"), format!("f, line 7: {web}.backends[0].url: 10.0.0.100 is a VIP; write the address of the host that serves")),
        (http("{url: 'https://10.0.0.3'}"), format!("f, line 7: {web}.caFile: missing; name the file with the certificates to trust, or write `insecureSkipVerify: true`")),
        (http("{url: 'http://10.0.0.3/'}, {url: 'http://10.0.0.3'}"), format!(r#"f, line 7: {web}.backends[1].url: "http://10.0.0.3" is in this list twice; keep one (`weight` gives more)"#)),
        // Backends.
        (balancer("backends: [{address: 10.0.0.3}, {address: 10.0.0.3, port: 80}]"), format!("f, line 7: {web}.backends[1].address: 10.0.0.3 port 80 is in this list twice; keep one (`weight` gives a larger share)")),
        (balancer("backends: [{address: 10.0.0.100}]"), format!("f, line 7: {web}.backends[0].address: 10.0.0.100 is a VIP; write the address of the host that serves")),
        (balancer("backends: [{address: 127.0.0.1}]"), format!("f, line 7: {web}.backends[0].address: 127.0.0.1 is a loopback address, which no packet from outside may go to; write the host's own")),
        (balancer("backends: [{address: web.example}]"), format!(r#"f, line 7: {web}.backends[0].address: "web.example" is not an IP address; write one like 192.168.0.10 or fd00::10"#)),
        (balancer("backends: [{port: 80}]"), format!("f, line 7: {web}.backends[0].address: missing; write the backend's IP address")),
        (balancer("backends: [{address: 10.0.0.3, port: 0}]"), format!("f, line 7: {web}.backends[0].port: 0 is not a port; ports are 1 to 65535")),
        (balancer("backends: [{address: 10.0.0.3, weight: 257}]"), format!("f, line 7: {web}.backends[0].weight: 257 is not a whole number from 0 to 256")),
        (balancer("backends: [{address: 10.0.0.3, weight: -1}]"), format!("f, line 7: {web}.backends[0].weight: -1 is not a whole number from 0 to 256")),
        // Our own keys.
        (with("instance: Web_1"), r#"f, line 6: instance: "Web_1" is not the name of an instance; take 1 to 32 of a-z, 0-9 and "-""#.into()),
        (with("announceInterval: 3"), r#"f, line 6: announceInterval: "3" is not a time from 100ms to 1h; write one like 3s or 500ms"#.into()),
        (with("tableSize: big"), r#"f, line 6: tableSize: "big" is not a whole number from 1 to 4294967295"#.into()),
        (with("limits: {flows: 0}"), "f, line 6: limits.flows: 0 is not a whole number from 1 to 16777216".into()),
        (with("limits: {flow: 1}"), r#"f, line 6: limits.flow: unknown key "flow"; did you mean "flows"?"#.into()),
        // The file as a whole.
        (String::new(), "f: the file is empty; `kube-vip sample config` prints one to begin with".into()),
        ("- a\n".into(), "f, line 1: a list stands where keys belong, like `vip: …`".into()),
        (with("vip: 10.0.0.101"), r#"f, line 6: the key "vip" appears twice here; keep one of the two"#.into()),
        // Several at once.
        (with("a: 1\nb: 2\nlogDataPlane: 3"), r#"f, line 6: a: unknown key "a"; known here:"#.into()),
        (head("eth0", "a/b") + "logDataPlane: 3\n", r#"f, line 5: interface: "a/b" is not the name of an interface; `ip link` lists them (and 1 more)"#.into()),
    ];
    for (text, expected) in cases {
        let error = parse(&text).expect_err(&text);
        assert!(
            error == expected || error.starts_with(&expected) && expected.ends_with(':'),
            "\n{text}\n said: {error}\nwant: {expected}"
        );
        assert!(!error.contains('\n'));
    }
}

#[test]
fn uplinks_stand_beside_the_interface_or_behind_it() {
    for text in [
        head("eth0", "eth0, eth1,eth2"),
        head("eth0", "[eth0, eth1, eth2]"),
        with("uplinks: [eth1, eth2]"),
        head("eth0", "eth0,eth1") + "uplinks: eth2\n",
    ] {
        let config = good(&text);
        assert_eq!(config.interface, "eth0");
        assert_eq!(config.uplinks, ["eth1", "eth2"]);
    }
    assert_eq!(good(HEAD).uplinks, Vec::<String>::new());
}

#[test]
fn reply_devices_are_named_or_known_by_their_kind() {
    let of = |more: &str| good(&with(more)).reply_devices;
    let named = |by_kind, names: &[&str]| ReplyDevices {
        by_kind,
        names: names.iter().map(|name| (*name).to_owned()).collect(),
    };
    assert_eq!(of(""), named(true, &[]));
    assert_eq!(of("replyDevices: []"), named(false, &[]));
    assert_eq!(of("replyDevices: [flannel.1, vxlan*]"), named(false, &["flannel.1", "vxlan*"]));
    assert_eq!(of("replyDevices: auto, tun*"), named(true, &["tun*"]));
}

#[test]
fn a_port_may_be_balanced_on_the_vip_and_on_the_hosts() {
    let text = balancer("")
        + "- {port: 80, name: hosts}\n- {port: 80, type: udp, name: u, bindToVip: true}\n";
    assert_eq!(good(&text).load_balancers.len(), 3);
}

#[test]
fn a_table_smaller_than_its_backends_is_refused() {
    let list: Vec<String> = (0..252).map(|i| format!("{{address: 10.1.0.{i}}}")).collect();
    let error =
        parse(&balancer(&format!("tableSize: 251, backends: [{}]", list.join(",")))).unwrap_err();
    assert!(error.contains("252 backends, but the table has 251 slots"), "{error}");
}

#[test]
fn bytes_that_are_no_text_are_refused_with_their_line() {
    let error = Config::parse_bytes(b"vip: 10.0.0.1\nid: \xff\n", "f", "host").unwrap_err();
    assert_eq!(error.to_string(), "f, line 2: byte 0xff is not UTF-8 text; save the file as UTF-8");
    let huge = vec![b' '; MAX_FILE_BYTES + 1];
    let error = Config::parse_bytes(&huge, "f", "host").unwrap_err();
    assert_eq!(error.to_string(), "f: the file is larger than 16 MiB");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error =
        Origin::file(Path::new("/nonexistent/kube-vip.yaml")).load().unwrap_err().to_string();
    assert!(
        error.starts_with("/nonexistent/kube-vip.yaml: cannot be read: No such file"),
        "{error}"
    );
}

#[test]
fn json_and_aliases_are_yaml_too() {
    let json = r#"{"localPeer": {"id": "a", "address": "10.0.0.1"},
	"vip": "10.0.0.100", "interface": "eth0"}"#;
    assert_eq!(good(json).local_peer.id, "a");
    let text = with(
        "loadBalancers:\n- {port: 80, backends: &all [{address: 10.0.0.3, port: 1}]}\n- {port: 81, backends: *all}",
    );
    assert_eq!(good(&text).load_balancers[1].backends.len(), 1);
}

#[test]
fn ten_thousand_load_balancers_fit() {
    let mut text = with("loadBalancers:");
    for port in 1..=10_000 {
        text += &format!(
            "- name: service-{port}\n  type: tcp\n  port: {port}\n  bindToVip: true\n  backends:\n"
        );
        for host in 1..=10 {
            text += &format!("  - address: 10.1.0.{host}\n    port: 8080\n    weight: 1\n");
        }
    }
    assert!(text.len() < MAX_FILE_BYTES / 2, "{}", text.len());
    let config = good(&text);
    assert_eq!(config.load_balancers.len(), 10_000);
    assert_eq!(
        config.limits,
        Limits { frontends: 32768, backends: 262_144, flows: 65536, half_open: 65536, nat: 65536 }
    );
}

#[test]
fn backends_are_checked_unless_told_otherwise() {
    let of = |inner: &str| good(&balancer(inner)).load_balancers.remove(0);
    let tcp = of("").health_check.expect("TCP is checked");
    assert_eq!(tcp.probe, Probe::Tcp);
    assert_eq!((tcp.period, tcp.timeout), (Duration::from_secs(2), Duration::from_secs(1)));
    assert_eq!((tcp.fall, tcp.rise, tcp.port), (3, 2, None));
    assert_eq!(of("healthCheck: {type: none}").health_check, None);
    let udp = good(&with("loadBalancers: [{type: udp, port: 53}]")).load_balancers.remove(0);
    assert_eq!(udp.health_check, None);
    let quick = of("healthCheck: {period: 500ms}").health_check.expect("checked");
    assert_eq!(quick.timeout, Duration::from_millis(500));
    let of = |inner: &str| match of(inner).health_check.expect("checked").probe {
        Probe::Http(http) => http,
        Probe::Tcp => panic!("{inner}"),
    };
    let http = of("healthCheck: {type: http}");
    assert_eq!((http.path.as_str(), http.status, http.tls), ("/", (200, 399), None));
    let https = of("healthCheck: {type: https, caFile: /ca.pem, status: 200, path: /livez}");
    assert_eq!((https.path.as_str(), https.status), ("/livez", (200, 200)));
    assert_eq!(https.tls, Some(Trust::CaFile("/ca.pem".into())));
}

#[test]
fn what_is_wrong_with_a_check_is_named() {
    for (check, expected) in [
        ("{type: icmp}", "type: \"icmp\" is not known; write tcp, http, https or none"),
        ("{path: /x}", "path: belongs to type http and https"),
        ("{type: http, caFile: /x}", "caFile: belongs to type https"),
        ("{type: https}", "caFile: missing; name the file"),
        ("{type: https, caFile: x}", "caFile: \"x\" is no absolute path"),
        ("{type: https, caFile: /x, insecureSkipVerify: true}", "keep one of the two"),
        ("{type: http, path: x}", "path: \"x\" is not a path"),
        ("{type: http, path: \"/a b\"}", "is not a path"),
        ("{type: http, host: \"a\\r\\nb\"}", "is not a host name"),
        ("{type: http, status: 299-200}", "status: \"299-200\" is not an HTTP status"),
        ("{type: http, status: 99}", "status: \"99\" is not an HTTP status"),
        ("{period: 1s, timeout: 2s}", "timeout: is longer than `period`"),
        ("{period: 1ms}", "period: \"1ms\" is not a time from 100ms to 1h"),
        ("{fall: 0}", "fall: 0 is not a whole number from 1 to 100"),
        ("{prot: tcp}", "unknown key \"prot\""),
    ] {
        let error = parse(&balancer(&format!("healthCheck: {check}"))).expect_err(check);
        assert!(error.contains(expected), "{check}: {error}");
        assert!(error.contains("loadBalancers[0].healthCheck"), "{check}: {error}");
    }
    for (inner, expected) in [
        ("allDown: stop", "allDown: \"stop\" is not known; write keep or refuse"),
        ("noBackend: stop", "noBackend: \"stop\" is not known; write refuse or drop"),
    ] {
        assert!(parse(&balancer(inner)).expect_err(inner).contains(expected), "{inner}");
    }
}

#[test]
fn whose_sockets_are_led_is_a_word_and_a_path() {
    for (word, whose) in
        [("host", LocalClients::Host), ("all", LocalClients::All), ("none", LocalClients::None)]
    {
        assert_eq!(good(&with(&format!("localClients: {word}"))).local_clients, whose);
    }
    let config = good(&with("cgroupRoot: /host/cgroup"));
    assert_eq!(config.cgroup_root.as_deref(), Some(Path::new("/host/cgroup")));
    for (line, expected) in [
        ("localClients: pods", "localClients: \"pods\" is not known; write host, all or none"),
        ("cgroupRoot: sys", "cgroupRoot: \"sys\" is not an absolute path"),
        ("cgroupRoot: \"/a\\u0007\"", "is not an absolute path"),
    ] {
        let error = parse(&with(line)).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn segments_are_limited_in_words_or_bytes() {
    let clamp = |text: &str| parse(&with(&format!("mssClamp: {text}"))).map(|c| c.mss_clamp);
    assert_eq!(good(HEAD).mss_clamp, MssClamp::Off);
    for (text, expected) in [
        ("off", MssClamp::Off),
        ("auto", MssClamp::Auto),
        ("536", MssClamp::To(536)),
        ("65495", MssClamp::To(65_495)),
    ] {
        assert_eq!(clamp(text), Ok(expected));
    }
    for text in ["535", "65496", "-1", "99999999999", "some"] {
        let error = clamp(text).expect_err(text);
        let named =
            format!("mssClamp: \"{text}\" is no segment size; write auto, off, or a number");
        assert!(error.contains(&named), "{error}");
    }
}

#[test]
fn flows_end_after_the_times_that_are_set() {
    let seconds = Duration::from_secs;
    let default = good(HEAD);
    assert_eq!((default.udp_idle, default.drain_timeout), (seconds(120), None));
    let set = good(&with("udpIdle: 30s\ndrainTimeout: 10m"));
    assert_eq!((set.udp_idle, set.drain_timeout), (seconds(30), Some(seconds(600))));
    for key in ["udpIdle", "drainTimeout"] {
        let error = parse(&with(&format!("{key}: 0s"))).expect_err(key);
        assert!(error.contains(key), "{error}");
    }
}

#[test]
fn a_backend_that_drains_has_no_share() {
    let text = "backends: [{address: 10.0.0.1}, {address: 10.0.0.2, weight: 5, drain: true}, \
                {address: 10.0.0.3, weight: 5, drain: false}]";
    let config = good(&balancer(text));
    let weights: Vec<_> = config.load_balancers[0].backends.iter().map(|b| b.weight).collect();
    assert_eq!(weights, [1, 0, 5]);
}

//! Flags and variables of the old program.

use std::collections::BTreeMap;

use super::*;

fn given(words: &[(&str, Key, &str)]) -> Given {
    let mut given = Given::default();
    words.iter().for_each(|(name, key, text)| given.add(name, *key, text));
    given
}

fn variables(words: &[(&str, &str)]) -> Given {
    let words: BTreeMap<&str, &str> = words.iter().copied().collect();
    let mut given = Given::default();
    given.add_variables(|name| words.get(name).map(ToString::to_string));
    given
}

fn parse(file: &str, given: &Given) -> Result<Config, String> {
    Config::parse_given(file.as_bytes(), "f", "host", given).map_err(|error| error.to_string())
}

const FILE: &str = "\
localPeer: {id: a, address: 10.0.0.1}
vip: 10.0.0.100
interface: eth0
loadBalancers:
- {name: web, port: 80, bindToVip: true, backends: [{address: 10.0.0.8}]}
- {name: dns, type: udp, port: 53, backends: [{address: 10.0.0.9}]}
";

const WHOLE: [(&str, &str); 8] = [
    ("vip_interface", "eth1"),
    ("vip_address", "10.0.0.101,fd00::1"),
    ("vip_localpeer", "a:10.0.0.1:10000,a:[fd00::a]:10000"),
    ("vip_peers", "b:10.0.0.2:010, c:[fd00::c]"),
    ("vip_arp", "0"),
    ("vip_startleader", "T"),
    ("lb_backends", "10.0.0.8:81,[fd00::8]:82"),
    ("lb_port", "00443"),
];

#[test]
fn variables_alone_are_enough() {
    let config = parse("", &variables(&WHOLE)).unwrap();
    let shown = |peer: &Peer| {
        let addresses: Vec<_> = peer.addresses.iter().map(ToString::to_string).collect();
        format!("{} {} {}", peer.id, addresses.join(","), peer.port)
    };
    let peers: Vec<_> = config.peers().map(shown).collect();
    // Numbers are decimal; the old program read these in base 8.
    assert_eq!(peers, ["a 10.0.0.1,fd00::a 10000", "b 10.0.0.2 10", "c fd00::c 10000"]);
    assert_eq!((config.interface.as_str(), config.vips.len()), ("eth1", 2));
    assert!(config.start_as_leader && !config.gratuitous_arp);
    let lb = &config.load_balancers[0];
    let backends: Vec<_> = lb.backends.iter().map(|it| (it.address.to_string(), it.port)).collect();
    assert_eq!(lb.port, 443);
    assert_eq!(backends, [("10.0.0.8".to_owned(), 81), ("fd00::8".to_owned(), 82)]);
    assert_eq!(config.notices, Vec::<String>::new());
}

#[test]
fn variables_override_a_file() {
    let set = variables(&[
        ("vip_address", "10.0.0.101"),
        ("address", "10.0.0.102"),
        ("lb_port", "81"),
        ("lb_backends", "10.0.0.7:1"),
        ("vip_interface", ""),
    ]);
    let config = parse(FILE, &set).unwrap();
    assert_eq!(config.vips, ["10.0.0.101".parse::<IpAddr>().unwrap()]);
    assert_eq!(config.interface, "eth0", "an empty variable is as if it were not set");
    let [web, dns] = &config.load_balancers[..] else { panic!("{:?}", config.load_balancers) };
    assert_eq!((web.name.as_str(), web.port, web.backends[0].port), ("web", 81, 1));
    assert_eq!((dns.port, dns.backends[0].port), (53, 53));
    let address = parse(FILE, &variables(&[("address", "10.0.0.102")])).unwrap();
    assert_eq!(address.vips, ["10.0.0.102".parse::<IpAddr>().unwrap()]);
}

#[test]
fn a_mistake_is_told_by_the_name_of_its_variable() {
    for (name, text, said) in [
        ("vip_address", "10.0.0", r#"vip_address: vip: "10.0.0" is not an IP address"#),
        ("vip_arp", "maybe", r#"vip_arp: gratuitousARP: "maybe" is not true or false"#),
        ("vip_interface", "eth/0", r#"vip_interface: interface: "eth/0" is not the name"#),
        ("vip_localpeer", "a", r#"vip_localpeer: "a" is not a host; write id:address:port"#),
        ("vip_localpeer", "a:fd00::1:1", r#"vip_localpeer: "a:fd00::1:1" is not a host"#),
        ("vip_localpeer", "a:10.0.0.1,b:10.0.0.2", "vip_localpeer: names several hosts"),
        ("vip_localpeer", "a:10.0.0.1:0", "vip_localpeer: localPeer.port: \"0\" is not a port"),
        ("vip_peers", "b:10.0.0.2:1,b:[fd00::2]:2", r#"vip_peers: "b" has two ports"#),
        ("vip_peers", "b:10.0.0.1", "vip_peers: remotePeers[0].address: 10.0.0.1 is an address of"),
        ("lb_port", "http", "lb_port: loadBalancers[0].port: \"http\" is not a port"),
        ("lb_backends", "web:80", "lb_backends: loadBalancers[0].backends[0].address: \"web\" is"),
        ("lb_type", "dccp", "lb_type: loadBalancers[0].type: \"dccp\" is not a type"),
    ] {
        let error = parse(FILE, &variables(&[(name, text)])).unwrap_err();
        assert!(error.starts_with(said), "{error}\n{said}");
        let file = parse(&FILE.replace("eth0", "eth/0"), &variables(&[("vip_arp", "1")]));
        assert!(file.unwrap_err().starts_with("f, line 3: interface: "));
    }
}

#[test]
fn what_belongs_to_kubernetes_and_others_is_named() {
    let set = variables(&[
        ("vip_leaderelection", "true"),
        ("bgp_as", "65000"),
        ("vip_configmap", "plndr"),
        ("vip_packet", "false"),
    ]);
    let notices = parse(FILE, &set).unwrap().notices;
    let names: Vec<_> = notices.iter().map(|it| it.split(':').next().unwrap()).collect();
    assert_eq!(names, ["enableLeaderElection", "bgp_as", "vip_configmap"]);
    let lone = "localPeer: {id: a, address: 10.0.0.1}\nvip: 10.0.0.100\ninterface: eth0\n";
    let notices = parse(lone, &variables(&[("lb_port", "6443")])).unwrap().notices;
    assert_eq!(notices, ["lb_port: there is no load balancer; name its backends too"]);
}

#[test]
fn virtual_ips_are_left_to_somebody_else_by_a_single_node_only() {
    let off = given(&[("--disableVIP", Key::NoVip, "true")]);
    let error = parse(&format!("{FILE}singleNode: true\n"), &off).unwrap_err();
    assert!(error.contains("bindToVip"), "{error}");
    let balanced = FILE.replace("bindToVip: true", "bindToVip: false");
    let error = parse(&balanced, &off).unwrap_err();
    assert!(error.starts_with("--disableVIP: hosts that share a VIP need it"), "{error}");
    let config = parse(&(balanced + "singleNode: true\n"), &off).unwrap();
    assert_eq!(config.vips, Vec::<IpAddr>::new());
}

#[test]
fn a_file_made_from_flags_says_the_same() {
    let set = variables(&WHOLE);
    let text = set.render().unwrap();
    let mut config = parse(&text, &Given::default()).unwrap_or_else(|it| panic!("{it}\n{text}"));
    let Election::Quorum(quorum) = &mut config.election else { panic!("{text}") };
    assert_eq!(quorum.secret, SecretSource::File("/etc/kube-vip/secret".into()));
    quorum.secret = SecretSource::Environment;
    assert_eq!(Ok(config), parse("", &set), "{text}");
    assert!(text.contains("- id: b\n  address: 10.0.0.2\n"), "{text}");
    assert!(variables(&[("vip_address", "x")]).render().is_err());
}

//! What the command line and the environment say, in the words of the old program: an edit of the
//! file's content, so that one reader checks it all.
//!
//! A word has no line. Its nodes carry a number that no line has, and what is found wrong with them
//! is told under the word's name.

use std::collections::BTreeMap;

use super::error::Problem;
use super::reader::quote;
use super::yaml::{Entry, Node, Value};

/// No file has so many lines.
const FIRST: u64 = 1 << 40;

/// What a word sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A text, or a list with commas between.
    Text(&'static str),
    /// The VIPs, whichever of `vip` and `address` the file has.
    Vip(&'static str),
    /// In the words of Go's `ParseBool`.
    Flag(&'static str),
    /// `id:address:port`.
    LocalPeer,
    /// Several of these.
    RemotePeers,
    /// A text of the first load balancer.
    Balancer(&'static str),
    /// A boolean of it.
    BalancerFlag(&'static str),
    /// Its backends: `address:port`, or a URL, with commas between.
    Backends,
    /// VIPs are left to somebody else.
    NoVip,
    /// It is understood and does nothing, for this reason.
    Nothing(&'static str),
}

/// A flag or variable that is set.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Word {
    name: String,
    key: Key,
    text: String,
}

/// Flags and variables that are set, in the order in which they count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given(Vec<Word>);

impl Given {
    /// Adds a word. An empty one is as if it were not set.
    pub fn add(&mut self, name: &str, key: Key, text: &str) {
        if !text.is_empty() {
            let (name, text) = (name.to_owned(), text.to_owned());
            self.0.push(Word { name, key, text });
        }
    }

    /// Adds the variables of the environment that are known; `get` looks one up.
    pub fn add_variables(&mut self, get: impl Fn(&str) -> Option<String>) {
        for (name, key) in VARIABLES {
            // The old program reads the one only where the other is not set.
            let hidden = name == "address" && get("vip_address").is_some_and(|it| !it.is_empty());
            if let Some(text) = get(name).filter(|_| !hidden) {
                self.add(name, key, &text);
            }
        }
    }

    /// Whether nothing is set that says what to do.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| matches!(word.key, Key::Nothing(_) | Key::NoVip))
    }

    /// Writes the words over a file's content.
    pub(super) fn write_over(&self, root: &mut Node) {
        let Value::Map(top) = &mut root.value else { return };
        // Flags come before variables, and those of one kind together make one list.
        for (word, line) in self.0.iter().zip(FIRST..) {
            let text = || Value::Text(word.text.trim().to_owned());
            match word.key {
                Key::Text(key) => set(top, key, line, text()),
                Key::Vip(key) => {
                    top.retain(|entry| !matches!(entry.key.as_str(), "vip" | "address"));
                    set(top, key, line, text());
                }
                Key::Flag(key) => set(top, key, line, boolean(&word.text)),
                Key::LocalPeer => {
                    if let Some(peer) = peers(&word.text, line).into_iter().next() {
                        set(top, "localPeer", line, peer);
                    }
                }
                Key::RemotePeers => {
                    let list = peers(&word.text, line).into_iter();
                    let list = list.map(|value| Node { line, value }).collect();
                    set(top, "remotePeers", line, Value::List(list));
                }
                Key::Backends => {
                    let list = words(&word.text).map(|it| Node { line, value: backend(it, line) });
                    set_balancer(top, "backends", line, Value::List(list.collect()));
                }
                Key::Balancer(key) if has_balancer(top) || self.has_backends() => {
                    set_balancer(top, key, line, text());
                }
                Key::BalancerFlag(key) if has_balancer(top) || self.has_backends() => {
                    set_balancer(top, key, line, boolean(&word.text));
                }
                Key::NoVip => {
                    if boolean(&word.text).is_true() {
                        top.retain(|entry| !matches!(entry.key.as_str(), "vip" | "address"));
                    }
                }
                Key::Balancer(_) | Key::BalancerFlag(_) | Key::Nothing(_) => {}
            }
        }
    }

    /// A line for each word that does nothing.
    pub(super) fn notices(&self, root: &Node) -> Vec<String> {
        let balancers = match &root.value {
            Value::Map(top) => has_balancer(top),
            _ => false,
        };
        let why = |word: &Word| match word.key {
            Key::Nothing(why) => Some(why),
            Key::Balancer(_) | Key::BalancerFlag(_) if !balancers => {
                Some("there is no load balancer; name its backends too")
            }
            _ => None,
        };
        let line = |word: &Word| why(word).map(|why| format!("{}: {why}", word.name));
        self.0.iter().filter_map(line).collect()
    }

    /// What cannot be seen in the content any more.
    pub(super) fn problems(&self, single_node: bool) -> Vec<Problem> {
        let mut problems = Vec::new();
        for word in &self.0 {
            let problem = |message: &str| Problem {
                origin: Some(word.name.clone()),
                line: None,
                path: String::new(),
                message: message.to_owned(),
            };
            match word.key {
                Key::NoVip if !matches!(boolean(&word.text), Value::Bool(_)) => {
                    problems.push(problem(&format!("{} is not true or false", quote(&word.text))));
                }
                Key::NoVip if boolean(&word.text).is_true() && !single_node => {
                    let message = "hosts that share a VIP need it; only with --singleNode it may \
                                   be left to somebody else";
                    problems.push(problem(message));
                }
                Key::LocalPeer | Key::RemotePeers => {
                    let message = unlike_peers(&word.text, word.key == Key::LocalPeer);
                    problems.extend(message.as_deref().map(problem));
                }
                _ => {}
            }
        }
        problems
    }

    /// Puts the name of a word in the place of its line.
    pub(super) fn name(&self, mut problem: Problem) -> Problem {
        let index = problem.line.and_then(|line| line.checked_sub(FIRST));
        let word = index.and_then(|index| self.0.get(usize::try_from(index).ok()?));
        if let Some(word) = word {
            problem.origin = Some(word.name.clone());
            problem.line = None;
        }
        problem
    }

    fn has_backends(&self) -> bool {
        self.0.iter().any(|word| word.key == Key::Backends)
    }
}

const LATER_BGP: &str = "BGP comes later; the VIP is announced by ARP and neighbour discovery";

/// The variables of the old program's `start`.
const VARIABLES: [(&str, Key); 31] = [
    ("vip_interface", Key::Text("interface")),
    ("vip_address", Key::Vip("vip")),
    ("address", Key::Vip("address")),
    ("vip_cidr", Key::Text("vipCidr")),
    ("vip_arp", Key::Flag("gratuitousARP")),
    ("vip_singlenode", Key::Flag("singleNode")),
    ("vip_startleader", Key::Flag("startAsLeader")),
    ("vip_localpeer", Key::LocalPeer),
    ("vip_peers", Key::RemotePeers),
    ("vip_addpeerstolb", Key::Flag("addPeersAsBackends")),
    ("lb_backends", Key::Backends),
    ("lb_type", Key::Balancer("type")),
    ("lb_name", Key::Balancer("name")),
    ("lb_port", Key::Balancer("port")),
    ("lb_backendport", Key::Balancer("backendPort")),
    ("lb_bindtovip", Key::BalancerFlag("bindToVip")),
    ("lb_enable", Key::Flag("enableLoadBalancer")),
    ("vip_leaderelection", Key::Flag("enableLeaderElection")),
    ("vip_leaseduration", Key::Text("leaseDuration")),
    ("vip_renewdeadline", Key::Text("renewDeadline")),
    ("vip_retryperiod", Key::Text("retryPeriod")),
    ("bgp_enable", Key::Flag("enableBGP")),
    ("bgp_routerid", Key::Nothing(LATER_BGP)),
    ("bgp_as", Key::Nothing(LATER_BGP)),
    ("bgp_peeraddress", Key::Nothing(LATER_BGP)),
    ("bgp_peeras", Key::Nothing(LATER_BGP)),
    ("vip_packet", Key::Flag("enablePacket")),
    ("vip_packetproject", Key::Text("packetProject")),
    ("PACKET_AUTH_TOKEN", Key::Text("packetAPIKey")),
    ("vip_configmap", Key::Nothing("Kubernetes comes later")),
    ("vip_loglevel", Key::Nothing("has no effect; write --log-level, or RUST_LOG")),
];

impl Value {
    fn is_true(&self) -> bool {
        matches!(self, Self::Bool(true))
    }
}

fn set(map: &mut Vec<Entry>, key: &str, line: u64, value: Value) {
    let entry = Entry { key: key.to_owned(), line, value: Node { line, value } };
    match map.iter_mut().find(|entry| entry.key == key) {
        Some(old) => *old = entry,
        None => map.push(entry),
    }
}

fn has_balancer(top: &[Entry]) -> bool {
    let list = top.iter().find(|entry| entry.key == "loadBalancers");
    list.is_some_and(|entry| matches!(&entry.value.value, Value::List(list) if !list.is_empty()))
}

/// Sets a key of the first load balancer, which is made if there is none. What is no map is named by
/// the reader.
fn set_balancer(top: &mut Vec<Entry>, key: &str, line: u64, value: Value) {
    if !has_balancer(top) {
        let mut keys = Vec::new();
        // As the old program's flag has it.
        set(&mut keys, "port", line, Value::Text("8080".to_owned()));
        let balancer = Node { line, value: Value::Map(keys) };
        set(top, "loadBalancers", line, Value::List(vec![balancer]));
    }
    let list = top.iter_mut().find(|entry| entry.key == "loadBalancers");
    if let Some(Entry { value: Node { value: Value::List(list), .. }, .. }) = list
        && let Some(Node { value: Value::Map(keys), .. }) = list.first_mut()
    {
        set(keys, key, line, value);
    }
}

/// Go's `ParseBool`; anything else is left for the reader to name.
fn boolean(text: &str) -> Value {
    match text.trim() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Value::Bool(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Value::Bool(false),
        other => Value::Text(other.to_owned()),
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

/// A host as `id:address:port`, or without the port.
struct Named<'a> {
    id: &'a str,
    address: &'a str,
    port: Option<&'a str>,
}

impl<'a> Named<'a> {
    fn parse(word: &'a str) -> Option<Self> {
        let (id, rest) = word.split_once(':')?;
        let (address, port) = address_and_port(rest)?;
        (!id.is_empty()).then_some(Self { id, address, port })
    }
}

/// `address`, `address:port`, `[address]`, `[address]:port`.
fn address_and_port(text: &str) -> Option<(&str, Option<&str>)> {
    let (address, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']')?;
            (address, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((address, port)) => (address, Some(port)),
            None => (text, None),
        },
    };
    let whole = !address.is_empty() && !port.is_some_and(|it| it.is_empty() || it.contains(':'));
    whole.then_some((address, port))
}

/// The hosts of a list. One that is there several times has several addresses.
fn peers(text: &str, line: u64) -> Vec<Value> {
    let mut found: Vec<(&str, Option<&str>, Vec<&str>)> = Vec::new();
    for Named { id, address, port } in words(text).filter_map(Named::parse) {
        match found.iter_mut().find(|(known, ..)| *known == id) {
            Some((_, _, addresses)) => addresses.push(address),
            None => found.push((id, port, vec![address])),
        }
    }
    let value = |(id, port, addresses): (&str, Option<&str>, Vec<&str>)| {
        let mut keys = Vec::new();
        set(&mut keys, "id", line, Value::Text(id.to_owned()));
        set(&mut keys, "address", line, Value::Text(addresses.join(",")));
        if let Some(port) = port {
            set(&mut keys, "port", line, Value::Text(port.to_owned()));
        }
        Value::Map(keys)
    };
    found.into_iter().map(value).collect()
}

/// What is wrong with a list of hosts as such.
fn unlike_peers(text: &str, one: bool) -> Option<String> {
    let mut ports = BTreeMap::new();
    for word in words(text) {
        let Some(Named { id, port, .. }) = Named::parse(word) else {
            return Some(format!(
                "{} is not a host; write id:address:port, like server1:192.168.0.1:10000, and an \
                 IPv6 address in brackets",
                quote(word)
            ));
        };
        if ports.insert(id, port).is_some_and(|before| before != port) {
            let shown = quote(id);
            return Some(format!("{shown} has two ports; a host with two addresses has one port"));
        }
    }
    (one && ports.len() > 1).then(|| "names several hosts; write this one alone".to_owned())
}

/// A backend of a list; the reader names one that is none.
fn backend(word: &str, line: u64) -> Value {
    let mut keys = Vec::new();
    let mut put = |key, text: &str| set(&mut keys, key, line, Value::Text(text.to_owned()));
    if word.contains("://") {
        put("url", word);
    } else if let Some((address, port)) = address_and_port(word) {
        put("address", address);
        port.into_iter().for_each(|port| put("port", port));
    } else {
        put("address", word);
    }
    Value::Map(keys)
}

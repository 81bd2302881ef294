//! The real programs, loaded, and their maps as the model has them.
//!
//! The object is the agent's own file; it is not loaded by the agent's code, so that maps can hold
//! what no agent would write all at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::{env, fs};

use aya::maps::{Array, ArrayOfMaps, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, TestRunResult, Xdp};
use aya::{Ebpf, EbpfLoader};
use kube_vip_common::address::{Address, MacAddress};
use kube_vip_common::backend;
use kube_vip_common::event::{EventTime, KINDS, ND_CONFLICT};
use kube_vip_common::filter::{self, Bit, Filter};
use kube_vip_common::flow::{Endpoint4, Endpoint6, Tuple4, Tuple6};
use kube_vip_common::fragment::{Fate, FragmentKey};
use kube_vip_common::frontend::{Frontend, FrontendKey, Listed, place};
use kube_vip_common::history::Past;
use kube_vip_common::lease::Lease;
use kube_vip_common::nat::{Nat4, Nat6};
use kube_vip_common::node::{Node, Peer, PeerKey, Uplink};
use kube_vip_common::settings::{Settings, TRANSLATES};
use kube_vip_common::stats::{BackendTraffic, Count, Reason, Traffic};
use kube_vip_common::stray::Stray;
use kube_vip_common::table::{Geometry, Line, SLOTS_PER_LINE, Slot, USUAL_LINES, USUAL_SLOTS};
use kube_vip_common::vip::Vip;

use super::values::{
    Tuples, backend_of, frontend_of, key, lease_of, node_of, slot_of, tuple_of, v4_of, v6_of,
    vip_of,
};
use crate::reference::host::{self, Configuration, Memory, THIS};
use crate::reference::packet::Mac;
use crate::reference::{Conflict, Verdict};

/// Slots of the table of each frontend id; the last one never has a table.
pub(crate) const TABLES: [usize; 8] = [251, 251, 251, 1021, 4093, 4093, 4093, 0];
/// Room for backends of this host in each table.
pub(crate) const LOCALS: usize = 32;
/// Ids of backends are below this.
pub(crate) const BACKENDS: u32 = 64;
pub(crate) const LEASES: usize = 4;

/// Interface that test runs arrive on: the loopback of the namespace.
const IFINDEX: u32 = 1;

/// Many more flows than a sequence makes: nothing is evicted.
const FLOWS: u32 = 65536;

/// `BPF_F_INNER_MAP`.
const INNER_MAP: u32 = 0x1000;

/// Counters since the maps were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) reasons: BTreeMap<Reason, u64>,
    pub(crate) arrived: BTreeMap<u32, host::Traffic>,
    pub(crate) sent: BTreeMap<u32, host::Traffic>,
    pub(crate) replied: BTreeMap<u32, host::Traffic>,
}

/// One host's programs and maps.
pub(crate) struct Kernel {
    programs: Ebpf,
    filter: Array<MapData, Filter>,
    vips: HashMap<MapData, Address, Vip>,
    leases: Array<MapData, Lease>,
    frontends: HashMap<MapData, FrontendKey, Frontend>,
    places: Array<MapData, u32>,
    listed: Array<MapData, Listed>,
    tables: Vec<Array<MapData, Line>>,
    backends: Array<MapData, backend::Backend>,
    nodes: Array<MapData, Node>,
    peers: HashMap<MapData, PeerKey, Peer>,
    peer_ips: HashMap<MapData, Address, Peer>,
    uplinks: HashMap<MapData, u32, Uplink>,
    settings: Array<MapData, Settings>,
    stats: PerCpuArray<MapData, Count>,
    frontend_stats: PerCpuArray<MapData, Traffic>,
    backend_stats: PerCpuArray<MapData, BackendTraffic>,
    events: RingBuf<MapData>,
    event_times: Array<MapData, EventTime>,
    flows4: HashMap<MapData, Tuple4, Endpoint4>,
    fragments: HashMap<MapData, FragmentKey, Fate>,
    flows6: HashMap<MapData, Tuple6, Endpoint6>,
    reverse4: HashMap<MapData, Tuple4, Endpoint4>,
    reverse6: HashMap<MapData, Tuple6, Endpoint6>,
    half4: HashMap<MapData, Tuple4, Endpoint4>,
    half6: HashMap<MapData, Tuple6, Endpoint6>,
    nat4: HashMap<MapData, Tuple4, Nat4>,
    nat6: HashMap<MapData, Tuple6, Nat6>,
    strays4: HashMap<MapData, Tuple4, Stray>,
    strays6: HashMap<MapData, Tuple6, Stray>,
    nat_ports: Array<MapData, u32>,
    written: Configuration,
    /// What was served since the last time that flows were forgotten.
    served: BTreeSet<(IpAddr, u16)>,
    out: Vec<u8>,
}

/// The compiled programs.
pub(crate) fn object() -> Vec<u8> {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bpf");
    let dir = env::var_os("KUBE_VIP_BPF_DIR").map_or_else(|| PathBuf::from(built), PathBuf::from);
    let file = dir.join("kube-vip-ebpf.o");
    fs::read(&file).unwrap_or_else(|error| {
        panic!("{}: {error}; `cargo xtask build-ebpf` compiles it", file.display())
    })
}

/// Whether a test run takes the frame as one that leaves: the kernel refuses skbs with less than an
/// IP header (Linux `net/bpf/test_run.c`, `bpf_prog_test_run_skb`).
pub(crate) fn can_leave(frame: &[u8]) -> bool {
    let least = match frame[12..14] {
        [0x08, 0x00] => 34,
        [0x86, 0xdd] => 54,
        _ => 15,
    };
    frame.len() >= least
}

fn take<M: TryFrom<Map, Error = MapError>>(programs: &mut Ebpf, name: &str) -> M {
    let map = programs.take_map(name).unwrap_or_else(|| panic!("no map {name}"));
    map.try_into().unwrap_or_else(|error| panic!("map {name}: {error}"))
}

impl Kernel {
    pub(crate) fn load(object: &[u8]) -> Self {
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        let frontends = TABLES.len() as u32;
        for (name, size) in [
            ("FRONTEND_LIST", frontends),
            ("TABLES", frontends),
            ("TABLES_SIZED", frontends),
            ("FRONTEND_STATS", frontends),
            ("BACKENDS", BACKENDS),
            ("BACKEND_STATS", BACKENDS),
            ("FLOWS4", FLOWS),
            ("FLOWS6", FLOWS),
            ("REVERSE4", FLOWS),
            ("REVERSE6", FLOWS),
            ("HALF4", FLOWS),
            ("HALF6", FLOWS),
            ("NAT4", FLOWS),
            ("NAT6", FLOWS),
            ("STRAYS4", FLOWS),
            ("STRAYS6", FLOWS),
        ] {
            loader.map_max_entries(name, size);
        }
        let mut programs = loader.load(object).expect("the object is read (root needed)");
        xdp(&mut programs).load().expect("the verifier takes kube_vip_xdp");
        egress(&mut programs).load().expect("the verifier takes kube_vip_egress");
        type Outer = ArrayOfMaps<MapData, Array<MapData, Line>>;
        let [mut usual, mut sized]: [Outer; 2] =
            ["TABLES", "TABLES_SIZED"].map(|name| take(&mut programs, name));
        let tables = (0..).zip(TABLES).map(|(id, slots)| {
            let (outer, lines, flags) = match slots as u32 {
                USUAL_SLOTS => (&mut usual, USUAL_LINES, 0),
                _ => (&mut sized, lines(slots, LOCALS), INNER_MAP),
            };
            let table = Array::create(lines, flags).expect("a table is made");
            if slots > 0 {
                outer.set(id, &table, 0).expect("a table is put into its outer map");
            }
            table
        });
        let tables = tables.collect();
        let p = &mut programs;
        let mut kernel = Self {
            filter: take(p, "FILTER"),
            vips: take(p, "VIPS"),
            leases: take(p, "LEASES"),
            frontends: take(p, "FRONTENDS"),
            places: take(p, "FRONTEND_IDS"),
            listed: take(p, "FRONTEND_LIST"),
            tables,
            backends: take(p, "BACKENDS"),
            nodes: take(p, "NODES"),
            peers: take(p, "PEERS"),
            peer_ips: take(p, "PEER_IPS"),
            uplinks: take(p, "UPLINKS"),
            settings: take(p, "SETTINGS"),
            stats: take(p, "STATS"),
            frontend_stats: take(p, "FRONTEND_STATS"),
            backend_stats: take(p, "BACKEND_STATS"),
            events: take(p, "EVENTS"),
            event_times: take(p, "EVENT_TIMES"),
            flows4: take(p, "FLOWS4"),
            fragments: take(p, "FRAGS"),
            flows6: take(p, "FLOWS6"),
            reverse4: take(p, "REVERSE4"),
            reverse6: take(p, "REVERSE6"),
            half4: take(p, "HALF4"),
            half6: take(p, "HALF6"),
            nat4: take(p, "NAT4"),
            nat6: take(p, "NAT6"),
            strays4: take(p, "STRAYS4"),
            strays6: take(p, "STRAYS6"),
            nat_ports: take(p, "NAT_PORTS"),
            written: Configuration::default(),
            served: BTreeSet::new(),
            out: Vec::new(),
            programs,
        };
        // The program keeps the outer maps.
        drop((usual, sized));
        kernel.write_table(0, &host::Table { slots: vec![], locals: vec![], settling: false });
        kernel
    }

    /// A frame arrives.
    pub(crate) fn arrive(&mut self, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let program = xdp(&mut self.programs);
        let (value, out) = run(&mut self.out, frame, |options| program.test_run(options));
        let verdict = match value {
            1 => Verdict::Drop,
            2 => Verdict::Pass,
            3 => Verdict::Transmit,
            4 => Verdict::Redirect,
            other => panic!("XDP verdict {other}"),
        };
        (verdict, out)
    }

    /// A frame leaves.
    pub(crate) fn leave(&mut self, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let program = egress(&mut self.programs);
        let (value, out) = run(&mut self.out, frame, |options| program.test_run(options));
        let verdict = match value.cast_signed() {
            -1 => Verdict::Pass,
            2 => Verdict::Drop,
            other => panic!("TC verdict {other}"),
        };
        (verdict, out)
    }

    /// Brings the maps to that configuration.
    pub(crate) fn configure(&mut self, new: &Configuration) {
        let old = std::mem::replace(&mut self.written, new.clone());
        for address in old.vips.keys().filter(|address| !new.vips.contains_key(address)) {
            self.vips.remove(&Address::from(*address)).expect("VIPS");
        }
        for (address, vip) in changed(&old.vips, &new.vips) {
            self.vips.insert(Address::from(*address), vip_of(vip), 0).expect("VIPS");
        }
        if old.leases != new.leases {
            for index in 0..LEASES {
                let lease = new.leases.get(index).copied().unwrap_or_default();
                self.leases.set(index as u32, lease_of(lease), 0).expect("LEASES");
            }
        }
        for port in old.frontends.keys() {
            self.places.set(place(key(port).words()), 0, 0).expect("FRONTEND_IDS");
            if !new.frontends.contains_key(port) {
                self.frontends.remove(&key(port)).expect("FRONTENDS");
            }
        }
        for (port, frontend) in &new.frontends {
            let (key, frontend) = (key(port), frontend_of(frontend));
            if old.frontends.get(port) != new.frontends.get(port) {
                self.frontends.insert(key, frontend, 0).expect("FRONTENDS");
            }
            // Some are found in the hash only.
            if frontend.id % 3 != 0 {
                self.listed.set(frontend.id, Listed { key, frontend }, 0).expect("FRONTEND_LIST");
                self.places.set(place(key.words()), frontend.id + 1, 0).expect("FRONTEND_IDS");
            }
        }
        for (id, table) in changed(&old.tables, &new.tables) {
            self.write_table(*id, table);
        }
        for id in old.backends.keys().filter(|id| !new.backends.contains_key(id)) {
            self.backends.set(*id, backend::Backend::default(), 0).expect("BACKENDS");
        }
        for (id, backend) in changed(&old.backends, &new.backends) {
            self.backends.set(*id, backend_of(backend), 0).expect("BACKENDS");
        }
        for id in old.nodes.keys().filter(|id| !new.nodes.contains_key(id)) {
            self.nodes.set(*id, Node::default(), 0).expect("NODES");
        }
        for (id, node) in changed(&old.nodes, &new.nodes) {
            self.nodes.set(*id, node_of(*id, node), 0).expect("NODES");
        }
        for mac in old.peers.keys().filter(|mac| !new.peers.contains_key(*mac)) {
            self.peers.remove(&PeerKey::new(*mac)).expect("PEERS");
        }
        for (mac, node) in changed(&old.peers, &new.peers) {
            self.peers.insert(PeerKey::new(*mac), Peer { node: *node }, 0).expect("PEERS");
        }
        for address in old.peer_ips.keys().filter(|ip| !new.peer_ips.contains_key(*ip)) {
            self.peer_ips.remove(&Address::from(*address)).expect("PEER_IPS");
        }
        for (address, node) in changed(&old.peer_ips, &new.peer_ips) {
            let peer = Peer { node: *node };
            self.peer_ips.insert(Address::from(*address), peer, 0).expect("PEER_IPS");
        }
        if old.strays != new.strays {
            clear(&mut self.strays4);
            clear(&mut self.strays6);
            for (tuple, node) in &new.strays {
                let stray = Stray { node: *node };
                match tuple_of(tuple) {
                    Tuples::V4(key) => self.strays4.insert(key, stray, 0).expect("STRAYS4"),
                    Tuples::V6(key) => self.strays6.insert(key, stray, 0).expect("STRAYS6"),
                }
            }
        }
        match (old.uplink, new.uplink) {
            (old, new) if old == new => {}
            (_, Some(mac)) => {
                let uplink = Uplink { mac: MacAddress::new(mac), pad: [0; 2] };
                self.uplinks.insert(IFINDEX, uplink, 0).expect("UPLINKS");
            }
            (_, None) => self.uplinks.remove(&IFINDEX).expect("UPLINKS"),
        }
        let owns = new.vips.values().any(|vip| vip.owner == THIS);
        let settings = Settings {
            flags: if owns { TRANSLATES } else { 0 },
            closed_port: new.closed_port,
            probe_port: new.probe_port,
            digest: new.digest,
            ..Settings::default()
        };
        self.settings.set(0, settings, 0).expect("SETTINGS");
        let mut filter = Box::new(Filter::EMPTY);
        new.vips.keys().for_each(|ip| Bit::of_ip(*ip).set(&mut filter));
        self.filter.set(filter::ADDRESSES, *filter, 0).expect("FILTER");
        *filter = Filter::EMPTY;
        new.served.iter().for_each(|(ip, port)| Bit::of_ip(*ip).with_port(*port).set(&mut filter));
        self.filter.set(filter::BACKENDS, *filter, 0).expect("FILTER");
        let is_whole = |(ip, vip): &(&IpAddr, &host::Vip)| vip.is_virtual || balances(new, **ip);
        let whole = new.vips.iter().filter(is_whole).map(|(ip, _)| Bit::of_ip(*ip));
        let own = new.vips.iter().filter(|(_, vip)| vip.own && new.probe_port != 0);
        let probed = own.map(|(ip, _)| Bit::of_ip(*ip).with_port(new.probe_port));
        // As agents do: connections outlive their backends.
        self.served.extend(&new.served);
        let served = self.served.iter().map(|(ip, port)| Bit::of_ip(*ip).with_port(*port));
        whole.chain(probed).chain(served).for_each(|bit| bit.set(&mut filter));
        self.filter.set(filter::TRANSPORT, *filter, 0).expect("FILTER");
    }

    fn write_table(&mut self, id: u32, table: &host::Table) {
        if table.slots.is_empty() {
            return;
        }
        let slots = |slots: &[host::Slot]| -> Vec<Slot> {
            slots.iter().map(|slot| slot_of(*slot)).collect()
        };
        let past = |slot: &host::Slot| Past { nodes: slot.past.map(|node| node as u8) };
        let pasts: Vec<Past> = table.slots.iter().map(past).collect();
        let geometry = Geometry {
            slots: table.slots.len() as u32,
            locals: table.locals.len() as u32,
            histories: pasts.iter().any(|past| past.is_some()),
        };
        let empty = Line { slots: [Slot::NONE; SLOTS_PER_LINE as usize] };
        let mut all = vec![empty; geometry.lines() as usize];
        // The clock is never moved here: this is one second before.
        let changed = if table.settling { u32::MAX } else { 0 };
        let (slots, locals) = (slots(&table.slots), slots(&table.locals));
        geometry.write(&mut all, &slots, &locals, &pasts, changed);
        for (index, line) in (0..).zip(all) {
            self.tables[id as usize].set(index, line, 0).expect("a table");
        }
    }

    /// Forgets all flows and events.
    pub(crate) fn forget(&mut self) {
        self.served.clear();
        clear(&mut self.flows4);
        clear(&mut self.fragments);
        clear(&mut self.flows6);
        clear(&mut self.reverse4);
        clear(&mut self.reverse6);
        clear(&mut self.half4);
        clear(&mut self.half6);
        clear(&mut self.nat4);
        clear(&mut self.nat6);
        self.nat_ports.set(0, 0, 0).expect("NAT_PORTS");
        for kind in 0..KINDS as u32 {
            self.event_times.set(kind, EventTime { time: 0 }, 0).expect("EVENT_TIMES");
        }
        while self.events.next().is_some() {}
    }

    /// What the programs remember, without counters.
    pub(crate) fn memory(&self) -> Memory {
        let mut memory = Memory::default();
        for (map, into) in [
            (&self.flows4, &mut memory.flows),
            (&self.reverse4, &mut memory.replies),
            (&self.half4, &mut memory.half),
        ] {
            into.extend(map.iter().map(|entry| v4_of(entry.expect("a flow"))));
        }
        for (map, into) in [
            (&self.flows6, &mut memory.flows),
            (&self.reverse6, &mut memory.replies),
            (&self.half6, &mut memory.half),
        ] {
            into.extend(map.iter().map(|entry| v6_of(entry.expect("a flow"))));
        }
        memory
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for reason in Reason::ALL {
            let values = self.stats.get(&(*reason as u32), 0).expect("STATS");
            let sum = values.iter().map(|count| count.packets).sum();
            counts.reasons.insert(*reason, sum);
        }
        let sum = |traffic: &[Traffic]| -> host::Traffic {
            traffic.iter().fold((0, 0), |(p, b), t| (p + t.packets, b + t.bytes))
        };
        for id in 0..TABLES.len() as u32 {
            let values = self.frontend_stats.get(&id, 0).expect("FRONTEND_STATS");
            counts.arrived.insert(id, sum(&values));
        }
        for id in 0..BACKENDS {
            let values = self.backend_stats.get(&id, 0).expect("BACKEND_STATS");
            let [sent, replies]: [Vec<Traffic>; 2] = [
                values.iter().map(|traffic| traffic.sent).collect(),
                values.iter().map(|traffic| traffic.replies).collect(),
            ];
            counts.sent.insert(id, sum(&sent));
            counts.replied.insert(id, sum(&replies));
        }
        counts
    }

    /// The events since the last call.
    pub(crate) fn events(&mut self) -> Vec<Conflict> {
        let mut events = Vec::new();
        while let Some(event) = self.events.next() {
            // As `kube_vip_common::event::Event` lies in memory.
            let [kind, interface] =
                [8, 12].map(|at| u32::from_ne_bytes(*event[at..].first_chunk().expect("a word")));
            let address = Address { octets: *event[16..].first_chunk().expect("an address") };
            let mac: Mac = *event[32..].first_chunk().expect("a MAC address");
            assert_eq!(interface, IFINDEX, "an event's interface");
            let by_nd = kind == ND_CONFLICT;
            events.push(Conflict { by_nd, address: address.to_ip(), mac });
        }
        events
    }
}

impl Counts {
    /// What was counted since then; zeros are left out.
    pub(crate) fn since(&self, before: &Self) -> Self {
        fn less<K: Ord + Copy>(
            now: &BTreeMap<K, host::Traffic>,
            before: &BTreeMap<K, host::Traffic>,
        ) -> BTreeMap<K, host::Traffic> {
            let less = now.iter().map(|(key, (packets, bytes))| {
                let (p, b) = before.get(key).copied().unwrap_or_default();
                (*key, (packets - p, bytes - b))
            });
            less.filter(|(_, traffic)| *traffic != (0, 0)).collect()
        }
        let reasons = self.reasons.iter().map(|(reason, count)| {
            (*reason, count - before.reasons.get(reason).copied().unwrap_or(0))
        });
        Self {
            reasons: reasons.filter(|(_, count)| *count > 0).collect(),
            arrived: less(&self.arrived, &before.arrived),
            sent: less(&self.sent, &before.sent),
            replied: less(&self.replied, &before.replied),
        }
    }
}

fn xdp(programs: &mut Ebpf) -> &mut Xdp {
    let program = programs.program_mut("kube_vip_xdp").expect("the object has an XDP program");
    program.try_into().expect("it is one for XDP")
}

fn egress(programs: &mut Ebpf) -> &mut SchedClassifier {
    let program = programs.program_mut("kube_vip_egress").expect("the object has a TC program");
    program.try_into().expect("it is one for TC")
}

fn run<E: std::fmt::Debug>(
    out: &mut Vec<u8>,
    frame: &[u8],
    test_run: impl FnOnce(TestRunOptions<'_>) -> Result<TestRunResult, E>,
) -> (u32, Vec<u8>) {
    out.resize(frame.len() + 256, 0);
    let options =
        TestRunOptions { data_in: Some(frame), data_out: Some(out), ..Default::default() };
    let result = test_run(options).expect("test run");
    (result.return_value, out[..result.data_size_out as usize].to_vec())
}

fn lines(slots: usize, locals: usize) -> u32 {
    Geometry { slots: slots as u32, locals: locals as u32, histories: true }.lines()
}

/// Entries that are new or other than before.
fn changed<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    new.iter().filter(|(key, value)| old.get(key) != Some(value))
}

fn clear<K: aya::Pod, V: aya::Pod>(map: &mut HashMap<MapData, K, V>) {
    let keys: Vec<K> = map.keys().map(|key| key.expect("a key")).collect();
    keys.iter().for_each(|key| map.remove(key).expect("it is there"));
}

/// Whether any port of this address is balanced.
fn balances(new: &Configuration, ip: IpAddr) -> bool {
    new.frontends.keys().any(|(address, ..)| *address == ip)
}

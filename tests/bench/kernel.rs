//! The programs under measurement, loaded, with a configuration of some size in their maps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use kube_vip::config::{Affinity, Limits, Protocol, TableSize};
use kube_vip::dataplane::{LEASE, Mirror, Object};
use kube_vip::plan::{Backend, DataPlane, Frontend, Grant, Node, Vip, Way};
use kube_vip::view::Mac;
use kube_vip_common::address::MacAddress;
use kube_vip_common::node::Uplink;

use crate::frames::{Original, original};
use crate::measure::cpu_time;

/// Interface that test runs arrive on: the loopback of the namespace.
pub(crate) const IFINDEX: u32 = 1;

pub(crate) const HOST: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub(crate) const CLIENT: Mac = Mac([2, 0, 0, 0, 0, 0xc1]);

/// Virtual addresses of each family, each with a balanced port; as many as the prototypes had.
const VIPS: u16 = 400;
const BACKENDS: u8 = 10;
const PEERS: u8 = 3;

/// The ports of the first virtual address, by what becomes of their packets.
pub(crate) mod port {
    pub(crate) const FORWARD: u16 = 80;
    pub(crate) const FORWARD_LARGE: u16 = 81;
    pub(crate) const DELIVER: u16 = 82;
    /// One backend only, so that it is known where the replies come from.
    pub(crate) const DELIVER_ONE: u16 = 83;
    pub(crate) const BACKEND: u16 = 8080;
}

pub(crate) const LIMITS: Limits = Limits { frontends: 1024, backends: 8192, flows: 65536 };

/// `host` in this host's network.
pub(crate) fn address(v6: bool, network: u8, host: u16) -> IpAddr {
    let [high, low] = host.to_be_bytes();
    if v6 {
        Ipv6Addr::new(0xfd00, 0, 0, network.into(), 0, 0, 0, host).into()
    } else {
        Ipv4Addr::new(10, network, high, low).into()
    }
}

pub(crate) fn client(v6: bool) -> IpAddr {
    address(v6, 1, 8)
}

pub(crate) fn vip(v6: bool) -> IpAddr {
    address(v6, 2, 0x101)
}

pub(crate) fn peer(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 1, number])
}

/// Backend 0 is on this host, and so are those that are asked for there.
pub(crate) fn backend(v6: bool, number: u8) -> SocketAddr {
    SocketAddr::new(address(v6, 3, number.into()), port::BACKEND)
}

/// Which program is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hook {
    Xdp,
    Egress,
}

/// What of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Variant {
    /// Nothing.
    Floor,
    /// Only what makes the frame what it was.
    Null,
    /// The program, then that.
    Run,
    /// The program as the agent loads it.
    Plain,
}

pub(crate) fn program(hook: Hook, variant: Variant) -> &'static str {
    match (hook, variant) {
        (Hook::Xdp, Variant::Floor) => "floor_xdp",
        (Hook::Xdp, Variant::Null) => "null_xdp",
        (Hook::Xdp, Variant::Run) => "run_xdp",
        (Hook::Xdp, Variant::Plain) => "kube_vip_xdp",
        (Hook::Egress, Variant::Floor) => "floor_egress",
        (Hook::Egress, Variant::Null) => "null_egress",
        (Hook::Egress, Variant::Run) => "run_egress",
        (Hook::Egress, Variant::Plain) => "kube_vip_egress",
    }
}

/// What became of a frame.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// By the kernel's number.
    pub(crate) verdict: u32,
    pub(crate) frame: Vec<u8>,
}

pub(crate) struct Kernel {
    pub(crate) object: Object,
    original: Array<MapData, Original>,
}

impl Kernel {
    pub(crate) fn load() -> Result<Self> {
        let directory = std::env::var_os("KUBE_VIP_BPF_DIR").map_or_else(
            || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf")),
            PathBuf::from,
        );
        let path = directory.join("bench.o");
        let bytes = std::fs::read(&path)
            .with_context(|| format!("reading {} (cargo xtask build-ebpf)", path.display()))?;
        let mut object = Object::load_from(&bytes, &LIMITS, None).context("loading bench.o")?;
        for variant in [Variant::Floor, Variant::Null, Variant::Run] {
            xdp(&mut object, variant)?.load()?;
            egress(&mut object, variant)?.load()?;
        }
        let own = Uplink { mac: MacAddress(HOST.0), pad: [0; 2] };
        object.maps.uplinks.insert(IFINDEX, own, 0)?;
        let grant = Some(Grant { epoch: 1, forever: false });
        object.maps.fence()?.grant(LEASE, grant, Duration::from_secs(3600))?;
        Mirror::new(&object.maps, &LIMITS)?.apply(&mut object.maps, &configuration(), 0)?;
        let original = object.programs.take_map("ORIGINAL").context("bench.o has no ORIGINAL")?;
        Ok(Self { object, original: original.try_into()? })
    }

    /// Has these programs make their frame this one again, for so many flows.
    pub(crate) fn set(&mut self, frame: &[u8], flows: u32) -> Result<()> {
        ensure!(flows.is_power_of_two(), "{flows} flows are no power of two");
        Ok(self.original.set(0, original(frame, flows), 0)?)
    }

    /// Runs a program `repeat` times and returns how long one took, in nanoseconds.
    pub(crate) fn time(
        &mut self,
        hook: Hook,
        variant: Variant,
        frame: &[u8],
        repeat: u32,
    ) -> Result<f64> {
        let start = cpu_time()?;
        self.test(hook, variant, TestRunOptions {
            data_in: Some(frame),
            repeat,
            ..TestRunOptions::default()
        })?;
        Ok((cpu_time()? - start).as_secs_f64() * 1e9 / f64::from(repeat))
    }

    /// Runs a program once.
    pub(crate) fn once(&mut self, hook: Hook, variant: Variant, frame: &[u8]) -> Result<Outcome> {
        let mut out = vec![0; frame.len()];
        let (verdict, length) = self.test(hook, variant, TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        })?;
        out.truncate(length as usize);
        Ok(Outcome { verdict, frame: out })
    }

    fn test(
        &mut self,
        hook: Hook,
        variant: Variant,
        options: TestRunOptions<'_>,
    ) -> Result<(u32, u32)> {
        let result = match hook {
            Hook::Xdp => xdp(&mut self.object, variant)?.test_run(options),
            Hook::Egress => egress(&mut self.object, variant)?.test_run(options),
        };
        let result = result.with_context(|| format!("running {}", program(hook, variant)))?;
        Ok((result.return_value, result.data_size_out))
    }
}

fn xdp(object: &mut Object, variant: Variant) -> Result<&mut Xdp> {
    let name = program(Hook::Xdp, variant);
    Ok(object.programs.program_mut(name).context(name)?.try_into()?)
}

fn egress(object: &mut Object, variant: Variant) -> Result<&mut SchedClassifier> {
    let name = program(Hook::Egress, variant);
    Ok(object.programs.program_mut(name).context(name)?.try_into()?)
}

fn configuration() -> DataPlane {
    let vip_of = || Vip { host_address: false, held: true, grant: None, owner: None };
    let mut desired = DataPlane::default();
    let node = |local, mac, host| Node {
        local,
        hop: Some((mac, IFINDEX)),
        addresses: vec![address(false, 0, host), address(true, 0, host)],
    };
    desired.nodes.insert("here".to_owned(), node(true, HOST, 1));
    for number in 1..=PEERS {
        let peer = node(false, peer(number), 10 + u16::from(number));
        desired.nodes.insert(format!("peer{number}"), peer);
    }
    for v6 in [false, true] {
        for number in 0..VIPS {
            let address = address(v6, 2, 0x101 + number);
            desired.vips.insert(address, vip_of());
            let key = (address, port::FORWARD, Protocol::Tcp);
            desired.frontends.insert(key, frontend(v6, TableSize::default(), elsewhere()));
        }
        for (port, size, backends) in [
            (port::FORWARD_LARGE, TableSize::S65537, elsewhere()),
            (port::DELIVER, TableSize::default(), here(BACKENDS)),
            (port::DELIVER_ONE, TableSize::default(), here(1)),
        ] {
            let key = (vip(v6), port, Protocol::Tcp);
            desired.frontends.insert(key, frontend(v6, size, backends));
        }
    }
    desired
}

/// Numbers of backends with the node each is on.
type Backends = Vec<(u8, String, Way)>;

fn here(count: u8) -> Backends {
    (0..count).map(|number| (number, "here".to_owned(), Way::Here)).collect()
}

fn elsewhere() -> Backends {
    let peer = |number| format!("peer{}", 1 + number % PEERS);
    (0..BACKENDS).map(|number| (100 + number, peer(number), Way::Peer)).collect()
}

fn frontend(v6: bool, size: TableSize, backends: Backends) -> Frontend {
    let backends: BTreeMap<_, _> = backends
        .into_iter()
        .map(|(number, node, way)| {
            (backend(v6, number), Backend { node: Some(node), weight: 1, way })
        })
        .collect();
    let (name, affinity) = ("measured".to_owned(), Affinity::None);
    Frontend { name, size, affinity, seed: 7, host_address: false, backends }
}

//! Real frames through real interfaces, on one core.
//!
//! A program makes frames at one end of a veth (`BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18), what is
//! measured sends them back from the other end, and they end where they began. All of it runs on one
//! CPU, so a rate is one over the time of making, sending on and receiving together: ratios between
//! rates are smaller than those between the programs alone.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::xdp::XdpMode;
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use kube_vip::dataplane::{Mirror, Object};
use kube_vip_common::address::MacAddress;
use kube_vip_common::node::Uplink;
use kube_vip_common::stats::Count;
use lab::Lab;
use nix::net::if_::if_nametoindex;

use crate::frames::{Original, datagram, original};
use crate::kernel::object_bytes;
use crate::measure::pin;
use crate::progress;
use crate::report::Row;
use crate::setup::{CLIENT, HOST, LIMITS, client, configuration_on, forwarded, port, vip};

/// Frames made before they are handed on: a quarter of what a veth has room for.
const BATCH: u32 = 64;
/// Fewest and most frames of one call.
const CALL: u32 = 64 * BATCH;
const MOST_AT_ONCE: u32 = 1 << 24;

/// Where frames are made and end, and where they are sent on.
const GENERATOR: &str = "n1";
const XDP_HOST: &str = "n2";
const NFT_HOST: &str = "n3";

const FEW: u32 = 1;
const MANY: u32 = 65_536;
const MOST: u32 = 1_048_576;

/// What sends frames on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Device {
    /// `XDP_TX` and nothing else.
    Bounce,
    Native,
    Generic,
    Nftables,
}

impl Device {
    const ALL: [Self; 4] = [Self::Bounce, Self::Native, Self::Generic, Self::Nftables];

    fn host(self) -> &'static str {
        if self == Self::Nftables { NFT_HOST } else { XDP_HOST }
    }

    /// The ends of its veth: the generator's and its own.
    fn ends(self) -> (&'static str, &'static str) {
        match self {
            Self::Bounce => ("make0", "bounce"),
            Self::Native => ("make1", "native"),
            Self::Generic => ("make2", "generic"),
            Self::Nftables => ("make3", "nft"),
        }
    }
}

/// One measurement.
struct Line {
    what: &'static str,
    device: Device,
    flows: u32,
    /// Millions of frames a second, round by round.
    rates: Vec<f64>,
}

/// How often and how long.
pub(crate) struct Plan {
    pub(crate) samples: u32,
    pub(crate) each: Duration,
}

impl Plan {
    pub(crate) fn new(quick: bool) -> Self {
        if quick {
            Self { samples: 3, each: Duration::from_millis(60) }
        } else {
            Self { samples: 9, each: Duration::from_millis(250) }
        }
    }
}

pub(crate) fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let lab = Lab::bridge(3, 0)?;
    for device in Device::ALL {
        let (near, far) = device.ends();
        lab.cable((GENERATOR, near), (device.host(), far))?;
    }
    prepare_nftables(&lab)?;
    let bounce = Program::attach(&lab, Device::Bounce, "bounce_xdp", XdpMode::Driver)?;
    let native = Program::attach(&lab, Device::Native, "kube_vip_xdp", XdpMode::Driver)?;
    let generic = Program::attach(&lab, Device::Generic, "kube_vip_xdp", XdpMode::Skb)?;
    let rows = lab.host(GENERATOR).in_net(|| {
        let cpu = pin()?;
        let mut generator = Generator::new("sink_xdp", &Device::ALL.map(|one| one.ends().0))?;
        let mut lines = lines();
        for sample in 1..=plan.samples {
            progress(&format!("live frames: sample {sample} of {} on CPU {cpu}", plan.samples));
            for line in &mut lines {
                let rate = generator.rate(line.device.ends().0, line.flows, plan.each);
                line.rates.push(rate.with_context(|| line.what)?);
            }
        }
        Ok(rows(&lines))
    })?;
    drop((bounce, native, generic));
    Ok(rows)
}

fn lines() -> Vec<Line> {
    let line = |what, device, flows| Line { what, device, flows, rates: Vec::new() };
    vec![
        line("bare XDP_TX", Device::Bounce, MANY),
        line("forward to a peer", Device::Native, FEW),
        line("forward to a peer, 65536 flows", Device::Native, MANY),
        line("forward to a peer, 1048576 flows", Device::Native, MOST),
        line("forward to a peer in generic mode, 65536 flows", Device::Generic, MANY),
        line("nftables DNAT to 10 backends, 65536 flows", Device::Nftables, MANY),
    ]
}

fn rows(lines: &[Line]) -> Vec<Row> {
    let [bare, few, many, most, generic, nftables] = lines else { return Vec::new() };
    // Each round's figures by each other: a machine that is slow for a while is slow for all.
    let ratio = |what: &str, one: &Line, other: &Line| {
        let rounds = one.rates.iter().zip(&other.rates).map(|(one, other)| one / other);
        Row::of(what, "×", &rounds.collect())
    };
    let rate = |line: &Line| Row::of(line.what, "Mpps", &line.rates.iter().copied().collect());
    let mut rows: Vec<_> = lines.iter().map(rate).collect();
    rows.extend([
        ratio("forward ÷ bare XDP_TX, 65536 flows", many, bare).at_least(0.85),
        ratio("forward ÷ nftables DNAT, 65536 flows", many, nftables).at_least(8.0),
        ratio("forward in generic mode ÷ nftables DNAT", generic, nftables).at_least(3.0),
        ratio("time of 1048576 flows ÷ time of one", few, most).at_most(1.8),
    ]);
    rows
}

/// A program where frames are sent on; detached with its object.
struct Program(#[expect(dead_code, reason = "dropping it detaches the program")] Object);

impl Program {
    fn attach(lab: &Lab, device: Device, name: &str, mode: XdpMode) -> Result<Self> {
        let (_, interface) = device.ends();
        lab.host(device.host()).in_net(|| {
            let ifindex = if_nametoindex(interface).with_context(|| interface.to_owned())?;
            Ok(Self(attached(name, ifindex, mode)?))
        })
    }
}

/// The measuring programs, one of them attached to that interface, all hosts being behind it.
pub(crate) fn attached(name: &str, ifindex: u32, mode: XdpMode) -> Result<Object> {
    let mut object =
        Object::load_from(&object_bytes()?, &LIMITS, None).context("loading bench.o")?;
    let own = Uplink { mac: MacAddress::new(HOST.0), pad: [0; 2] };
    object.maps.uplinks.insert(ifindex, own, 0)?;
    Mirror::new(&object.maps, &LIMITS)?.apply(&mut object.maps, &configuration_on(ifindex), 0)?;
    let program: &mut Xdp = object.programs.program_mut(name).context("no program")?.try_into()?;
    if program.fd().is_err() {
        program.load()?;
    }
    program.attach_to_if_index(ifindex, mode).with_context(|| format!("attaching {name}"))?;
    Ok(object)
}

/// Makes frames, and counts those that come back.
pub(crate) struct Generator {
    programs: aya::Ebpf,
    original: Array<MapData, Original>,
    live: PerCpuArray<MapData, Count>,
}

impl Generator {
    /// With a program that receives at each of these interfaces, in the network of the calling
    /// thread.
    pub(crate) fn new(sink: &str, interfaces: &[&str]) -> Result<Self> {
        let Object { mut programs, .. } = Object::load_from(&object_bytes()?, &LIMITS, None)?;
        let program: &mut Xdp = programs.program_mut(sink).context("no sink")?.try_into()?;
        program.load()?;
        for interface in interfaces {
            let ifindex = if_nametoindex(*interface)?;
            program.attach_to_if_index(ifindex, XdpMode::Driver).context("attaching the sink")?;
        }
        let program: &mut Xdp = programs.program_mut("generate_xdp").context("none")?.try_into()?;
        program.load()?;
        let mut map = |name| programs.take_map(name).with_context(|| format!("no map {name}"));
        let (original, live) = (map("ORIGINAL")?.try_into()?, map("LIVE")?.try_into()?);
        Ok(Self { programs, original, live })
    }

    /// Says of what the frames are made.
    pub(crate) fn set(&mut self, frame: &[u8], flows: u32) -> Result<()> {
        Ok(self.original.set(0, original(frame, flows, 0), 0)?)
    }

    /// Sends so many frames out of an interface of the calling thread's network.
    pub(crate) fn send(&mut self, ifindex: u32, frame: &[u8], count: u32) -> Result<()> {
        let program: &mut Xdp =
            self.programs.program_mut("generate_xdp").context("none")?.try_into()?;
        let context = context(ifindex, frame.len() as u32);
        program.test_run(TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            repeat: count,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::default()
        })?;
        Ok(())
    }

    /// Frames that have come back so far.
    pub(crate) fn arrived(&self) -> Result<u64> {
        let per_cpu = self.live.get(&1, 0)?;
        Ok(per_cpu.iter().map(|count| count.packets).sum())
    }

    /// Millions of frames a second that come back from behind an interface.
    fn rate(&mut self, interface: &str, flows: u32, each: Duration) -> Result<f64> {
        let frame = forwarded_frame()?;
        self.set(&frame, flows)?;
        let ifindex = if_nametoindex(interface)?;
        // A call has a cost of its own, so one that takes long enough is what counts; those before
        // it warm flow tables and caches.
        let mut count = CALL.max(flows.min(MANY));
        let (arrived, seconds) = loop {
            let (before, start) = (self.arrived()?, Instant::now());
            self.send(ifindex, &frame, count)?;
            let time = start.elapsed();
            let arrived = self.arrived()? - before;
            ensure!(
                arrived * 10 > u64::from(count) * 9,
                "of {count} frames only {arrived} came back"
            );
            if time >= each {
                break (arrived, time.as_secs_f64());
            }
            count = count.saturating_mul(2).min(MOST_AT_ONCE);
        };
        Ok(arrived as f64 / seconds / 1e6)
    }
}

/// `struct xdp_md` (linux/bpf.h) of a frame that arrives at an interface.
fn context(ifindex: u32, length: u32) -> [u8; 24] {
    let mut context = [0; 24];
    // data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
    context[4..8].copy_from_slice(&length.to_ne_bytes());
    context[12..16].copy_from_slice(&ifindex.to_ne_bytes());
    context
}

/// A client's datagram to the port that is balanced over other hosts' backends.
pub(crate) fn forwarded_frame() -> Result<Vec<u8>> {
    let (IpAddr::V4(client), IpAddr::V4(vip)) = (client(false), vip(false)) else {
        bail!("the addresses are IPv6");
    };
    Ok(datagram((CLIENT, HOST), (client, 40_000), (vip, port::FORWARD)))
}

/// What balances where there is no kube-vip: the same backends, by connection tracking.
fn prepare_nftables(lab: &Lab) -> Result<()> {
    let host = lab.host(NFT_HOST);
    let (_, link) = Device::Nftables.ends();
    let backends = forwarded(false);
    let mut batch = format!(
        "link set {link} address {HOST}\nroute add 10.1.0.0/16 dev {link}\n\
         route add 10.3.0.0/16 dev {link}\n"
    );
    let mut map = Vec::new();
    for (number, (backend, mac)) in backends.iter().enumerate() {
        let ip = backend.ip();
        batch += &format!("neigh replace {ip} lladdr {mac} nud permanent dev {link}\n");
        map.push(format!("{number} : {ip} . {}", backend.port()));
    }
    host.feed(&["ip", "-batch", "-"], &batch)?;
    host.sysctl(&[
        ("net.ipv4.conf.all.send_redirects", "0"),
        (&format!("net.ipv4.conf.{link}.send_redirects"), "0"),
    ])?;
    let (vip, count) = (vip(false), backends.len());
    let from = port::FORWARD;
    let rules = format!(
        "table ip bench {{\n chain balance {{\n  type nat hook prerouting priority dstnat;\n  \
         ip daddr {vip} udp dport {from} dnat ip addr . port to numgen inc mod {count} map {{ {} }}\n \
         }}\n}}\n",
        map.join(", ")
    );
    host.feed(&["nft", "-f", "-"], &rules)
}

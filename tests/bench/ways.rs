//! The ways through the programs that are measured.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};

use crate::frames::{ACK, SYN, Segment, arp_request, tunnelled};
use crate::kernel::{Hook, Kernel, Variant, program};
use crate::measure::{Samples, pin};
use crate::progress;
use crate::report::{Row, Target};
use crate::setup::{BACKENDS, CLIENT, FAR, HERE, HOST, address, backend, client, peer, port, vip};

/// TTL that marks a frame from an agent (`kube_vip_common::mark`).
const FROM_AGENT: u8 = kube_vip_common::mark::ttl(0);

const PASS: u32 = 2;
const TRANSMIT: u32 = 3;
const NEXT: u32 = u32::MAX;

/// One way.
struct Way {
    name: &'static str,
    family: &'static str,
    flows: u32,
    hook: Hook,
    frame: Vec<u8>,
    /// What opens a connection for each flow before.
    open: Vec<(Hook, Vec<u8>)>,
    verdict: u32,
    /// The frame comes out changed, so it must be made anew for each run.
    changes: bool,
    /// Bytes that are taken off its head; less than 0 where some are put there.
    missing: i32,
    /// Most the raw time may be, as a multiple of the floor.
    target: Option<f64>,
    raw: Samples,
    /// Raw time as a multiple of the floor.
    ratio: Samples,
    /// The same without the wrapper.
    alone: Samples,
}

const FORWARD: &str = "forward to a peer";

const FEW: u32 = 1;
const MANY: u32 = 32_768;
const MOST: u32 = 524_288;
const EVERY: u32 = 1_048_576;

/// How often.
pub(crate) struct Plan {
    pub(crate) samples: u32,
    pub(crate) repeat: u32,
}

impl Plan {
    pub(crate) fn new(quick: bool) -> Self {
        if quick {
            Self { samples: 5, repeat: 200_000 }
        } else {
            Self { samples: 15, repeat: 500_000 }
        }
    }
}

/// Runs all ways in turn, again and again, so that what disturbs for a while disturbs all of them.
pub(crate) fn measure(plan: &Plan, only: Option<&str>) -> Result<Vec<Row>> {
    let cpu = pin()?;
    let mut kernel = Kernel::load()?;
    let mut ways = all();
    ways.retain(|way| only.is_none_or(|text| way.title().contains(text)));
    for way in &ways {
        way.check(&mut kernel).with_context(|| way.title())?;
    }
    let (mut xdp, mut egress) = (Samples::default(), Samples::default());
    for sample in 1..=plan.samples {
        progress(&format!("packets: sample {sample} of {} on CPU {cpu}", plan.samples));
        for way in &mut ways {
            let floor = way.sample(&mut kernel, plan.repeat)?;
            if way.hook == Hook::Xdp { xdp.add(floor) } else { egress.add(floor) }
        }
    }
    let mut rows = vec![
        Row::of("floor: an XDP program that does nothing", "ns", &xdp),
        Row::of("floor: a TC program that does nothing", "ns", &egress),
    ];
    rows.extend(ways.iter().map(Way::row));
    rows.extend(families(&ways));
    rows.extend(growth(&ways));
    Ok(rows)
}

/// How much dearer IPv6 is, for the ways that have a target.
fn families(ways: &[Way]) -> Vec<Row> {
    let is_v6 = |way: &&Way| way.family == "IPv6" && way.target.is_some();
    let pair = |v6: &Way| {
        let is_same = |v4: &&Way| v4.family == "IPv4" && (v4.name, v4.flows) == (v6.name, v6.flows);
        let v4 = ways.iter().find(is_same)?;
        let ratio = v6.ratio.median() / v4.ratio.median();
        let what = format!("IPv6 ÷ IPv4: {}", v6.title().replace("IPv6 ", ""));
        Some(Row::single(what, "×", ratio).at_most(1.3))
    };
    ways.iter().filter(is_v6).filter_map(pair).collect()
}

/// How much dearer a great many flows are than one, where nothing is remembered of them. The floor
/// is in both times, what the wrapper costs in neither.
fn growth(ways: &[Way]) -> Vec<Row> {
    let forward = |flows| {
        let is_it = move |way: &&Way| way.name == FORWARD && way.flows == flows;
        ways.iter().filter(is_it)
    };
    let pairs = forward(FEW).zip(forward(EVERY));
    let row = |(few, every): (&Way, &Way)| {
        let what = format!("{EVERY} flows ÷ one: {} {}", few.family, few.name);
        Row::single(what, "×", every.alone.median() / few.alone.median()).at_most(1.8)
    };
    pairs.map(row).collect()
}

/// All of them.
fn all() -> Vec<Way> {
    let mut ways = Vec::new();
    for v6 in [false, true] {
        let to_vip = |port, flags| Segment {
            link: (CLIENT, HOST),
            from: (client(v6), 40_000),
            to: (vip(v6), port),
            flags,
            ttl: 64,
        };
        let family = if v6 { "IPv6" } else { "IPv4" };
        let mut way = |name, flows, segment: Segment, verdict, target| {
            ways.push(Way {
                name,
                family,
                flows,
                hook: Hook::Xdp,
                frame: segment.frame(),
                open: Vec::new(),
                verdict,
                changes: true,
                missing: 0,
                target,
                raw: Samples::default(),
                ratio: Samples::default(),
                alone: Samples::default(),
            });
            ways.len() - 1
        };
        for (flows, target) in [(FEW, Some(2.5)), (MANY, None), (MOST, Some(3.6)), (EVERY, None)] {
            way(FORWARD, flows, to_vip(port::FORWARD, ACK), TRANSMIT, target);
        }
        let large = to_vip(port::FORWARD_LARGE, ACK);
        way("forward, table of 65537", MOST, large, TRANSMIT, Some(3.6));
        let mut opened = Vec::new();
        for (flows, target) in [(FEW, Some(4.0)), (MANY, Some(8.0))] {
            opened.push(way("deliver here", flows, to_vip(port::DELIVER, ACK), PASS, target));
        }
        let marked =
            Segment { link: (peer(1), HOST), ttl: FROM_AGENT, ..to_vip(port::DELIVER, ACK) };
        opened.push(way("deliver here for a peer", FEW, marked, PASS, None));
        for flows in [FEW, MOST] {
            way("new connection here", flows, to_vip(port::DELIVER, SYN), PASS, None);
        }
        let other = Segment { to: (address(v6, 0, 1), 80), ..to_vip(80, ACK) };
        let not_ours = way("not ours", FEW, other, PASS, Some(2.0));
        let reply = |from| Segment {
            link: (HOST, CLIENT),
            from,
            to: (client(v6), 40_000),
            ..to_vip(80, ACK)
        };
        let from_backend = (backend(v6, 0).ip(), port::BACKEND);
        let replies: Vec<_> =
            [FEW, MANY].map(|flows| way("reply", flows, reply(from_backend), NEXT, None)).into();
        let no_reply = way("no reply of ours", FEW, reply((address(v6, 0, 1), 22)), NEXT, None);

        let tunnel = way("into a tunnel", FEW, to_vip(port::TUNNEL, ACK), TRANSMIT, Some(3.6));
        let router =
            Segment { link: (peer(9), HOST), ttl: FROM_AGENT, ..to_vip(port::DELIVER, ACK) };
        let decapsulate = way("out of a tunnel, deliver here", FEW, router, PASS, Some(5.0));
        opened.push(decapsulate);

        let translated: Vec<_> = [(FEW, 4.6), (MANY, 11.0)]
            .map(|(flows, target)| {
                let segment = to_vip(port::NAT, ACK);
                way("translate for a host without agent", flows, segment, TRANSMIT, Some(target))
            })
            .into();

        let header = if v6 { 40 } else { 20 };
        (ways[tunnel].missing, ways[decapsulate].missing) = (-header, header);
        let (far, here) = (address(v6, 0, FAR), address(v6, 0, HERE));
        ways[decapsulate].frame = tunnelled(&ways[decapsulate].frame, far, here);
        // Whichever backend has a connection answers it; that of the others is nobody's.
        let handshake = |port, backends| {
            let answer = |number| {
                let from = (backend(v6, number).ip(), port::BACKEND);
                (Hook::Egress, Segment { flags: SYN | ACK, ..reply(from) }.frame())
            };
            let mut frames = vec![(Hook::Xdp, to_vip(port, SYN).frame())];
            frames.extend((0..backends).map(answer));
            frames.push((Hook::Xdp, to_vip(port, ACK).frame()));
            frames
        };
        for index in opened {
            ways[index].open = handshake(port::DELIVER, BACKENDS);
        }
        for index in translated {
            ways[index].open = vec![(Hook::Xdp, to_vip(port::NAT, SYN).frame())];
        }
        for index in &replies {
            ways[*index].open = handshake(port::DELIVER_ONE, 1);
        }
        for index in replies.into_iter().chain([no_reply]) {
            ways[index].hook = Hook::Egress;
        }
        for index in [not_ours, no_reply] {
            ways[index].changes = false;
        }
    }
    if let (IpAddr::V4(client), IpAddr::V4(vip)) = (client(false), vip(false)) {
        ways.push(Way {
            name: "request answered",
            family: "ARP",
            flows: FEW,
            hook: Hook::Xdp,
            frame: arp_request(CLIENT, client.octets(), vip.octets()),
            open: Vec::new(),
            verdict: TRANSMIT,
            changes: true,
            missing: 0,
            target: None,
            raw: Samples::default(),
            ratio: Samples::default(),
            alone: Samples::default(),
        });
    }
    ways
}

impl Way {
    fn title(&self) -> String {
        let flows = match self.flows {
            FEW => String::new(),
            flows => format!(", {flows} flows"),
        };
        format!("{} {}{flows}", self.family, self.name)
    }

    fn row(&self) -> Row {
        let mut row = Row::of(self.title(), "ns", &self.raw);
        row.ratio = Some(self.ratio.median());
        row.alone = Some(self.alone.median());
        row.target = self.target.map(Target::AtMost);
        row
    }

    /// What makes the frame what it was.
    fn wrapped(&self) -> Variant {
        if self.missing != 0 { Variant::Resized } else { Variant::Run }
    }

    /// Looks whether the frame takes this way at all.
    fn check(&self, kernel: &mut Kernel) -> Result<()> {
        self.prepare(kernel)?;
        let plain = kernel.once(self.hook, Variant::Plain, &self.frame)?;
        ensure!(
            plain.verdict == self.verdict && (plain.frame != self.frame) == self.changes,
            "{} said {}, not {}, and the frame came out {}",
            program(self.hook, Variant::Plain),
            plain.verdict,
            self.verdict,
            if plain.frame == self.frame { "unchanged" } else { "changed" },
        );
        let run = kernel.once(self.hook, self.wrapped(), &self.frame)?;
        ensure!(run.verdict == self.verdict, "run again it goes another way");
        Ok(())
    }

    /// Opens the connections the frames belong to.
    fn prepare(&self, kernel: &mut Kernel) -> Result<()> {
        for (hook, frame) in &self.open {
            kernel.set(frame, self.flows, 0)?;
            kernel.time(*hook, Variant::Run, frame, self.flows)?;
        }
        kernel.set(&self.frame, self.flows, self.missing)
    }

    /// Takes one sample more and returns the floor, which is measured right before and behind: a
    /// machine that is slow for a moment is slow for all of them.
    fn sample(&mut self, kernel: &mut Kernel, repeat: u32) -> Result<f64> {
        self.prepare(kernel)?;
        let mut time = |variant| kernel.time(self.hook, variant, &self.frame, repeat);
        let first = time(Variant::Floor)?;
        let wrapper = if self.changes { time(Variant::Null)? - first } else { 0.0 };
        let raw = time(if self.changes { self.wrapped() } else { Variant::Plain })?;
        let floor = f64::midpoint(first, time(Variant::Floor)?);
        self.raw.add(raw);
        self.ratio.add(raw / floor);
        self.alone.add((raw - wrapper) / floor);
        Ok(floor)
    }
}

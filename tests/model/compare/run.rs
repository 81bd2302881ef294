//! Runs a sequence through both and looks for a difference.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use kube_vip_common::stats::Reason;

use super::kernel::{self, Counts, Kernel};
use super::show;
use crate::generate::frame::{Body, Carries, Frame, Ip};
use crate::generate::world::{self, HOSTS};
use crate::generate::{Answer, Sequence, Step};
use crate::reference::host::Host;
use crate::reference::packet::{self, ACK, Content, Mac, SYN, TCP, Transport, UDP};
use crate::reference::{AGE, Conflict, Outcome, Verdict, arrive, leave};

/// Most hosts a frame visits in a run (`kube_vip_common::history`), and the answer's host once more.
const HOPS: usize = 8;

/// The hosts' programs.
pub(crate) struct Rig {
    kernels: Vec<Kernel>,
    /// Counters at the end of the last run.
    counted: Vec<Counts>,
    /// Run through both in all.
    pub(crate) packets: usize,
}

/// How far the two agreed.
#[derive(Debug, Default)]
pub(crate) struct Agreement {
    pub(crate) packets: usize,
    pub(crate) reasons: BTreeMap<Reason, u64>,
    pub(crate) verdicts: BTreeMap<&'static str, u64>,
}

/// Where they do not agree.
#[derive(Debug)]
pub(crate) struct Difference {
    /// Index of the step, or the number of steps where only sums differ.
    pub(crate) step: usize,
    pub(crate) text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Counters and flows are compared once, at the end.
    Sums,
    /// After each frame.
    Everything,
}

/// A frame on its way.
struct Travelling {
    host: usize,
    leaves: bool,
    bytes: Vec<u8>,
    answer: Answer,
    hops: usize,
}

impl Rig {
    pub(crate) fn new(object: &[u8]) -> Self {
        let kernels: Vec<_> = (0..HOSTS).map(|_| Kernel::load(object)).collect();
        let counted = kernels.iter().map(Kernel::counts).collect();
        Self { kernels, counted, packets: 0 }
    }

    /// Runs it; where sums differ, once more to see where.
    pub(crate) fn run(&mut self, sequence: &Sequence) -> Result<Agreement, Difference> {
        match self.run_at(sequence, Depth::Sums) {
            Err(difference) if difference.step == sequence.steps.len() => {
                self.run_at(sequence, Depth::Everything).and(Err(difference))
            }
            result => result,
        }
    }

    pub(crate) fn run_at(
        &mut self,
        sequence: &Sequence,
        depth: Depth,
    ) -> Result<Agreement, Difference> {
        let mut hosts = Vec::new();
        for (kernel, configuration) in self.kernels.iter_mut().zip(&sequence.hosts) {
            kernel.forget();
            kernel.configure(configuration);
            hosts.push(Host { is: configuration.clone(), ..Host::default() });
        }
        let mut run = Run {
            rig: self,
            hosts,
            said: vec![Said::default(); HOSTS],
            agreed: Agreement::default(),
        };
        let result = run.steps(sequence, depth);
        let agreed = run.agreed;
        // Whatever came of it, the next run counts from here.
        self.counted = self.kernels.iter().map(Kernel::counts).collect();
        result.map(|()| agreed)
    }
}

/// What the model said of a host in this run.
#[derive(Clone, Debug, Default)]
struct Said {
    reasons: BTreeMap<Reason, u64>,
    conflicts: Vec<Conflict>,
}

struct Run<'a> {
    rig: &'a mut Rig,
    hosts: Vec<Host>,
    said: Vec<Said>,
    agreed: Agreement,
}

impl Run<'_> {
    fn steps(&mut self, sequence: &Sequence, depth: Depth) -> Result<(), Difference> {
        for (index, step) in sequence.steps.iter().enumerate() {
            let at = |text| Difference { step: index, text };
            match step {
                Step::Configure { host, configuration } => {
                    self.rig.kernels[*host].configure(configuration);
                    self.hosts[*host].is = (**configuration).clone();
                }
                Step::Arrive { host, frame, answer } => {
                    let (host, answer) = (*host, *answer);
                    let first =
                        Travelling { host, leaves: false, bytes: frame.bytes(), answer, hops: 0 };
                    self.travel(first, depth).map_err(at)?;
                }
                Step::Leave { host, frame } => {
                    let (host, answer) = (*host, Answer::Nothing);
                    let first =
                        Travelling { host, leaves: true, bytes: frame.bytes(), answer, hops: 0 };
                    self.travel(first, depth).map_err(at)?;
                }
            }
        }
        let end = |text| Difference { step: sequence.steps.len(), text };
        (0..HOSTS).try_for_each(|host| self.sums(host)).map_err(end)?;
        (0..HOSTS).try_for_each(|host| self.events(host)).map_err(end)
    }

    /// A frame and what comes of it.
    fn travel(&mut self, first: Travelling, depth: Depth) -> Result<(), String> {
        let mut ways = VecDeque::from([first]);
        while let Some(frame) = ways.pop_front() {
            if frame.leaves && !kernel::can_leave(&frame.bytes) {
                continue;
            }
            let outcome = self.one(&frame)?;
            if depth == Depth::Everything {
                self.sums(frame.host).map_err(|text| {
                    format!("{}{text}", told(&frame, &outcome.verdict, &outcome.frame))
                })?;
            }
            let (host, answer, hops) = (frame.host, frame.answer, frame.hops + 1);
            if hops > HOPS {
                return Err(format!(
                    "it circles\n{}",
                    told(&frame, &outcome.verdict, &outcome.frame)
                ));
            }
            match outcome.verdict {
                Verdict::Transmit | Verdict::Redirect if !frame.leaves => {
                    let to: Mac = *outcome.frame.first_chunk().unwrap_or(&[0; 6]);
                    if let Some((next, bytes)) = received(to, outcome.frame) {
                        ways.push_back(Travelling {
                            host: next,
                            leaves: false,
                            bytes,
                            answer,
                            hops,
                        });
                    }
                }
                Verdict::Pass if outcome.delivered && answer != Answer::Nothing => {
                    if let Some(bytes) = answered(host, &outcome.frame, answer) {
                        let answer = Answer::Nothing;
                        ways.push_back(Travelling { host, leaves: true, bytes, answer, hops });
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn one(&mut self, frame: &Travelling) -> Result<Outcome, String> {
        let (host, kernel) = (&mut self.hosts[frame.host], &mut self.rig.kernels[frame.host]);
        let (verdict, out) =
            if frame.leaves { kernel.leave(&frame.bytes) } else { kernel.arrive(&frame.bytes) };
        host.age = age(&out).unwrap_or_default();
        let expected =
            if frame.leaves { leave(host, &frame.bytes) } else { arrive(host, &frame.bytes) };
        if expected.counted.contains(&Reason::ProbeAnswered) {
            is_about_now(host.age)?;
        }
        self.agreed.packets += 1;
        self.rig.packets += 1;
        let name = match (frame.leaves, verdict) {
            (false, Verdict::Drop) => "arriving, dropped",
            (false, Verdict::Pass) => "arriving, passed up",
            (false, Verdict::Transmit) => "arriving, sent back out",
            (false, Verdict::Redirect) => "arriving, sent out elsewhere",
            (true, Verdict::Drop) => "leaving, dropped",
            (true, _) => "leaving, on its way",
        };
        *self.agreed.verdicts.entry(name).or_default() += 1;
        let said = &mut self.said[frame.host];
        for reason in &expected.counted {
            *said.reasons.entry(*reason).or_default() += 1;
        }
        said.conflicts.extend(expected.conflict);
        // Of what is dropped nobody sees how far it had been changed.
        let same = verdict == Verdict::Drop || out == expected.frame;
        if verdict != expected.verdict || !same {
            let mut text = told(frame, &expected.verdict, &expected.frame);
            let _ = writeln!(text, "the model counts {:?}", expected.counted);
            let _ = writeln!(text, "the program says {verdict:?}{}", show::frame(&out));
            let _ = writeln!(text, "{}", show::first_difference(&expected.frame, &out));
            return Err(text);
        }
        Ok(expected)
    }

    /// Counters and flows of a host since the run began.
    fn sums(&mut self, host: usize) -> Result<(), String> {
        let (kernel, said) = (&self.rig.kernels[host], &self.said[host]);
        let mut counts = kernel.counts().since(&self.rig.counted[host]);
        // How many events a kind may have depends on the time; `events` looks at them.
        counts.reasons.remove(&Reason::EventSuppressed);
        let has = &self.hosts[host].has;
        let expected = Counts {
            reasons: said.reasons.clone(),
            arrived: has.arrived.clone(),
            sent: has.sent.clone(),
            replied: has.replied.clone(),
        };
        let memory = kernel.memory();
        let mut text = String::new();
        show::compare(&mut text, "counter", &expected.reasons, &counts.reasons);
        show::compare(&mut text, "frontend's traffic", &expected.arrived, &counts.arrived);
        show::compare(&mut text, "sent to backend", &expected.sent, &counts.sent);
        show::compare(&mut text, "replies of backend", &expected.replied, &counts.replied);
        show::compare(&mut text, "flow", &has.flows, &memory.flows);
        show::compare(&mut text, "reply", &has.replies, &memory.replies);
        show::compare(&mut text, "half-open", &has.half, &memory.half);
        if text.is_empty() {
            return Ok(());
        }
        Err(format!("host {host}, sums differ:\n{text}"))
    }

    /// One event of a kind in a tenth of a second: how many there are depends on how fast this
    /// machine is, but each is of a conflict that was, and the first one of a kind is told.
    fn events(&mut self, host: usize) -> Result<(), String> {
        let events = self.rig.kernels[host].events();
        let counts = self.rig.kernels[host].counts().since(&self.rig.counted[host]);
        let conflicts = &self.said[host].conflicts;
        let suppressed = counts.reasons.get(&Reason::EventSuppressed).copied().unwrap_or(0);
        for (reason, count) in
            self.said[host].reasons.iter().chain([(&Reason::EventSuppressed, &suppressed)])
        {
            *self.agreed.reasons.entry(*reason).or_default() += count;
        }
        let in_order = {
            let mut left = conflicts.iter();
            events.iter().all(|event| left.any(|conflict| conflict == event))
        };
        let first = |by_nd: bool| {
            let of_kind = |conflict: &&Conflict| conflict.by_nd == by_nd;
            events.iter().find(of_kind) == conflicts.iter().find(of_kind)
        };
        let all = events.len() as u64 + suppressed == conflicts.len() as u64;
        if in_order && first(true) && first(false) && all {
            return Ok(());
        }
        Err(format!(
            "host {host}, events differ:\nthe model knows of {conflicts:?}\nthe program told {events:?} and suppressed {suppressed}\n"
        ))
    }
}

fn told(frame: &Travelling, verdict: &Verdict, out: &[u8]) -> String {
    let Travelling { host, leaves, bytes, .. } = frame;
    let verb = if *leaves { "leaves" } else { "arrives at" };
    format!(
        "this frame {verb} host {host}{}\nthe model says {verdict:?}{}\n",
        show::frame(bytes),
        show::frame(out)
    )
}

/// The host that gets a frame for that Ethernet address, and the frame as it gets it.
fn received(to: Mac, bytes: Vec<u8>) -> Option<(usize, Vec<u8>)> {
    if to != world::ROUTER {
        return Some(((0..HOSTS).find(|next| world::mac(*next) == to)?, bytes));
    }
    let mut frame = packet::Frame::parse(&bytes)?;
    let ip = match frame.kind {
        packet::IPV4 => packet::Ip::parse_v4(&frame.rest)?,
        _ => packet::Ip::parse_v6(&frame.rest)?,
    };
    let is_its = |host: &usize| world::address(*host, ip.is_v4()) == ip.destination;
    let next = (0..HOSTS).find(is_its)?;
    (frame.from, frame.to) = (world::ROUTER, world::mac(next));
    Some((next, frame.bytes()))
}

/// What the answer to a probe says of the agent's last sign of life.
fn age(answer: &[u8]) -> Option<u32> {
    let frame = packet::Frame::parse(answer)?;
    let at = AGE[usize::from(frame.kind == packet::IPV6)] - 14;
    Some(u32::from_be_bytes(*frame.rest.get(at..)?.first_chunk()?))
}

/// The clock in the maps is never moved here, so the age is the time since boot.
fn is_about_now(age: u32) -> Result<(), String> {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds: u32 = uptime.split('.').next().and_then(|s| s.parse().ok()).unwrap_or_default();
    if seconds.abs_diff(age) > 2 {
        return Err(format!("an answer to a probe says {age} seconds, the host is up {seconds}"));
    }
    Ok(())
}

/// What a backend sends back.
fn answered(host: usize, delivered: &[u8], answer: Answer) -> Option<Vec<u8>> {
    let frame = packet::Frame::parse(delivered)?;
    let ip = match frame.kind {
        packet::IPV4 => packet::Ip::parse_v4(&frame.rest)?,
        _ => packet::Ip::parse_v6(&frame.rest)?,
    };
    let (Content::Whole(protocol), at) = ip.content() else { return None };
    let transport = Transport::parse(protocol, ip.behind(at))?;
    let ports = (transport.destination, transport.source);
    let carries = match transport.protocol {
        TCP => Carries::Tcp {
            ports,
            flags: if transport.opens() { SYN | ACK } else { ACK },
            numbers: (transport.acknowledgement, transport.sequence.wrapping_add(1)),
            options: vec![],
            data: vec![],
        },
        UDP => Carries::Udp { ports, checked: true, data: b"answer".to_vec() },
        _ => return None,
    };
    let body = Body::Ip(Ip::new(ip.destination, ip.source, carries));
    let damage = vec![];
    let frame = Frame { from: world::mac(host), to: frame.from, tags: vec![], body, damage };
    let mut bytes = frame.bytes();
    if let Answer::Cut(by) = answer {
        bytes.truncate(bytes.len() - by);
    }
    Some(bytes)
}

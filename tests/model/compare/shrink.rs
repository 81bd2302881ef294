//! A sequence that still shows a difference with as little in it as possible.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::run::{Difference, Rig};
use super::show;
use crate::generate::frame::{Body, Carries, Frame};
use crate::generate::{Answer, Sequence, Step};
use crate::reference::host::Configuration;
use crate::reference::packet::{ACK, SYN};

/// Most runs, and the most time, that are spent on it.
const RUNS: usize = 4000;
const TIME: Duration = Duration::from_secs(60);

struct Left {
    runs: usize,
    end: Instant,
}

impl Left {
    fn is_over(&self) -> bool {
        self.runs == 0 || Instant::now() > self.end
    }
}

/// Makes it smaller while it differs.
pub(crate) fn shrink(
    rig: &mut Rig,
    sequence: Sequence,
    difference: Difference,
) -> (Sequence, Difference) {
    let mut best = (sequence, difference);
    best.0.steps.truncate(best.1.step + 1);
    let mut left = Left { runs: RUNS, end: Instant::now() + TIME };
    loop {
        let before = best.0.steps.len();
        let mut better = drop_steps(rig, &mut best, &mut left);
        better |= simplify(rig, &mut best, &mut left);
        if left.is_over() || !better && best.0.steps.len() == before {
            return best;
        }
    }
}

/// Takes the candidate if it still differs.
fn attempt(
    rig: &mut Rig,
    best: &mut (Sequence, Difference),
    candidate: Sequence,
    left: &mut Left,
) -> bool {
    left.runs = left.runs.saturating_sub(1);
    if left.is_over() {
        return false;
    }
    match rig.run(&candidate) {
        Ok(_) => false,
        Err(difference) => {
            *best = (candidate, difference);
            best.0.steps.truncate(best.1.step + 1);
            true
        }
    }
}

fn drop_steps(rig: &mut Rig, best: &mut (Sequence, Difference), left: &mut Left) -> bool {
    let mut better = false;
    let mut chunk = best.0.steps.len().div_ceil(2);
    while chunk > 0 {
        let mut at = 0;
        while at < best.0.steps.len() {
            let mut candidate = best.0.clone();
            candidate.steps.drain(at..(at + chunk).min(candidate.steps.len()));
            if attempt(rig, best, candidate, left) {
                better = true;
            } else {
                at += chunk;
            }
        }
        chunk /= 2;
    }
    better
}

fn simplify(rig: &mut Rig, best: &mut (Sequence, Difference), left: &mut Left) -> bool {
    let mut better = false;
    let mut at = 0;
    while at < best.0.steps.len() {
        for number in 0.. {
            let Some(step) = simpler_step(&best.0.steps[at], number) else { break };
            let Some(step) = step else { continue };
            let mut candidate = best.0.clone();
            candidate.steps[at] = step;
            better |= attempt(rig, best, candidate, left);
            if at >= best.0.steps.len() {
                break;
            }
        }
        at += 1;
    }
    for host in 0..best.0.hosts.len() {
        for number in 0.. {
            let Some(configuration) = simpler_configuration(&best.0.hosts[host], number) else {
                break;
            };
            let mut candidate = best.0.clone();
            candidate.hosts[host] = configuration;
            better |= attempt(rig, best, candidate, left);
        }
    }
    better
}

/// The simplification of that number: nothing behind the last one, nothing inside where it changes
/// nothing.
fn simpler_step(step: &Step, number: usize) -> Option<Option<Step>> {
    let simpler = match step {
        Step::Arrive { host, frame, answer } => {
            let (host, answer) = (*host, *answer);
            if number == 0 {
                Step::Arrive { host, frame: frame.clone(), answer: Answer::Nothing }
            } else {
                Step::Arrive { host, frame: simpler_frame(frame, number - 1)?, answer }
            }
        }
        Step::Leave { host, frame } => {
            Step::Leave { host: *host, frame: simpler_frame(frame, number)? }
        }
        Step::Configure { host, configuration } => {
            let configuration = Box::new(simpler_configuration(configuration, number)?);
            Step::Configure { host: *host, configuration }
        }
    };
    let same = match (step, &simpler) {
        (Step::Arrive { frame, answer, .. }, Step::Arrive { frame: f, answer: a, .. }) => {
            frame == f && answer == a
        }
        (Step::Leave { frame, .. }, Step::Leave { frame: f, .. }) => frame == f,
        _ => false,
    };
    Some((!same).then_some(simpler))
}

fn simpler_frame(frame: &Frame, number: usize) -> Option<Frame> {
    let mut frame = frame.clone();
    match number {
        0 => frame.damage.clear(),
        1 => frame.tags.clear(),
        2 => frame.from = [2, 0, 0, 0, 0, 0xc1],
        3..14 => {
            let Body::Ip(ip) = &mut frame.body else { return Some(frame) };
            match number {
                3 => ip.options.clear(),
                4 => ip.extensions.clear(),
                5 => ip.fragment = None,
                6 => (ip.tos, ip.id) = (0, 0x1234),
                7 => ip.ttl = 64,
                8 => {
                    ip.extensions.pop();
                }
                _ => simpler_carries(&mut ip.carries, number - 9),
            }
        }
        _ => return None,
    }
    Some(frame)
}

fn simpler_carries(carries: &mut Carries, number: usize) {
    match (carries, number) {
        (Carries::Tcp { data, .. } | Carries::Udp { data, .. } | Carries::Sctp { data, .. }, 0) => {
            data.clear();
        }
        (Carries::Tcp { numbers, .. }, 1) => *numbers = (1, 1),
        (Carries::Tcp { options, .. }, 2) => options.clear(),
        (Carries::Tcp { flags, .. }, 3) => *flags = ACK,
        (Carries::Tcp { flags, .. }, 4) => *flags = SYN,
        (Carries::Udp { checked, .. }, 1) => *checked = true,
        _ => {}
    }
}

fn simpler_configuration(configuration: &Configuration, number: usize) -> Option<Configuration> {
    let mut simpler = configuration.clone();
    let frontends = configuration.frontends.len();
    let vips = configuration.vips.len();
    match number {
        0 => {
            for table in simpler.tables.values_mut() {
                let first = table.slots.first().copied().unwrap_or_default();
                table.slots.fill(first);
                table.locals.truncate(1);
            }
        }
        1 => {
            // One without a table is sized by its id all the same.
            let port = simpler.frontends.keys().next().copied()?;
            simpler.frontends.retain(|other, _| *other == port);
        }
        _ if number < 2 + frontends => {
            let port = *simpler.frontends.keys().nth(number - 2)?;
            simpler.frontends.remove(&port);
        }
        _ if number < 2 + frontends + vips => {
            let address = *simpler.vips.keys().nth(number - 2 - frontends)?;
            simpler.vips.remove(&address);
        }
        _ => return None,
    }
    Some(simpler)
}

/// The sequence and its difference, as one reads them.
pub(crate) fn told(sequence: &Sequence, difference: &Difference) -> String {
    let mut text = String::new();
    let named = |host: usize| {
        sequence.steps.iter().any(|step| match step {
            Step::Arrive { host: at, .. }
            | Step::Leave { host: at, .. }
            | Step::Configure { host: at, .. } => *at == host,
        })
    };
    // Where more than one is shown, the others may have been on the way.
    let all = sequence.steps.len() > 1;
    for (host, configuration) in sequence.hosts.iter().enumerate() {
        if !all && !named(host) {
            continue;
        }
        let _ = write!(text, "host {host} has{}", summary(configuration));
    }
    for (index, step) in sequence.steps.iter().enumerate() {
        let _ = match step {
            Step::Arrive { host, frame, answer } => {
                let bytes = frame.bytes();
                writeln!(
                    text,
                    "step {index}: at host {host} arrives {} (answer: {answer:?})",
                    show::line(&bytes)
                )
            }
            Step::Leave { host, frame } => {
                writeln!(
                    text,
                    "step {index}: from host {host} leaves {}",
                    show::line(&frame.bytes())
                )
            }
            Step::Configure { host, configuration } => {
                writeln!(text, "step {index}: host {host} gets{}", summary(configuration))
            }
        };
        if index == difference.step
            && let Step::Arrive { frame, .. } | Step::Leave { frame, .. } = step
        {
            let _ = writeln!(text, "{frame:?}");
        }
    }
    text + "\n" + &difference.text
}

fn summary(configuration: &Configuration) -> String {
    let mut text = String::from(":\n");
    let Configuration { leases, uplink, closed_port, .. } = configuration;
    let _ = writeln!(text, "  leases {leases:?}, uplink {uplink:x?}, closed port {closed_port}");
    for (address, vip) in &configuration.vips {
        let _ = writeln!(text, "  {address}: {vip:?}");
    }
    for (port, frontend) in &configuration.frontends {
        let table = configuration.tables.get(&frontend.id);
        let slots = table.map(|table| {
            let first = table.slots.first().copied().unwrap_or_default();
            let all = table.slots.iter().all(|slot| *slot == first);
            let backend = configuration.backends.get(&first.backend);
            let others = if all { "all slots" } else { "slots differ, the first" };
            format!("{others} {first:?} {backend:?}, locals {:?}", table.locals)
        });
        let _ = writeln!(text, "  {port:?}: {frontend:?}, {}", slots.unwrap_or("no table".into()));
    }
    for (id, node) in &configuration.nodes {
        let _ = writeln!(text, "  node {id}: {node:x?}");
    }
    text
}

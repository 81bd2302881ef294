//! The programs against a reference model of them, packet by packet.
//!
//! Some hosts, each with the real programs on the real verifier and JIT and with a model. Whatever a
//! host is given, both must do the same: verdict, the frame that comes out, counters, events, flows.
//! Everything follows from a number, which a difference is printed with; it is shrunk first.
//!
//! `KUBE_VIP_MODEL_PACKETS` says how many packets, `KUBE_VIP_MODEL_SEED` from which number on;
//! `KUBE_VIP_MODEL_SHRINK=0` shows a difference as it was found.

mod compare;
mod generate;
mod reference;

use std::collections::BTreeMap;
use std::env;
use std::io::Write as _;
use std::time::{Duration, Instant};

use kube_vip_common::stats::Reason;

use crate::compare::run::Rig;
use crate::compare::{kernel, shrink};
use crate::generate::{Sequence, Step};
use crate::reference::packet::{Frame, Ip};

const PACKETS: usize = 1_000_000;

/// Steps of a sequence.
const STEPS: usize = 250;

/// What no test run of these programs can bring about: an LRU map that refuses a record, a frame
/// without room before its start, clients on the host itself, and of those that arrive a limit: no frontend
/// here has one. Nobody is told of translated flows.
const NEVER: &[Reason] = &[
    Reason::FlowTableFull,
    Reason::TagLost,
    Reason::TunnelFailed,
    Reason::NatPortsExhausted,
    Reason::NatClientUnknown,
    Reason::NatUntold,
    Reason::RateLimited,
    Reason::ClientBalanced,
    Reason::ClientRefused,
    Reason::ClientUnrecorded,
];

#[test]
fn frames_are_parsed_and_written_without_loss() {
    for seed in 0..40 {
        for step in Sequence::random(seed, STEPS).steps {
            let (Step::Arrive { frame, .. } | Step::Leave { frame, .. }) = step else { continue };
            let bytes = frame.bytes();
            let Some(parsed) = Frame::parse(&bytes) else {
                assert!(bytes.len() < 22, "only one cut inside its tags is none: {bytes:02x?}");
                continue;
            };
            assert_eq!(parsed.bytes(), bytes);
            for ip in [Ip::parse_v4(&parsed.rest), Ip::parse_v6(&parsed.rest)] {
                assert!(ip.is_none_or(|ip| ip.bytes() == parsed.rest), "{bytes:02x?}");
            }
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

/// Past the test runner, which would keep it until the end.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[test]
fn programs_do_what_the_model_does() {
    let packets = variable("KUBE_VIP_MODEL_PACKETS").map_or(PACKETS, |packets| packets as usize);
    let first = variable("KUBE_VIP_MODEL_SEED").unwrap_or(1);
    let mut rig = Rig::new(&kernel::object());
    let (start, mut told) = (Instant::now(), Instant::now());
    let (mut done, mut sequences) = (0, 0);
    let mut reasons: BTreeMap<Reason, u64> = BTreeMap::new();
    let mut verdicts: BTreeMap<&str, u64> = BTreeMap::new();
    while done < packets {
        let seed = first + sequences;
        let sequence = Sequence::random(seed, STEPS);
        let agreement = rig.run(&sequence).unwrap_or_else(|difference| {
            let packets = rig.packets;
            let (sequence, difference) = match variable("KUBE_VIP_MODEL_SHRINK") {
                Some(0) => (sequence, difference),
                _ => shrink::shrink(&mut rig, sequence, difference),
            };
            panic!(
                "model and programs differ in sequence {seed}, after {packets} packets:\n{}",
                shrink::told(&sequence, &difference)
            )
        });
        sequences += 1;
        done += agreement.packets;
        agreement.reasons.iter().for_each(|(r, n)| *reasons.entry(*r).or_default() += n);
        agreement.verdicts.iter().for_each(|(v, n)| *verdicts.entry(v).or_default() += n);
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            say(&format!("model: {done} of {packets} packets, {:.0?}", start.elapsed()));
        }
    }
    say(&format!(
        "model and programs agree over {done} packets in {sequences} sequences, {:.1?}",
        start.elapsed()
    ));
    verdicts.iter().for_each(|(verdict, count)| say(&format!("  {count:>9}  {verdict}")));
    for reason in Reason::ALL {
        let count = reasons.get(reason).copied().unwrap_or(0);
        say(&format!("  {count:>9}  {}", reason.name()));
    }
    let missing: Vec<_> = Reason::ALL
        .iter()
        .filter(|reason| !reasons.contains_key(reason) && !NEVER.contains(reason))
        .map(|reason| reason.name())
        .collect();
    // A short run meets less.
    assert!(missing.is_empty() || packets < PACKETS, "no packet has met {missing:?}");
}

//! Random schedules of faults.

use crate::rng::Rng;
use crate::world::{Fault, MS};

/// Faults between the first second and `end`, each with its time.
pub(crate) fn random(rng: &mut Rng, hosts: usize, end: u64) -> Vec<(u64, Fault)> {
    let mut faults = Vec::new();
    let mut at = 1000 * MS;
    // Some schedules are quiet enough to recover between faults, some are not.
    let gap = rng.pick(&[60 * MS, 300 * MS, 900 * MS]);
    loop {
        at += rng.between(MS, gap);
        if at >= end {
            return faults;
        }
        faults.push((at, one(rng, hosts)));
    }
}

fn one(rng: &mut Rng, hosts: usize) -> Fault {
    let machine = rng.between(0, hosts as u64) as usize;
    let down = rng.pick(&[1, 30, 300, 1200]);
    let down = rng.between(MS, down * MS + 2 * MS);
    let length = rng.pick(&[50, 250, 1000]);
    let length = rng.between(5 * MS, length * MS);
    match rng.between(0, 100) {
        0..15 => Fault::Kill { machine, down },
        15..20 => Fault::Reboot { machine, down },
        20..28 => Fault::Stop { machine, down },
        28..32 => Fault::LoseDisk { machine, down },
        32..50 => Fault::Freeze { machine, length },
        50..60 => Fault::Cut { from: machine, to: rng.between(0, hosts as u64) as usize, length },
        60..75 => {
            let (inward, outward) = rng.pick(&[(true, true), (true, false), (false, true)]);
            Fault::Isolate { machine, inward, outward, length }
        }
        75..83 => {
            let delay = rng.pick(&[10, 60, 200]) * MS;
            Fault::Weather { loss: rng.between(0, 400), delay, length }
        }
        83..91 => Fault::Drift { machine, millionths: rng.pick(&[-10_000, 0, 10_000]) },
        91..95 => Fault::Carrier { machine, fit: rng.permille(600) },
        _ => Fault::Move { vip: rng.between(0, 9) as u8, to: machine },
    }
}

//! What agents left in the kernel that ended without taking leave.

use std::collections::BTreeSet;
use std::io;

use super::attach::detach_clsact;
use super::pins::Pins;
use crate::instance::tag;

/// What was done about it.
#[derive(Debug, Default)]
pub struct Left {
    /// What was there, one line each.
    pub removed: Vec<String>,
    /// What is there still, and why.
    pub failed: Vec<String>,
    /// Interfaces with a clsact qdisc of ours.
    pub qdiscs: BTreeSet<u32>,
}

/// The instances that something is pinned of.
///
/// # Errors
/// The directory cannot be read.
pub fn left_instances() -> io::Result<BTreeSet<String>> {
    Pins::instances()
}

/// Detaches and removes what an instance left, of whatever version.
pub fn remove_left<'a>(instance: &str, interfaces: impl Iterator<Item = &'a String>) -> Left {
    let mut left = Left::default();
    let pins = Pins::of(instance);
    if let Some(pins) = pins.filter(Pins::anything) {
        left.qdiscs = pins.qdiscs();
        match pins.remove() {
            Ok(()) => left.removed.push(format!("programs, links and maps of {pins}")),
            Err(error) => left.failed.push(format!("{pins}: {error}")),
        }
    }
    for name in interfaces {
        match detach_clsact(name, tag(instance)) {
            Ok(false) => {}
            Ok(true) => left.removed.push(format!("egress filter of {name}")),
            Err(error) => left.failed.push(format!("egress filter of {name}: {error}")),
        }
    }
    left
}

//! Sizes of the maps: what the file says, and never less than what it needs.

use super::reader::Section;
use super::{Limits, LoadBalancer};

const KEYS: [&str; 5] = ["frontends", "backends", "flows", "halfOpen", "nat"];
const DEFAULTS: Limits =
    Limits { frontends: 1024, backends: 8192, flows: 65536, half_open: 65536, nat: 65536 };

/// How much of each map a file fills.
pub(super) struct Needs {
    frontends: usize,
    backends: usize,
}

impl Needs {
    /// Counts every load balancer once per address it is reached at.
    pub(super) fn of(vips: usize, own: usize, load_balancers: &[LoadBalancer]) -> Self {
        let mut needs = Self { frontends: 0, backends: 0 };
        for lb in load_balancers {
            let addresses = if lb.bind_to_vip { vips } else { own.max(2) };
            needs.frontends += addresses;
            needs.backends += addresses * lb.backends.len();
        }
        needs
    }
}

/// Reads `limits`.
pub(super) fn read(section: &Section<'_>, needs: &Needs) -> Limits {
    let written = section
        .get("limits")
        .and_then(|node| Section::new(node, section.path_of("limits"), &KEYS, section.findings));
    let number = |key, default, most| match &written {
        Some(limits) => (limits.number(key, 1, most), default),
        None => (None, default),
    };
    let frontends = number("frontends", DEFAULTS.frontends, 1 << 20);
    let backends = number("backends", DEFAULTS.backends, 1 << 22);
    let flows = number("flows", DEFAULTS.flows, 1 << 24);
    let half_open = number("halfOpen", DEFAULTS.half_open, 1 << 24);
    let nat = number("nat", DEFAULTS.nat, 1 << 23);
    let raise = |key: &str, (written, default): (Option<u32>, u32), needed: usize| {
        let room = u32::try_from(needed.saturating_mul(2).next_power_of_two()).unwrap_or(u32::MAX);
        let limit = written.unwrap_or(default).max(room);
        if written.is_some_and(|written| written < limit) {
            let message = format!("raised to {limit}, twice what the file needs");
            section.findings.notice(&format!("limits.{key}"), &message);
        }
        limit
    };
    Limits {
        frontends: raise("frontends", frontends, needs.frontends),
        backends: raise("backends", backends, needs.backends),
        flows: flows.0.unwrap_or(flows.1),
        half_open: half_open.0.unwrap_or(half_open.1),
        nat: nat.0.unwrap_or(nat.1),
    }
}

//! A data plane that no agent has touched for long lets everything pass, as if it were not there.
//!
//! Packets are not asked what time it is. ARP and neighbour discovery are, on every network every few
//! seconds; the first of them that finds the agent's clock too old empties `FILTER`, and with it
//! nothing is ours any more. An agent that comes back fills it again.

use crate::helpers::boot_time;
use crate::maps::{self, SETTINGS};

const NANOSECONDS: u64 = 1_000_000_000;

/// Whether that is so now.
#[inline(always)]
pub(crate) fn check() -> bool {
    let after = SETTINGS.get(0).map_or(0, |settings| settings.abandoned_after);
    let touched = maps::clock();
    // Without an agent yet there is nothing that could be abandoned.
    if after == 0 || touched == 0 {
        return false;
    }
    let now = (boot_time() / NANOSECONDS) as u32;
    if now.saturating_sub(touched) < after {
        return false;
    }
    maps::empty_filters();
    true
}

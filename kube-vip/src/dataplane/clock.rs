//! The hand that moves `CLOCK`.

use aya::maps::{Array, MapData, MapError};
use kube_vip_common::clock::Clock;

use super::boot_time::boot_time;

/// What the clock is set to now.
pub(super) fn seconds() -> u32 {
    (boot_time() / 1_000_000_000) as u32
}

/// The one hand there is. Where there are no kernel programs it moves nothing.
pub struct Hand(Option<Array<MapData, Clock>>);

impl Hand {
    /// The hand of the clock in that map.
    pub fn new(clock: Option<Array<MapData, Clock>>) -> Self {
        Self(clock)
    }

    /// Sets the clock.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn set(&mut self) -> Result<(), MapError> {
        let clock = Clock { seconds: seconds() };
        self.0.as_mut().map_or(Ok(()), |hand| hand.set(0, clock, 0))
    }
}

//! The hand that moves `CLOCK`.

use aya::maps::{Array, MapData, MapError};
use kube_vip_common::clock::Clock;

use super::sys::boot_time;

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
        let seconds = (boot_time() / 1_000_000_000) as u32;
        self.0.as_mut().map_or(Ok(()), |clock| clock.set(0, Clock { seconds }, 0))
    }
}

//! `CLOCK`: the time as programs may use it for each packet, one element.

use crate::assert_size;

/// Value of `CLOCK`. The agent sets it once a second as long as its main loop comes round, so it
/// also tells whether there is one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Seconds of `CLOCK_BOOTTIME`.
    pub seconds: u32,
}

assert_size!(Clock: 4);

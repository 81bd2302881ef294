//! `SETTINGS`: what the agent tells the programs, one element.

use crate::assert_size;

/// Value of `SETTINGS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// [`LOG`].
    pub flags: u32,
    /// Always 0.
    pub pad: u32,
}

/// Rare paths write log lines.
pub const LOG: u32 = 1;

assert_size!(Settings: 8);

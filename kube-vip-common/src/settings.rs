//! `SETTINGS`: what the agent tells the programs, one element.

use crate::assert_size;

/// Value of `SETTINGS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// [`LOG`].
    pub flags: u32,
    /// A TCP port of this host that is taken and never answers but with RST, host order; 0 while
    /// there is none.
    pub closed_port: u16,
    /// Always 0.
    pub pad: u16,
    /// A UDP flow ends when nothing has come for this many seconds.
    pub udp_idle: u32,
    /// Always 0.
    pub pad2: u32,
}

/// Rare paths write log lines.
pub const LOG: u32 = 1;

assert_size!(Settings: 16);

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
    /// The UDP port that other agents' probes come to, host order; 0 while none may come.
    pub probe_port: u16,
    /// What answers to probes say of the seeds, see [`crate::probe`].
    pub digest: u64,
}

/// Rare paths write log lines.
pub const LOG: u32 = 1;

assert_size!(Settings: 16);

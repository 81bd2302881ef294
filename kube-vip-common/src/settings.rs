//! `SETTINGS`: what the agent tells the programs, one element.

use crate::assert_size;
use crate::nat::PortRange;

/// Value of `SETTINGS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Any of [`LOG`], [`ALL_CLIENTS`], [`TRANSLATES`].
    pub flags: u32,
    /// A TCP port of this host that is taken and never answers but with RST, host order; 0 while
    /// there is none.
    pub closed_port: u16,
    /// The UDP port that other agents' probes come to, host order; 0 while none may come.
    pub probe_port: u16,
    /// What answers to probes say of the seeds, see [`crate::probe`].
    pub digest: u64,
    /// The kernel's number of the agent's network namespace; 0 stands for the initial one.
    pub namespace: u64,
    /// Ports of this host's own address that nobody else uses: for connections that are translated
    /// to come from it.
    pub nat_ports: PortRange,
    /// A UDP flow ends when nothing has come for this many seconds.
    pub udp_idle: u32,
    /// The most that clients may be told to send in a TCP segment, bytes; 0 where they are told what
    /// the backend says.
    pub mss4: u16,
    /// As `mss4`, over IPv6.
    pub mss6: u16,
    /// Everything passes once the agent has not set `CLOCK` for this many seconds; 0 where that never
    /// happens.
    pub abandoned_after: u32,
}

/// Rare paths write log lines.
pub const LOG: u32 = 1;
/// Processes of all network namespaces are led to backends, not only those of the agent's.
pub const ALL_CLIENTS: u32 = 2;

/// This host translates: it owns a VIP, so replies may come to it.
pub const TRANSLATES: u32 = 4;

assert_size!(Settings: 40);

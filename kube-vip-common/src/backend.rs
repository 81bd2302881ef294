//! `BACKENDS`: id → where a server listens.

use crate::address::Address;
use crate::assert_size;

/// Value of `BACKENDS`. An id stands for one protocol, address and port as long as any table names it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// Where it listens.
    pub address: Address,
    /// Where it listens, host order.
    pub port: u16,
    /// [`IN_USE`] while the id is taken; [`DOWN`].
    pub flags: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Always 0.
    pub pad: [u8; 3],
}

/// The id that is never a backend: flows that lead to a closed port carry it.
pub const NOBODY: u32 = 0;

/// Flag of [`Backend`].
pub const IN_USE: u16 = 1;

/// Flag of [`Backend`]: this host's own probes say that it does not serve. No table leads to it;
/// UDP flows move on, TCP connections are left to themselves.
pub const DOWN: u16 = 1 << 2;

assert_size!(Backend: 24);

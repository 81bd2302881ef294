//! `EVENTS`: rare things the agent should know at once.

use crate::address::{Address, MacAddress};
use crate::assert_size;

/// One record of the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds of `CLOCK_BOOTTIME`.
    pub time: u64,
    /// One of [`ARP_CONFLICT`], [`ND_CONFLICT`], [`PORTS_EXHAUSTED`].
    pub kind: u32,
    /// Interface it arrived on.
    pub ifindex: u32,
    /// The VIP; of [`PORTS_EXHAUSTED`] the backend.
    pub address: Address,
    /// Who did it.
    pub mac: MacAddress,
    /// Always 0.
    pub pad: u16,
}

/// Value of `EVENT_TIMES`, by kind.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventTime {
    /// When the last event was sent, nanoseconds of `CLOCK_BOOTTIME`.
    pub time: u64,
}

/// Somebody else claims a VIP by ARP.
pub const ARP_CONFLICT: u32 = 1;
/// Somebody else claims a VIP by neighbour discovery.
pub const ND_CONFLICT: u32 = 2;
/// No port was found for another translated connection to a backend.
pub const PORTS_EXHAUSTED: u32 = 3;

/// Two events of one kind are at least this far apart, in nanoseconds; the rest is only counted.
pub const INTERVAL: u64 = 100_000_000;

/// Kinds, for the array that keeps the time of the last one.
pub const KINDS: usize = 4;

assert_size!(EventTime: 8, Event: 40);

//! `FRAGS`: what became of the first fragment of a packet, which alone has ports. The others follow
//! it.

use crate::address::Address;
use crate::assert_size;

/// Key of `FRAGS`: what all fragments of a packet have in common (RFC 791 §3.2, RFC 8200 §4.5).
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source, as the packet came.
    pub source: Address,
    /// Destination, as the packet came.
    pub destination: Address,
    /// Identification as it lies in memory; of IPv4 with the protocol, which belongs to it.
    pub id: u32,
    /// [`ARRIVED`] or [`LEFT`].
    pub direction: u32,
}

/// The packet arrived on an uplink.
pub const ARRIVED: u32 = 0;
/// The packet leaves through one.
pub const LEFT: u32 = 1;

/// Value of `FRAGS`: what the first fragment had become when the program was done with it.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// What was done with it: a packed verdict of the programs.
    pub verdict: u64,
    /// Its source.
    pub source: Address,
    /// Its destination.
    pub destination: Address,
    /// Ethernet addresses of its frame, in words as they lie there.
    pub link: [u32; 3],
    /// TTL or hop limit.
    pub ttl: u32,
}

/// Elements of `FRAGS`: a packet is remembered from its first fragment to its last, which is
/// microseconds to seconds.
pub const FRAGMENTS: usize = 8192;

assert_size!(FragmentKey: 40, Fate: 56);

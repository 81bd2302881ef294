//! `NODES`: the hosts that take part, and `PEERS`: which of them has which Ethernet address.

use crate::address::{Address, MacAddress};
use crate::assert_size;

/// Index of this host in `NODES`. 0 is never a host, so that an empty entry points nowhere.
pub const THIS_NODE: u16 = 1;

/// Value of `NODES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Where frames to it go; all zero while that is unknown.
    pub mac: MacAddress,
    /// Own Ethernet address on the interface it is reached through.
    pub source_mac: MacAddress,
    /// Interface it is reached through; 0 while it cannot be forwarded to.
    pub ifindex: u32,
    /// Its IPv4 address, mapped; all zero where it has none.
    pub v4: Address,
    /// Its IPv6 address; all zero where it has none.
    pub v6: Address,
}

/// Value of `PEERS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Index into `NODES`.
    pub node: u32,
}

/// Key of `PEERS`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PeerKey {
    /// Source address of the frame.
    pub mac: MacAddress,
    /// Always 0.
    pub pad: [u8; 2],
}

/// Value of `UPLINKS`; the key is an interface index.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uplink {
    /// This host's own Ethernet address there.
    pub mac: MacAddress,
    /// Always 0.
    pub pad: [u8; 2],
}

assert_size!(Node: 48, Peer: 4, PeerKey: 8, Uplink: 8);

impl PeerKey {
    /// The key for a frame from `mac`.
    #[inline(always)]
    pub const fn new(mac: [u8; 6]) -> Self {
        Self { mac: MacAddress::new(mac), pad: [0; 2] }
    }
}

//! `NODES`: the hosts that take part, and `PEERS`: which of them has which Ethernet address.

use crate::address::{Address, MacAddress};
use crate::assert_size;

/// Index of this host in `NODES`. 0 is never a host, so that an empty entry points nowhere.
pub const THIS_NODE: u16 = 1;

/// Value of `NODES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The way of IPv4 packets to it.
    pub hop4: Hop,
    /// The way of IPv6 packets to it: behind routers it may be another.
    pub hop6: Hop,
    /// Its IPv4 address, mapped; all zero where it has none.
    pub v4: Address,
    /// Its IPv6 address; all zero where it has none.
    pub v6: Address,
    /// Its Pods' IPv4 addresses.
    pub pods4: Range4,
    /// Its Pods' IPv6 addresses.
    pub pods6: Range6,
    /// Where it is in the order of all hosts, below 256. Numbers may differ from host to host, the
    /// order does not.
    pub rank: u32,
    /// Always 0.
    pub pad: u32,
}

/// The next hop of one IP version's packets on their way to a host.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// Where frames go; all zero while that is unknown.
    pub mac: MacAddress,
    /// Own Ethernet address on the interface they leave through.
    pub source_mac: MacAddress,
    /// Interface they leave through; 0 while the host cannot be forwarded to.
    pub ifindex: u32,
    /// How packets get there: [`LINK`], [`TUNNEL`] or [`NAT`].
    pub way: u32,
    /// Largest IP packet that fits on that way, in bytes, headers of a tunnel included.
    pub mtu: u32,
}

/// [`Hop::way`]: an agent on this L2 network, by new Ethernet addresses.
pub const LINK: u32 = 0;
/// [`Hop::way`]: an agent behind a router, by IPIP or IP6IP6.
pub const TUNNEL: u32 = 1;
/// [`Hop::way`]: no agent there, by address translation. Such an entry stands for a next hop, the
/// address is the backend's.
pub const NAT: u32 = 2;

/// A prefix of IPv4 addresses: those that have `network` where `mask` has ones.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range4 {
    /// Its first address.
    pub network: [u8; 4],
    /// Ones for the bits that all its addresses share.
    pub mask: [u8; 4],
}

/// A prefix of IPv6 addresses, as [`Range4`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range6 {
    /// Its first address.
    pub network: Address,
    /// Ones for the bits that all its addresses share.
    pub mask: Address,
}

impl Range4 {
    /// No address: what the mask leaves is never all ones.
    pub const EMPTY: Self = Self { network: [0xff; 4], mask: [0; 4] };
}

impl Range6 {
    /// No address, as [`Range4::EMPTY`].
    pub const EMPTY: Self =
        Self { network: Address::from_v6([0xff; 16]), mask: Address::from_v6([0; 16]) };
}

impl Default for Range4 {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl Default for Range6 {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// Value of `PEERS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Index into `NODES`.
    pub node: u32,
}

/// The Ethernet address that stands for a host on frames that came out of its tunnel, where they
/// would carry the router's: locally administered (IEEE 802 §8.4), so no card has it.
#[inline(always)]
pub const fn tunnelled(node: u32) -> MacAddress {
    let [.., high, low] = node.to_be_bytes();
    MacAddress::new([0x06, b'k', b'v', b'i', high, low])
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

assert_size!(Hop: 24, Range4: 8, Range6: 32, Node: 128, Peer: 4, PeerKey: 8, Uplink: 8);

impl PeerKey {
    /// The key for a frame from `mac`.
    #[inline(always)]
    pub const fn new(mac: [u8; 6]) -> Self {
        Self { mac: MacAddress::new(mac), pad: [0; 2] }
    }
}

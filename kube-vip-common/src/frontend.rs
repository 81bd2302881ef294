//! `FRONTENDS`: the balanced ports; `FRONTEND_IDS` and `FRONTEND_LIST`: a shorter way to them.
//!
//! Calling the kernel for a look-up in a hash costs more than all the rest of forwarding a packet;
//! arrays are read without a call. So a key's [`place`] leads to an id, and the id to key and value.
//! Where another key has that place or has left it, the key does not match and the hash decides.

use crate::address::Address;
use crate::assert_size;

/// Transport protocols that are balanced, with their IP protocol numbers.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// RFC 9293.
    Tcp = 6,
    /// RFC 768.
    Udp = 17,
    /// RFC 9260.
    Sctp = 132,
}

impl Protocol {
    /// The name as people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// What is hashed to choose a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Affinity {
    /// Addresses, ports and protocol: every connection by itself.
    #[default]
    None,
    /// The client's address: all connections of a client go to one backend.
    ClientIp,
}

/// Key of `FRONTENDS`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    /// The VIP.
    pub address: Address,
    /// Port, host order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u16,
    /// Always 0.
    pub pad: u32,
}

/// Value of `FRONTENDS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frontend {
    /// Keys the flow hash; agreed among all hosts.
    pub seed: u64,
    /// Index into `TABLES` or `TABLES_SIZED`, and into `FRONTEND_STATS`.
    pub id: u32,
    /// Slots of its table. A change of size comes with a new id, so that the two always fit.
    pub slots: u32,
    /// Any of [`CLIENT_AFFINITY`], [`HOST_ADDRESS`], [`FROM_NODE`], [`SILENT`].
    pub flags: u32,
    /// Nanoseconds from one new connection of a client to its next; 0 where they are not limited.
    /// See [`rate`](crate::rate).
    pub interval: u32,
}

/// Value of `FRONTEND_LIST`, by [`Frontend::id`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// As in `FRONTENDS`.
    pub key: FrontendKey,
    /// As in `FRONTENDS`.
    pub frontend: Frontend,
}

/// Elements of `FRONTEND_IDS`.
pub const PLACES: usize = 1 << 16;

/// Where in `FRONTEND_IDS` the id of a key is, plus one; given the key's three words in memory.
#[inline(always)]
pub const fn place([high, low, rest]: [u64; 3]) -> u32 {
    // Of an IPv4 address the lower half of its word is always the same, and port and protocol are
    // just there.
    let folded = high.rotate_left(23) ^ low ^ rest;
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u32
}

impl FrontendKey {
    /// Its three words in memory.
    pub fn words(&self) -> [u64; 3] {
        let [a, b, c, d, e, f, g, h, address @ ..] = self.address.octets;
        let ([p, q], [r, s]) = (self.port.to_ne_bytes(), self.protocol.to_ne_bytes());
        let [t, u, v, w] = self.pad.to_ne_bytes();
        [[a, b, c, d, e, f, g, h], address, [p, q, r, s, t, u, v, w]].map(u64::from_ne_bytes)
    }
}

/// Flag of [`Frontend`]: the client's address alone chooses the backend.
pub const CLIENT_AFFINITY: u32 = 1;

/// Flag of [`Frontend`]: it is on a host's own address, where the kernel may have connections of its
/// own at that port: what has no flow here is left to it.
pub const HOST_ADDRESS: u32 = 2;

/// Flag of [`Frontend`]: connections that are translated come from this host's own address, with
/// ports from `SETTINGS`, not from the VIP.
pub const FROM_NODE: u32 = 4;

/// Flag of [`Frontend`]: a client that finds no backend is not answered.
pub const SILENT: u32 = 1 << 8;

assert_size!(FrontendKey: 24, Frontend: 24, Listed: 48);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::*;

    fn places(keys: impl Iterator<Item = (IpAddr, u16)>) -> usize {
        let key = |(ip, port): (IpAddr, u16)| FrontendKey {
            address: ip.into(),
            port,
            protocol: Protocol::Tcp as u16,
            pad: 0,
        };
        keys.map(|pair| place(key(pair).words())).collect::<BTreeSet<_>>().len()
    }

    #[test]
    fn ports_and_neighbouring_addresses_have_places_of_their_own() {
        // Of 1000 keys at random, 7 share a place with another one.
        let v4 = |low: u16| IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 | u32::from(low)));
        let v6 = |low: u16| IpAddr::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, low));
        for address in [v4 as fn(u16) -> IpAddr, v6] {
            assert!(places((1..=1000).map(|port| (address(100), port))) > 980);
            assert!(places((1..=1000).map(|host| (address(host), 443))) > 980);
            let both = (1..=100).flat_map(|host| (1..=10).map(move |port| (address(host), port)));
            assert!(places(both) > 980);
        }
    }
}

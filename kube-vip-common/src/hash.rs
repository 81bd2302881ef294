//! The flow hash: which slot of a table a packet belongs to.
//!
//! Hosts must agree on it to the bit, and it must be the same for a packet seen by any of them, so
//! it depends on the packet's bytes and the agreed seed only. Two rounds of multiply and shift
//! (the finisher of `MurmurHash3`, by constants) mix well and cost about 2 ns.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Of this function: hosts with another one have other tables.
pub const HASH_VERSION: u16 = 1;

/// A hash under way.
#[derive(Clone, Copy, Debug)]
pub struct FlowHash(u64);

impl FlowHash {
    /// Starts with the frontend's seed.
    #[inline(always)]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Mixes in eight bytes, given as a number that is the same on hosts of either byte order.
    #[inline(always)]
    #[must_use]
    pub const fn mix(self, word: u64) -> Self {
        let mut h = self.0 ^ word;
        h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
        h ^= h >> 32;
        h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        Self(h ^ (h >> 29))
    }

    /// The hash itself.
    pub const fn value(self) -> u64 {
        self.0
    }

    /// The slot, below `slots`: the upper half scaled, which costs a multiplication, not a division.
    #[inline(always)]
    pub const fn slot(self, slots: u32) -> u32 {
        (((self.0 >> 32) * slots as u64) >> 32) as u32
    }
}

/// The word for ports and protocol.
#[inline(always)]
pub const fn ports(source: u16, destination: u16, protocol: u8) -> u64 {
    (protocol as u64) << 32 | (source as u64) << 16 | destination as u64
}

/// The word for two IPv4 addresses, both as numbers (`u32::from_be_bytes`).
#[inline(always)]
pub const fn addresses4(source: u32, destination: u32) -> u64 {
    (source as u64) << 32 | destination as u64
}

/// What the programs make of a client's address, for user space.
pub fn of_client(seed: u64, client: IpAddr) -> FlowHash {
    let hash = FlowHash::new(seed);
    match client {
        IpAddr::V4(client) => hash.mix(u32::from(client).into()),
        IpAddr::V6(client) => {
            let (high, low) = halves(client);
            hash.mix(high).mix(low)
        }
    }
}

/// What the programs make of a packet's addresses and ports, for user space. Nothing where the
/// addresses are not of one family.
pub fn of_flow(seed: u64, client: SocketAddr, vip: SocketAddr, protocol: u8) -> Option<FlowHash> {
    let hash = match (client.ip(), vip.ip()) {
        (IpAddr::V4(client), IpAddr::V4(vip)) => {
            FlowHash::new(seed).mix(addresses4(client.into(), vip.into()))
        }
        (IpAddr::V6(client), IpAddr::V6(vip)) => {
            let (high, low) = halves(vip);
            of_client(seed, client.into()).mix(high ^ low.rotate_left(32))
        }
        _ => return None,
    };
    Some(hash.mix(ports(client.port(), vip.port(), protocol)))
}

fn halves(address: Ipv6Addr) -> (u64, u64) {
    let bits = address.to_bits();
    ((bits >> 64) as u64, bits as u64)
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;

    #[test]
    fn hash_is_the_same_for_ever() {
        // Hosts of different versions must agree: a change here needs a new `HASH_VERSION`, and a
        // new layout version.
        let hash =
            FlowHash::new(1).mix(addresses4(0x0a00_0001, 0x0a00_0064)).mix(ports(40000, 80, 6));
        assert_eq!(hash.slot(4093), 1176);
    }

    #[test]
    fn neighbouring_ports_and_addresses_spread_evenly() {
        for (slots, flows) in [(251u32, 251_000u32), (4093, 4_093_000)] {
            let mut counts = vec![0u32; slots as usize];
            for i in 0..flows {
                let (client, port) = (0x0a00_0000 + i / 1000, 40_000 + (i % 1000) as u16);
                let hash =
                    FlowHash::new(42).mix(addresses4(client, 0x0a00_0064)).mix(ports(port, 80, 6));
                counts[hash.slot(slots) as usize] += 1;
            }
            // 1000 expected in each; a Poisson count strays by more than 6 sigma once in 10^9.
            let (min, max) = (*counts.iter().min().unwrap(), *counts.iter().max().unwrap());
            assert!(min > 800 && max < 1200, "{slots} slots: {min}..{max}");
        }
    }
}

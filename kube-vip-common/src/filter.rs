//! `FILTER`: one bit per hashed address or port, so that a packet that is not ours costs one array
//! access. A set bit means "maybe": the maps have the last word.

use crate::assert_size;

/// Value of `FILTER`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Filter {
    /// Bit n of word m stands for hash m * 64 + n.
    pub words: [u64; WORDS],
}

/// Words of a filter: 65536 bits.
pub const WORDS: usize = 1024;

/// Element of `FILTER` with the addresses in `VIPS`.
pub const ADDRESSES: u32 = 0;
/// Element of `FILTER` with the addresses and ports of backends here.
pub const BACKENDS: u32 = 1;
/// Element of `FILTER` with what concerns plain TCP and UDP: addresses all of whose ports are ours to
/// judge, and single ports of others. A host's own address is in [`ADDRESSES`] for what else comes
/// there, and its own servers should not pay for that.
pub const TRANSPORT: u32 = 2;

/// Elements of `FILTER`.
pub const FILTERS: usize = 3;

assert_size!(Filter: 8192);

/// A place in a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bit(u16);

impl Bit {
    /// The place of an IPv4 address, given as its bytes read as a number in the host's order.
    #[inline(always)]
    pub const fn of_v4(address: u32) -> Self {
        Self((address.wrapping_mul(0x9e37_79b1) >> 16) as u16)
    }

    /// The place of an IPv6 address, given as two halves read in the host's order.
    #[inline(always)]
    pub const fn of_v6(high: u64, low: u64) -> Self {
        let folded = high.rotate_left(23) ^ low;
        Self((folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u16)
    }

    /// The place of an address with a port.
    #[inline(always)]
    pub const fn with_port(self, port: u16) -> Self {
        Self(self.0 ^ port.wrapping_mul(0x9e37))
    }

    /// The place of an address in either family.
    pub const fn of_ip(ip: core::net::IpAddr) -> Self {
        match ip {
            core::net::IpAddr::V4(v4) => Self::of_v4(u32::from_ne_bytes(v4.octets())),
            core::net::IpAddr::V6(v6) => {
                let bytes = v6.octets();
                let mut halves = [[0; 8]; 2];
                let mut i = 0;
                while i < 16 {
                    halves[i / 8][i % 8] = bytes[i];
                    i += 1;
                }
                Self::of_v6(u64::from_ne_bytes(halves[0]), u64::from_ne_bytes(halves[1]))
            }
        }
    }

    /// Whether the bit is set.
    #[inline(always)]
    pub const fn is_set(self, filter: &Filter) -> bool {
        filter.words[self.0 as usize / 64] >> (self.0 % 64) & 1 == 1
    }

    /// Sets the bit.
    pub const fn set(self, filter: &mut Filter) {
        filter.words[self.0 as usize / 64] |= 1 << (self.0 % 64);
    }
}

impl Filter {
    /// Nothing is ours.
    pub const EMPTY: Self = Self { words: [0; WORDS] };
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn filter_never_forgets(ips: std::vec::Vec<(IpAddr, u16)>) {
            let mut filter = Filter::EMPTY;
            for (ip, port) in &ips {
                Bit::of_ip(*ip).with_port(*port).set(&mut filter);
            }
            for (ip, port) in &ips {
                prop_assert!(Bit::of_ip(*ip).with_port(*port).is_set(&filter));
            }
        }
    }

    #[test]
    fn neighbours_in_a_subnet_have_bits_of_their_own() {
        let mut filter = Filter::EMPTY;
        let places = (0..=255u8).map(|host| Bit::of_ip(IpAddr::from([10, 0, 0, host])));
        for place in places {
            assert!(!place.is_set(&filter));
            place.set(&mut filter);
        }
    }
}

//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! All values are 16-bit words as they lie in memory, read in the host's order: the sum does not
//! care for byte order (RFC 1071 §2(B)), so nothing is ever swapped.

/// A one's complement sum that is not folded yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Adds a 32-bit word.
    #[inline(always)]
    #[must_use]
    pub const fn add(self, word: u32) -> Self {
        Self(self.0 + word as u64)
    }

    /// Takes a 32-bit word out that was part of the sum (RFC 1624 §3, eqn. 3: add its complement).
    #[inline(always)]
    #[must_use]
    pub const fn remove(self, word: u32) -> Self {
        Self(self.0 + !word as u64)
    }

    /// Adds another sum.
    #[inline(always)]
    #[must_use]
    pub const fn join(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// Folds to 16 bits; at most 2^16 words may have been added.
    #[inline(always)]
    const fn fold(self) -> u16 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        ((sum & 0xffff) + (sum >> 16)) as u16
    }

    /// The checksum of what was added.
    #[inline(always)]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }

    /// The checksum of a message whose checksum was `old` after this change (RFC 1624 §3, eqn. 3).
    #[inline(always)]
    pub const fn update(self, old: u16) -> u16 {
        !Self(self.0 + (!old) as u64).fold()
    }
}

/// A UDP checksum that came out as zero is sent as all ones: zero means "none" (RFC 768).
#[inline(always)]
pub const fn udp(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::vec::Vec;

    use super::*;

    fn checksum(words: &[u32]) -> u16 {
        words.iter().fold(Sum::default(), |sum, word| sum.add(*word)).checksum()
    }

    #[test]
    fn example_of_rfc_1071() {
        // RFC 1071 §3: the bytes 00 01 f2 03 f4 f5 f6 f7 sum to ddf2.
        let words = [[0x00, 0x01, 0xf2, 0x03], [0xf4, 0xf5, 0xf6, 0xf7]].map(u32::from_ne_bytes);
        assert_eq!(checksum(&words).to_ne_bytes(), [!0xdd, !0xf2]);
    }

    #[test]
    fn example_of_rfc_1624() {
        // RFC 1624 §4: checksum dd2f, a word changes from 5555 to 3285, the new checksum is 0000.
        let change = Sum::default().remove(0x5555).add(0x3285);
        // `remove` takes a 32-bit complement; its upper half is ffff, a zero in one's complement.
        assert_eq!(change.update(0xdd2f), 0x0000);
    }

    proptest! {
        #[test]
        fn update_equals_computing_anew(
            mut words in proptest::collection::vec(any::<u32>(), 1..40),
            changes: Vec<(proptest::sample::Index, u32)>,
        ) {
            // A message always has some word that is not zero (RFC 1624 §3).
            words.push(1);
            let old = checksum(&words);
            let mut change = Sum::default();
            for (index, new) in changes {
                let at = index.index(words.len() - 1);
                change = change.remove(words[at]).add(new);
                words[at] = new;
            }
            prop_assert_eq!(change.update(old), checksum(&words));
        }
    }
}

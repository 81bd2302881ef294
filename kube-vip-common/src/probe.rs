//! What agents ask each other's data planes: UDP to the peer's port, words in network order.
//!
//! ```text
//!  0  "kvip"
//!  4  protocol version, kind, version of the flow hash (2 bytes)
//!  8  nonce
//! 16  digest of what seeds come from
//! 24  seconds since the agent last moved its clock
//! 28  version of the program (major, minor, patch), 0
//! ```
//!
//! A question may be followed by zeros up to any length.

/// Words of four bytes in a message.
pub const WORDS: usize = 8;

/// First word of every message.
const MAGIC: [u8; 4] = *b"kvip";

/// Agents with another one are strangers.
const PROTOCOL: u8 = 1;

/// Version of this program: major, minor, patch.
pub const VERSION: [u8; 3] = [
    number(env!("CARGO_PKG_VERSION_MAJOR")),
    number(env!("CARGO_PKG_VERSION_MINOR")),
    number(env!("CARGO_PKG_VERSION_PATCH")),
];

/// A decimal number.
const fn number(text: &str) -> u8 {
    let (bytes, mut value, mut at) = (text.as_bytes(), 0, 0);
    while at < bytes.len() {
        value = value * 10 + (bytes[at] - b'0');
        at += 1;
    }
    value
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Does your data plane work?
    Question = 1,
    /// It does; answered by the data plane itself.
    Answer = 2,
    /// Mine works from now on.
    Hello = 3,
    /// Mine ends now.
    Goodbye = 4,
}

impl Kind {
    #[inline(always)]
    const fn of(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Question),
            2 => Some(Self::Answer),
            3 => Some(Self::Hello),
            4 => Some(Self::Goodbye),
            _ => None,
        }
    }
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// Version of the sender's flow hash.
    pub hash: u16,
    /// Number of the question, which the answer repeats.
    pub nonce: u64,
    /// Of what the sender's seeds come from: hosts with the same digest have the same tables.
    pub digest: u64,
    /// Seconds since the sender's agent last moved its clock.
    pub age: u32,
    /// Version of the sender's program.
    pub version: [u8; 3],
}

impl Message {
    /// As it travels.
    #[inline(always)]
    pub const fn words(&self) -> [[u8; 4]; WORDS] {
        let [h0, h1] = self.hash.to_be_bytes();
        let [n0, n1, n2, n3, n4, n5, n6, n7] = self.nonce.to_be_bytes();
        let [d0, d1, d2, d3, d4, d5, d6, d7] = self.digest.to_be_bytes();
        let [major, minor, patch] = self.version;
        [
            MAGIC,
            [PROTOCOL, self.kind as u8, h0, h1],
            [n0, n1, n2, n3],
            [n4, n5, n6, n7],
            [d0, d1, d2, d3],
            [d4, d5, d6, d7],
            self.age.to_be_bytes(),
            [major, minor, patch, 0],
        ]
    }

    /// Out of what travelled; nothing where it is none of ours.
    #[inline(always)]
    pub const fn read(words: [[u8; 4]; WORDS]) -> Option<Self> {
        let [magic, [protocol, kind, h0, h1], a, b, c, d, age, [major, minor, patch, _]] = words;
        if u32::from_ne_bytes(magic) != u32::from_ne_bytes(MAGIC) || protocol != PROTOCOL {
            return None;
        }
        let Some(kind) = Kind::of(kind) else {
            return None;
        };
        Some(Self {
            kind,
            hash: u16::from_be_bytes([h0, h1]),
            nonce: long(a, b),
            digest: long(c, d),
            age: u32::from_be_bytes(age),
            version: [major, minor, patch],
        })
    }
}

#[inline(always)]
const fn long(high: [u8; 4], low: [u8; 4]) -> u64 {
    (u32::from_be_bytes(high) as u64) << 32 | u32::from_be_bytes(low) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::string::ToString as _;

    use super::*;

    #[test]
    fn version_is_the_packages() {
        let [major, minor, patch] = VERSION.map(|number| number.to_string());
        assert_eq!([major, minor, patch].join("."), env!("CARGO_PKG_VERSION"));
    }

    proptest! {
        #[test]
        fn messages_arrive_as_they_were_sent(
            kind in 1u8..=4, hash: u16, nonce: u64, digest: u64, age: u32, version: [u8; 3],
        ) {
            let kind = Kind::of(kind).expect("one of them");
            let message = Message { kind, hash, nonce, digest, age, version };
            prop_assert_eq!(Message::read(message.words()), Some(message));
        }

        #[test]
        fn what_differs_in_the_first_bytes_is_no_message(at in 0usize..5, change in 1u8..) {
            let message = Message {
                kind: Kind::Question, hash: 1, nonce: 1, digest: 2, age: 3, version: VERSION,
            };
            let mut words = message.words();
            words[at / 4][at % 4] ^= change;
            prop_assert_eq!(Message::read(words), None);
        }
    }
}

//! The contract between the kernel programs and the agent: keys and values of the maps, the flow
//! hash, the Maglev table. One code for both sides; no `std`, no allocation.
//!
//! Byte order: addresses are the bytes as they travel (network order); ports, ids and counters are
//! numbers in the host's order. Maps never leave a host, so the two sides always agree.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod address;
pub mod backend;
pub mod checksum;
pub mod client;
pub mod clock;
pub mod event;
pub mod filter;
pub mod flow;
pub mod fragment;
pub mod frontend;
pub mod hash;
pub mod history;
pub mod lease;
pub mod maglev;
pub mod mark;
pub mod nat;
pub mod node;
#[cfg(feature = "user")]
mod pod;
pub mod probe;
pub mod rate;
pub mod settings;
pub mod stats;
pub mod stray;
pub mod table;
pub mod vip;

/// Changes whenever a key or value changes: pins carry it in their path, so that an agent never
/// reads maps it would misunderstand.
pub const LAYOUT_VERSION: u32 = 1;

/// Fails the build when a type has not the size both sides rely on.
macro_rules! assert_size {
    ($($type:ty: $size:literal),+ $(,)?) => {
        $(const _: () = assert!(size_of::<$type>() == $size);)+
    };
}
pub(crate) use assert_size;

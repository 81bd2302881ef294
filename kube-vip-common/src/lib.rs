//! The contract between the kernel programs and the agent: keys and values of the maps, the flow
//! hash, the Maglev table. One code for both sides; no `std`, no allocation.
//!
//! Byte order: addresses are the bytes as they travel (network order); ports, ids and counters are
//! numbers in the host's order. Maps never leave a host, so the two sides always agree.
#![no_std]

pub mod address;
pub mod frontend;
pub mod table;

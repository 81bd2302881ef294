//! `VIPS`: addresses that are ours to judge. The key is an [`Address`](crate::address::Address).

use crate::assert_size;

/// Value of `VIPS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vip {
    /// Any of [`VIRTUAL`], [`HELD`], [`SERVED`], [`OWN`].
    pub flags: u32,
    /// Index into `LEASES`.
    pub lease: u32,
    /// Index into `NODES` of the owner; 0 while it is not known.
    pub owner: u32,
}

/// It moves between hosts: ARP, neighbour discovery, the fence and the RSTs are ours.
pub const VIRTUAL: u32 = 1;
/// It is a local address of this host: what has no frontend goes up to the kernel.
pub const HELD: u32 = 2;
/// Backends listen on it here: a direct connection to one must not meet the remains of a balanced one.
pub const SERVED: u32 = 4;

/// An address of this host that other agents know it by: their probes and tunnels end here.
pub const OWN: u32 = 8;

assert_size!(Vip: 12);

//! `STRAYS4`, `STRAYS6`: connections whose slot leads here and that are on another host, because their
//! slot led there when they began. That host says so to the one that the slot leads to, after each
//! change of tables: then it does not matter how many hosts a slot has led to since, nor whether this
//! one has forgotten them.
//!
//! Keyed by the tuple client → VIP, as `FLOWS4` is on the other host.

use crate::assert_size;

/// Value of `STRAYS4` and `STRAYS6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stray {
    /// Index into `NODES` of the host that has the connection.
    pub node: u32,
}

assert_size!(Stray: 4);

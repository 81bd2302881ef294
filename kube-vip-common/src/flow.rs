//! `FLOWS4`, `FLOWS6`: connections delivered on this host; `REVERSE4`, `REVERSE6`: their replies;
//! `HALF4`, `HALF6`: both directions of those whose client has not yet proved that it exists.
//!
//! All are keyed by the full tuple of the packets they are looked up for: a flow by
//! client → VIP, its reply by backend → client. A connection that a client made straight to the
//! backend has another tuple and is never touched.

use crate::assert_size;

/// A connection's direction, IPv4.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tuple4 {
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
    /// Source port, host order.
    pub source_port: u16,
    /// Destination port, host order.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u32,
}

/// A connection's direction, IPv6.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tuple6 {
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
    /// Source port, host order.
    pub source_port: u16,
    /// Destination port, host order.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u32,
}

/// Value of `FLOWS4`, `REVERSE4` and `HALF4`.
///
/// Under a flow's key the address and port of the backend, under a reply's those of the VIP.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint4 {
    /// Address to rewrite to.
    pub address: [u8; 4],
    /// Port to rewrite to, host order.
    pub port: u16,
    /// Any of [`DIRECT`], [`ANSWERED`], [`CLIENT_DONE`], [`BACKEND_DONE`], [`RESET`].
    pub flags: u16,
    /// Index into `BACKENDS` and `BACKEND_STATS`.
    pub backend: u32,
    /// The client's port, where the two sides know it under different numbers, host order: for a
    /// flow as its backend knows it, for a reply as the client does. 0: it stays.
    pub client_port: u16,
    /// Always 0.
    pub pad: u16,
    /// Of UDP in `FLOWS4` and `REVERSE4`: when the last packet came, by `CLOCK`, in seconds. Of a
    /// TCP reply in `HALF4`: the sequence number that the client will acknowledge. Of a TCP flow that
    /// ends in `FLOWS4`: when it was last heard of.
    pub stamp: u32,
    /// Always 0.
    pub pad2: u32,
}

/// Value of `FLOWS6`, `REVERSE6` and `HALF6`, as [`Endpoint4`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint6 {
    /// Address to rewrite to.
    pub address: [u8; 16],
    /// Port to rewrite to, host order.
    pub port: u16,
    /// Any of [`DIRECT`], [`ANSWERED`], [`CLIENT_DONE`], [`BACKEND_DONE`], [`RESET`].
    pub flags: u16,
    /// Index into `BACKENDS` and `BACKEND_STATS`.
    pub backend: u32,
    /// As [`Endpoint4::client_port`].
    pub client_port: u16,
    /// Always 0.
    pub pad: u16,
    /// As [`Endpoint4::stamp`].
    pub stamp: u32,
}

/// Flag of a reply's record: the client has sent a SYN straight to the backend from the same port,
/// so the backend's SYN-ACK ends the record. What it sends until then still belongs to it.
pub const DIRECT: u16 = 1;

/// Flag of a reply's record in `HALF4` and `HALF6`: the backend has answered.
pub const ANSWERED: u16 = 2;

/// Flag of a flow's record: the client has closed its direction of the connection.
pub const CLIENT_DONE: u16 = 4;
/// … the backend its own.
pub const BACKEND_DONE: u16 = 8;
/// … one of them has reset it. What the client says after that takes it back: a reset may be forged.
pub const RESET: u16 = 16;

/// The flags of a connection that ends.
pub const ENDS: u16 = CLIENT_DONE | BACKEND_DONE | RESET;

/// For so many seconds the last of a connection may be said once more, and a forged reset taken back.
const LINGERS: u32 = 2;

/// Whether a connection with these flags, last heard of then, has ended: its tuple may be that of
/// another one, which is elsewhere.
#[inline(always)]
pub const fn has_ended(flags: u16, seen: u32, now: u32) -> bool {
    is_over(flags) && now.wrapping_sub(seen) > LINGERS
}

/// Whether these flags say that nothing more is to be said.
#[inline(always)]
pub const fn is_over(flags: u16) -> bool {
    const CLOSED: u16 = CLIENT_DONE | BACKEND_DONE;
    flags & RESET != 0 || flags & CLOSED == CLOSED
}

assert_size!(Tuple4: 16, Tuple6: 40, Endpoint4: 24, Endpoint6: 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_ends_some_time_after_a_reset_or_when_both_are_done() {
        assert!(!has_ended(DIRECT | ANSWERED | CLIENT_DONE, 0, 100));
        assert!(!has_ended(BACKEND_DONE, 0, 100));
        for ends in [RESET, CLIENT_DONE | BACKEND_DONE] {
            assert_eq!([100, 102, 103].map(|now| has_ended(ends, 100, now)), [false, false, true]);
        }
    }
}

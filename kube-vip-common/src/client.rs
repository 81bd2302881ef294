//! `CLIENTS`: where sockets of this host were led, so that they see the VIP they asked for.

use crate::address::Address;
use crate::assert_size;

/// Key of `CLIENTS`: a socket and an address that it names or is answered from.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientKey {
    /// The kernel's number of the socket, never used twice.
    pub cookie: u64,
    /// By [`ClientKey::direction`] the VIP or the backend.
    pub address: Address,
    /// Its port, host order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// [`TO_BACKEND`] or [`TO_VIP`].
    pub direction: u8,
    /// Always 0.
    pub pad: u32,
}

/// Value of `CLIENTS`: what the key's address is to the socket.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientEnd {
    /// The address.
    pub address: Address,
    /// Its port, host order.
    pub port: u16,
    /// Always 0.
    pub pad: u16,
    /// Index into `BACKENDS`.
    pub backend: u32,
}

/// Direction of a [`ClientKey`]: from the VIP to the backend that was chosen for it (UDP only).
pub const TO_BACKEND: u8 = 0;
/// Direction of a [`ClientKey`]: from the backend to the VIP it is shown as.
pub const TO_VIP: u8 = 1;

assert_size!(ClientKey: 32, ClientEnd: 24);

/// Names of the programs for sockets, in the order they are attached in: what shows the VIP comes
/// before what leads away from it.
pub const PROGRAMS: [&str; 8] = [
    "getpeername4",
    "getpeername6",
    "recvmsg4",
    "recvmsg6",
    "sendmsg4",
    "sendmsg6",
    "connect4",
    "connect6",
];

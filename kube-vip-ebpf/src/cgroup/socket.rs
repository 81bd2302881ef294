//! A system call on a socket: the address it names, and whose socket it is.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated as raw;
use kube_vip_common::address::Address;

use crate::frame::{numbers, octets};

/// A system call on a socket.
pub struct Call(*mut bpf_sock_addr);

/// An address with its port. The address is in two words as they lie in memory, IPv4 mapped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    pub(super) address: [u64; 2],
    /// Host order.
    pub(super) port: u16,
}

impl Name {
    #[inline(always)]
    pub(super) fn new(address: &Address, port: u16) -> Self {
        Self { address: numbers(&address.octets), port }
    }

    #[inline(always)]
    pub(super) fn to_address(self) -> Address {
        Address { octets: octets(self.address) }
    }

    /// The IPv4 address, where it is one.
    #[inline(always)]
    pub(super) fn v4(self) -> Option<[u8; 4]> {
        let [high, low] = self.address;
        let [a, b, c, d, address @ ..] = low.to_ne_bytes();
        (high == 0 && [a, b, c, d] == [0, 0, 0xff, 0xff]).then_some(address)
    }
}

/// Reads a field of the context. Volatile, so that LLVM reads it as the whole word it is: the
/// verifier takes no other pieces of it.
macro_rules! read {
    ($call:expr, $($field:tt)+) => {
        // SAFETY: the context is valid for the program's whole run.
        unsafe { (&raw const (*$call.0).$($field)+).read_volatile() }
    };
}

/// Writes one, likewise.
macro_rules! write {
    ($call:expr, $value:expr, $($field:tt)+) => {
        // SAFETY: as for reading; these fields may be written.
        unsafe { (&raw mut (*$call.0).$($field)+).write_volatile($value) }
    };
}

impl Call {
    #[inline(always)]
    pub(super) const fn new(ctx: *mut bpf_sock_addr) -> Self {
        Self(ctx)
    }

    /// IP protocol number.
    #[inline(always)]
    pub(super) fn protocol(&self) -> u32 {
        read!(self, protocol)
    }

    /// The kernel's number of the socket.
    ///
    /// Minimum kernel: 4.12.
    #[inline(always)]
    pub(super) fn cookie(&self) -> u64 {
        // SAFETY: the program's own context.
        unsafe { raw::bpf_get_socket_cookie(self.0.cast()) }
    }

    /// The kernel's number of the socket's network namespace.
    ///
    /// Minimum kernel: 5.7, in all programs for socket addresses.
    #[inline(always)]
    pub(super) fn namespace(&self) -> u64 {
        // SAFETY: as above.
        unsafe { raw::bpf_get_netns_cookie(self.0.cast()) }
    }

    #[inline(always)]
    fn port(&self) -> u16 {
        // In network order, in a word whose other half is zero.
        u16::from_be(read!(self, user_port) as u16)
    }

    #[inline(always)]
    fn set_port(&self, port: u16) {
        write!(self, port.to_be().into(), user_port);
    }
}

/// The kernel's number of the initial network namespace.
///
/// Minimum kernel: 5.7.
#[inline(always)]
pub(super) fn initial_namespace() -> u64 {
    // SAFETY: no context stands for the initial namespace.
    unsafe { raw::bpf_get_netns_cookie(core::ptr::null_mut()) }
}

/// How a system call of a family names an address.
pub trait Named {
    /// The address it names.
    fn name(call: &Call) -> Name;
    /// Makes it name another.
    fn set(call: &Call, name: Name);
}

/// `struct sockaddr_in`.
pub struct V4;

impl Named for V4 {
    #[inline(always)]
    fn name(call: &Call) -> Name {
        let [a, b, c, d] = read!(call, user_ip4).to_ne_bytes();
        let low = u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d]);
        Name { address: [0, low], port: call.port() }
    }

    #[inline(always)]
    fn set(call: &Call, name: Name) {
        let [.., a, b, c, d] = name.address[1].to_ne_bytes();
        write!(call, u32::from_ne_bytes([a, b, c, d]), user_ip4);
        call.set_port(name.port);
    }
}

/// `struct sockaddr_in6`.
pub struct V6;

impl Named for V6 {
    #[inline(always)]
    fn name(call: &Call) -> Name {
        let [a, b, c, d] = [
            read!(call, user_ip6[0]),
            read!(call, user_ip6[1]),
            read!(call, user_ip6[2]),
            read!(call, user_ip6[3]),
        ];
        Name { address: [join(a, b), join(c, d)], port: call.port() }
    }

    #[inline(always)]
    fn set(call: &Call, name: Name) {
        let [high, low] = name.address;
        let ([a, b], [c, d]) = (split(high), split(low));
        write!(call, a, user_ip6[0]);
        write!(call, b, user_ip6[1]);
        write!(call, c, user_ip6[2]);
        write!(call, d, user_ip6[3]);
        call.set_port(name.port);
    }
}

/// Two words that follow each other in memory as one.
#[inline(always)]
fn join(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

#[inline(always)]
fn split(both: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = both.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

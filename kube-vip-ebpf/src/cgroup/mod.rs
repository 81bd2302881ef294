//! System calls of processes on this host that name a VIP, or are answered from a backend of one.
//!
//! Their packets do not pass XDP: on the owner they would end at its own kernel, and a backend on
//! the same host could not be told from its client. So the socket is led to a backend when it
//! connects or sends ([`lead`]), costs nothing per packet from then on, and sees the VIP where it
//! asks for its peer ([`show`]).
//!
//! An IPv6 socket that speaks IPv4 names mapped addresses, which is the form the maps have anyway.
//! What it sends to one without connecting comes as IPv4 (Linux net/ipv6/udp.c, `udpv6_sendmsg`).

use aya_ebpf::programs::SockAddrContext;

mod client;
mod lead;
mod show;
mod socket;

use self::socket::Call;
pub use self::socket::{Named, V4, V6};

/// What becomes of a system call.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It ends with an error.
    Refuse = 0,
    /// It goes on, with the address as it is now.
    Proceed = 1,
}

/// `connect`, of TCP and UDP sockets.
#[inline(always)]
pub fn connect<N: Named>(ctx: SockAddrContext) -> Verdict {
    lead::connect::<N>(&Call::new(ctx.sock_addr))
}

/// `sendto`, `sendmsg` and `sendmmsg` that name an address, of UDP sockets.
#[inline(always)]
pub fn sendmsg<N: Named>(ctx: SockAddrContext) -> Verdict {
    lead::send::<N>(&Call::new(ctx.sock_addr))
}

/// `recvfrom`, `recvmsg` and `recvmmsg` that ask for the sender, of UDP sockets.
///
/// Minimum kernel: 5.2.
#[inline(always)]
pub fn recvmsg<N: Named>(ctx: SockAddrContext) -> Verdict {
    show::vip::<N>(&Call::new(ctx.sock_addr))
}

/// `getpeername`.
///
/// Minimum kernel: 5.8.
#[inline(always)]
pub fn getpeername<N: Named>(ctx: SockAddrContext) -> Verdict {
    show::vip::<N>(&Call::new(ctx.sock_addr))
}

//! A packet socket that only sends.

use std::io;
use std::mem::size_of;

use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

use super::Wire;

/// Sends whole Ethernet frames. One serves all interfaces: it is bound to none, so that none of
/// them going down or away puts an error on it that the others would see.
#[derive(Debug)]
pub struct PacketSocket(Socket);

impl PacketSocket {
    /// Opens it in the network namespace of the calling thread; needs `CAP_NET_RAW`.
    pub fn open() -> io::Result<Self> {
        // Protocol 0: nothing is ever received (packet(7)).
        Socket::new(Domain::PACKET, Type::RAW, None).map(Self)
    }
}

impl Wire for PacketSocket {
    fn send(&mut self, interface: u32, frame: &[u8]) -> io::Result<()> {
        // The kernel waits neither for the queue nor for memory, and neither may the agent.
        self.0.send_to_with_flags(frame, &link_address(interface), libc::MSG_DONTWAIT).map(drop)
    }
}

fn link_address(interface: u32) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: the storage is aligned for and larger than every sockaddr type, and sockaddr_ll is
    // made of integers, for which zeroes are values.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    // The frame carries its own addresses: of this one the kernel reads only the interface.
    address.sll_ifindex = interface.cast_signed();
    // SAFETY: the storage holds a sockaddr_ll of this length, its family set.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}

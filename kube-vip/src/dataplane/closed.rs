//! A port of this host that is taken and never listened on: what is sent there the kernel resets.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, SockAddr, Socket, Type};

/// Holds the port in both families as long as it lives.
pub(super) struct ClosedPort {
    number: u16,
    _sockets: Vec<Socket>,
}

/// Another program may have the number in one family only; then the next one is tried.
const TRIES: usize = 16;

impl ClosedPort {
    /// Takes a free port.
    ///
    /// # Errors
    ///
    /// No port is free, or sockets are not to be had.
    pub(super) fn take() -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..TRIES {
            let v4 = bound((Ipv4Addr::UNSPECIFIED, 0).into())?;
            let number = v4.local_addr()?.as_socket().map_or(0, |address| address.port());
            match bound((Ipv6Addr::UNSPECIFIED, number).into()) {
                Ok(v6) => return Ok(Self { number, _sockets: vec![v4, v6] }),
                // A host without IPv6 has no packets to refuse there.
                Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                    return Ok(Self { number, _sockets: vec![v4] });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Its number.
    pub(super) fn number(&self) -> u16 {
        self.number
    }
}

fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

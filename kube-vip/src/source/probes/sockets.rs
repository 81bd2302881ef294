//! The sockets that questions leave through: one of each family, at this host's own address and
//! port, so that notices get to them too.

use std::io;
use std::net::{IpAddr, SocketAddr};

use kube_vip_common::probe::{Message, WORDS};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::UdpSocket;
use tracing::{debug, warn};

/// Bytes of a message.
const LENGTH: usize = WORDS * 4;

#[derive(Default)]
pub(super) struct Sockets {
    wanted: Vec<SocketAddr>,
    open: Vec<(SocketAddr, UdpSocket)>,
    /// What could not be opened, so that it is said once.
    failed: Vec<SocketAddr>,
}

impl Sockets {
    /// These are the addresses to speak from.
    pub(super) fn bind(&mut self, from: &[IpAddr], port: u16) {
        self.wanted = from.iter().map(|address| SocketAddr::new(*address, port)).collect();
        let wanted = &self.wanted;
        self.open.retain(|(address, _)| wanted.contains(address));
        self.failed.retain(|address| wanted.contains(address));
        self.bind_missing();
    }

    /// Tries again what could not be opened.
    pub(super) fn bind_missing(&mut self) {
        for address in &self.wanted {
            if self.open.iter().any(|(open, _)| open == address) {
                continue;
            }
            match open(*address) {
                Ok(socket) => {
                    self.failed.retain(|failed| failed != address);
                    self.open.push((*address, socket));
                }
                Err(error) if !self.failed.contains(address) => {
                    warn!("cannot ask other hosts from {address}: {error}; tried again");
                    self.failed.push(*address);
                }
                Err(_) => {}
            }
        }
    }

    /// Sends a message, made as long as a packet of `size` bytes is.
    pub(super) async fn send(&self, to: SocketAddr, message: &Message, size: Option<u16>) {
        let family = |(from, _): &&(SocketAddr, _)| from.is_ipv4() == to.is_ipv4();
        let Some((_, socket)) = self.open.iter().find(family) else { return };
        let mut bytes = message.words().concat();
        if let Some(size) = size {
            // The headers of IP and UDP.
            let headers = if to.is_ipv4() { 20 + 8 } else { 40 + 8 };
            bytes.resize(usize::from(size).saturating_sub(headers).max(LENGTH), 0);
        }
        // What does not leave is not answered, which says enough.
        if let Err(error) = socket.send_to(&bytes, to).await {
            debug!("asking {to}: {error}");
        }
    }

    /// The next message.
    pub(super) async fn receive(&self) -> (IpAddr, Message) {
        loop {
            let (first, second) = (self.open.first(), self.open.get(1));
            let (from, message) = tokio::select! {
                heard = hear(first) => heard,
                heard = hear(second) => heard,
            };
            if let Some(message) = message {
                return (from, message);
            }
        }
    }
}

/// Waits for ever where there is no socket.
async fn hear(socket: Option<&(SocketAddr, UdpSocket)>) -> (IpAddr, Option<Message>) {
    let Some((address, socket)) = socket else { return std::future::pending().await };
    let mut bytes = [0; LENGTH];
    match socket.recv_from(&mut bytes).await {
        Ok((length, from)) => (from.ip(), read(&bytes[..length])),
        // An error that somebody's kernel sent back: not answered, which says enough.
        Err(error) => {
            debug!("{address}: {error}");
            (address.ip(), None)
        }
    }
}

fn read(bytes: &[u8]) -> Option<Message> {
    let (words, []) = bytes.as_chunks::<4>() else { return None };
    Message::read(words.try_into().ok()?)
}

fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

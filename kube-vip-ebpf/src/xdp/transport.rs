//! What balancing needs of TCP and UDP headers.

use kube_vip_common::checksum::{self, Sum};
use network_types::tcp::TcpHdr;
use network_types::udp::UdpHdr;

use crate::family::{Ports, protocol};
use crate::frame::Cursor;

/// TCP flags in their byte (RFC 9293 §3.1).
pub(super) mod flags {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const ACK: u8 = 0x10;
}

/// The parts of a TCP or UDP header that are read or rewritten.
pub(super) struct Transport<'a> {
    pub(super) ports: Ports,
    destination: &'a mut [u8; 2],
    check: &'a mut [u8; 2],
    /// It has no flow to belong to: a SYN without ACK. UDP has no such thing.
    pub(super) opens: bool,
}

#[inline(always)]
pub(super) fn parse<'a>(cursor: &mut Cursor<'a>, protocol: u8) -> Option<Transport<'a>> {
    if protocol == protocol::TCP {
        let flags = tcp_flags(cursor)?;
        let TcpHdr { source, dest, check, .. } = cursor.take::<TcpHdr>()?;
        Some(Transport {
            ports: ports(*source, *dest, protocol),
            destination: dest,
            check,
            opens: flags & (flags::SYN | flags::ACK | flags::RST) == flags::SYN,
        })
    } else {
        let UdpHdr { src, dst, check, .. } = cursor.take::<UdpHdr>()?;
        Some(Transport {
            ports: ports(*src, *dst, protocol),
            destination: dst,
            check,
            opens: false,
        })
    }
}

/// The flags of the TCP header at the cursor.
#[inline(always)]
pub(super) fn tcp_flags(cursor: &Cursor<'_>) -> Option<u8> {
    cursor.peek::<[u8; 14]>().map(|header| header[13])
}

#[inline(always)]
fn ports(source: [u8; 2], destination: [u8; 2], protocol: u8) -> Ports {
    Ports {
        source: u16::from_be_bytes(source),
        destination: u16::from_be_bytes(destination),
        protocol,
    }
}

impl Transport<'_> {
    /// Whether a connection of this kind begins and ends with segments of its own.
    #[inline(always)]
    pub(super) fn is_tcp(&self) -> bool {
        self.ports.protocol == protocol::TCP
    }

    /// Sets the destination port; `change` is what else under the checksum changes.
    #[inline(always)]
    pub(super) fn set_destination(&mut self, port: u16, change: Sum) {
        let new = port.to_be_bytes();
        let old = u16::from_ne_bytes(*self.check);
        // A UDP sender over IPv4 may leave the checksum out (RFC 768); then it stays out.
        if self.is_tcp() || old != 0 {
            let change = change
                .remove(u16::from_ne_bytes(*self.destination).into())
                .add(u16::from_ne_bytes(new).into());
            let check = change.update(old);
            *self.check = if self.is_tcp() { check } else { checksum::udp(check) }.to_ne_bytes();
        }
        *self.destination = new;
    }
}

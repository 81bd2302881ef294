//! What balancing needs of TCP and UDP headers.

use kube_vip_common::checksum::{self, Sum};
use network_types::tcp::TcpHdr;
use network_types::udp::UdpHdr;

use crate::family::{Ports, protocol};
use crate::frame::Cursor;

/// The parts of a TCP or UDP header that are read or rewritten.
pub(crate) struct Transport<'a> {
    pub(super) ports: Ports,
    source: &'a mut [u8; 2],
    destination: &'a mut [u8; 2],
    check: &'a mut [u8; 2],
    /// It has no flow to belong to: a SYN without ACK. UDP has no such thing.
    pub(super) opens: bool,
    /// The sequence number that a TCP segment acknowledges, see [`sequence`].
    pub(super) acknowledges: u64,
}

/// A sequence number as one number that is not 0, which stands for none: the two halves of an
/// `Option` would be two registers, one of them not always written.
#[inline(always)]
pub(crate) const fn sequence(number: u32) -> u64 {
    1 << 32 | number as u64
}

#[inline(always)]
pub(super) fn parse<'a>(cursor: &mut Cursor<'a>, protocol: u8) -> Option<Transport<'a>> {
    if protocol == protocol::TCP {
        let tcp = cursor.take::<TcpHdr>()?;
        let opens = tcp.syn() != 0 && tcp.ack() == 0 && tcp.rst() == 0;
        let acknowledges = match tcp.ack() != 0 && tcp.syn() == 0 {
            true => sequence(u32::from_be_bytes(tcp.ack_seq)),
            false => 0,
        };
        let TcpHdr { source, dest, check, .. } = tcp;
        Some(Transport {
            ports: ports(*source, *dest, protocol),
            source,
            destination: dest,
            check,
            opens,
            acknowledges,
        })
    } else {
        let UdpHdr { src, dst, check, .. } = cursor.take::<UdpHdr>()?;
        Some(Transport {
            ports: ports(*src, *dst, protocol),
            source: src,
            destination: dst,
            check,
            opens: false,
            acknowledges: 0,
        })
    }
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
        let old = core::mem::replace(self.destination, new);
        self.follow(change.remove(word(old)).add(word(new)));
    }

    /// Sets the source port.
    #[inline(always)]
    pub(super) fn set_source(&mut self, port: u16) {
        let new = port.to_be_bytes();
        let old = core::mem::replace(self.source, new);
        self.follow(Sum::default().remove(word(old)).add(word(new)));
    }

    /// Makes the checksum follow a change of what it covers.
    #[inline(always)]
    fn follow(&mut self, change: Sum) {
        let old = u16::from_ne_bytes(*self.check);
        // A UDP sender over IPv4 may leave the checksum out (RFC 768); then it stays out.
        if self.is_tcp() || old != 0 {
            let check = change.update(old);
            *self.check = if self.is_tcp() { check } else { checksum::udp(check) }.to_ne_bytes();
        }
    }
}

/// Two bytes as checksums add them.
#[inline(always)]
fn word(bytes: [u8; 2]) -> u32 {
    u16::from_ne_bytes(bytes).into()
}

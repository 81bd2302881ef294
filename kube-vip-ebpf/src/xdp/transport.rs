//! What balancing needs of TCP and UDP headers.

use kube_vip_common::checksum::{self, Sum};
use kube_vip_common::nat::Signs;
use network_types::tcp::TcpHdr;
use network_types::udp::UdpHdr;

use crate::family::{Ports, protocol};
use crate::frame::Cursor;

/// The parts of a TCP or UDP header that are read or rewritten.
pub(super) struct Transport<'a> {
    pub(super) ports: Ports,
    source: &'a mut [u8; 2],
    destination: &'a mut [u8; 2],
    check: &'a mut [u8; 2],
    /// It has no flow to belong to: a SYN without ACK. UDP has no such thing.
    pub(super) opens: bool,
    /// TCP's flags; none are set where it is UDP.
    pub(super) signs: Signs,
}

#[inline(always)]
pub(super) fn parse<'a>(cursor: &mut Cursor<'a>, protocol: u8) -> Option<Transport<'a>> {
    if protocol == protocol::TCP {
        let tcp = cursor.take::<TcpHdr>()?;
        let signs = Signs {
            syn: tcp.syn() != 0,
            ack: tcp.ack() != 0,
            fin: tcp.fin() != 0,
            rst: tcp.rst() != 0,
        };
        let opens = signs.syn && !signs.ack && !signs.rst;
        let TcpHdr { source, dest, check, .. } = tcp;
        Some(Transport {
            ports: ports(*source, *dest, protocol),
            source,
            destination: dest,
            check,
            opens,
            signs,
        })
    } else {
        let UdpHdr { src, dst, check, .. } = cursor.take::<UdpHdr>()?;
        Some(Transport {
            ports: ports(*src, *dst, protocol),
            source: src,
            destination: dst,
            check,
            opens: false,
            signs: Signs::default(),
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
        self.update(
            change
                .remove(u16::from_ne_bytes(*self.destination).into())
                .add(u16::from_ne_bytes(new).into()),
        );
        *self.destination = new;
    }

    /// Sets both ports; `change` is what else under the checksum changes.
    #[inline(always)]
    pub(super) fn translate(&mut self, source: u16, destination: u16, change: Sum) {
        let (source, destination) = (source.to_be_bytes(), destination.to_be_bytes());
        self.update(
            change
                .remove(u16::from_ne_bytes(*self.source).into())
                .add(u16::from_ne_bytes(source).into())
                .remove(u16::from_ne_bytes(*self.destination).into())
                .add(u16::from_ne_bytes(destination).into()),
        );
        *self.source = source;
        *self.destination = destination;
    }

    /// Makes the checksum follow a change of what it covers.
    #[inline(always)]
    fn update(&mut self, change: Sum) {
        let old = u16::from_ne_bytes(*self.check);
        // A UDP sender over IPv4 may leave the checksum out (RFC 768); then it stays out.
        if self.is_tcp() || old != 0 {
            let check = change.update(old);
            *self.check = if self.is_tcp() { check } else { checksum::udp(check) }.to_ne_bytes();
        }
    }
}

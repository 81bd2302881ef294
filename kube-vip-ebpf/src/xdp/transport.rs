//! What balancing needs of TCP, UDP and SCTP headers.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::checksum::{self, Sum};
use kube_vip_common::nat::Signs;
use network_types::eth::EthHdr;
use network_types::tcp::TcpHdr;
use network_types::udp::UdpHdr;

use crate::family::{Family, Ports, protocol};
use crate::frame::{Both, Cursor, Word};

/// The common header of SCTP (RFC 9260 §3.1): ports, verification tag, checksum.
type Sctp = Both<Both<[u8; 2], [u8; 2]>, Both<Word, Both<[u8; 2], [u8; 2]>>>;

/// Type of the chunk that begins an association (RFC 9260 §3.3.2).
const INIT: u8 = 1;

/// The parts of a header that are read or rewritten.
pub(crate) struct Transport<'a> {
    pub(super) ports: Ports,
    source: &'a mut [u8; 2],
    destination: &'a mut [u8; 2],
    check: &'a mut [u8; 2],
    /// It has no flow to belong to: a SYN without ACK, an INIT. UDP has no such thing.
    pub(super) opens: bool,
    /// TCP's flags; none are set where it is UDP.
    pub(super) signs: Signs,
    /// What only a client knows that the backend has answered, see [`sequence`]: the sequence number
    /// that a TCP segment acknowledges, SCTP's verification tag.
    pub(super) acknowledges: u64,
}

/// A sequence number as one number that is not 0, which stands for none: the two halves of an
/// `Option` would be two registers, one of them not always written.
#[inline(always)]
pub(crate) const fn sequence(number: u32) -> u64 {
    1 << 32 | number as u64
}

/// A segment's flags.
#[inline(always)]
pub(crate) fn signs(tcp: &TcpHdr) -> Signs {
    Signs { syn: tcp.syn() != 0, ack: tcp.ack() != 0, fin: tcp.fin() != 0, rst: tcp.rst() != 0 }
}

/// What a stage of its own needs of a packet, first fragments among them; nothing where it is not
/// what the stage's caller saw.
#[inline(always)]
pub(super) fn packet<F: Family>(
    ctx: &XdpContext,
) -> Option<(&mut EthHdr, &mut F::Header, Transport<'_>)> {
    let mut cursor = Cursor::new(ctx);
    let ethernet = cursor.take::<EthHdr>()?;
    let ip = cursor.take::<F::Header>()?;
    let protocol = F::payload(ctx, ip, &mut cursor).protocol()?;
    let transport = parse(&mut cursor, protocol)?;
    Some((ethernet, ip, transport))
}

#[inline(always)]
pub(super) fn parse<'a>(cursor: &mut Cursor<'a>, protocol: u8) -> Option<Transport<'a>> {
    if protocol == protocol::TCP {
        let tcp = cursor.take::<TcpHdr>()?;
        let signs = signs(tcp);
        let opens = signs.syn && !signs.ack && !signs.rst;
        let acknowledges = match signs.ack && !signs.syn {
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
            signs,
            acknowledges,
        })
    } else if protocol == protocol::SCTP {
        let Both(Both(source, destination), Both(tag, Both(check, _))) = cursor.take::<Sctp>()?;
        let opens = cursor.peek::<u8>() == Some(INIT);
        let acknowledges = sequence(u32::from_be_bytes(*tag));
        let ports = ports(*source, *destination, protocol);
        let signs = Signs::default();
        Some(Transport { ports, source, destination, check, opens, signs, acknowledges })
    } else {
        let UdpHdr { src, dst, check, .. } = cursor.take::<UdpHdr>()?;
        Some(Transport {
            ports: ports(*src, *dst, protocol),
            source: src,
            destination: dst,
            check,
            opens: false,
            signs: Signs::default(),
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
    /// Whether a flow of this kind begins and ends with segments of its own.
    #[inline(always)]
    pub(super) fn has_connections(&self) -> bool {
        self.is_tcp() || self.is_sctp()
    }

    /// Whether its ports have to stay: SCTP's checksum covers them (RFC 9260 §6.8).
    #[inline(always)]
    pub(super) fn is_sctp(&self) -> bool {
        self.ports.protocol == protocol::SCTP
    }

    /// Whether it is a datagram.
    #[inline(always)]
    pub(super) fn is_udp(&self) -> bool {
        self.ports.protocol == protocol::UDP
    }

    /// Whether it may be a flow's first packet.
    #[inline(always)]
    pub(super) fn begins(&self) -> bool {
        self.opens || self.is_udp()
    }

    /// Whether it can be answered with RST.
    #[inline(always)]
    pub(super) fn is_tcp(&self) -> bool {
        self.ports.protocol == protocol::TCP
    }

    /// Sets the destination port; `change` is what else under the checksum changes.
    #[inline(always)]
    pub(super) fn set_destination(&mut self, port: u16, change: Sum) {
        if self.is_sctp() {
            // Its port stays, and its checksum covers no addresses (RFC 9260 §6.8).
            return;
        }
        let new = port.to_be_bytes();
        let old = core::mem::replace(self.destination, new);
        self.update(change.remove(word(old)).add(word(new)));
    }

    /// Sets both ports; `change` is what else under the checksum changes.
    #[inline(always)]
    pub(super) fn translate(&mut self, source: u16, destination: u16, change: Sum) {
        let (source, destination) = (source.to_be_bytes(), destination.to_be_bytes());
        self.update(
            change
                .remove(word(*self.source))
                .add(word(source))
                .remove(word(*self.destination))
                .add(word(destination)),
        );
        *self.source = source;
        *self.destination = destination;
    }

    /// Sets the source port.
    #[inline(always)]
    pub(super) fn set_source(&mut self, port: u16) {
        let new = port.to_be_bytes();
        let old = core::mem::replace(self.source, new);
        self.update(Sum::default().remove(word(old)).add(word(new)));
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

/// Two bytes as checksums add them.
#[inline(always)]
fn word(bytes: [u8; 2]) -> u32 {
    u16::from_ne_bytes(bytes).into()
}

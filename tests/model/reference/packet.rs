//! Bytes ↔ structure. What is parsed and serialised again is the same to the last byte, whatever it
//! was; what is not there is not invented.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::{checksum, follow, follow_udp};

pub(crate) type Mac = [u8; 6];

pub(crate) const ICMP: u8 = 1;
pub(crate) const IPIP: u8 = 4;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const IP6IP6: u8 = 41;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const DESTINATION: u8 = 60;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const SCTP: u8 = 132;

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV6: u16 = 0x86dd;

/// Takes bytes from the front, or nothing where there are not as many.
pub(crate) fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*head)
}

/// An Ethernet frame.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) to: Mac,
    pub(crate) from: Mac,
    /// At most two VLAN tags, with their EtherTypes (IEEE 802.1Q §9.6).
    pub(crate) tags: Vec<[u8; 4]>,
    pub(crate) kind: u16,
    pub(crate) rest: Vec<u8>,
}

impl Frame {
    pub(crate) fn parse(mut bytes: &[u8]) -> Option<Self> {
        let (to, from) = (take(&mut bytes)?, take(&mut bytes)?);
        let mut tags = Vec::new();
        while tags.len() < 2 && matches!(bytes, [0x81, 0, ..] | [0x88, 0xa8, ..]) {
            tags.push(take(&mut bytes)?);
        }
        let kind = u16::from_be_bytes(take(&mut bytes)?);
        Some(Self { to, from, tags, kind, rest: bytes.to_vec() })
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let tags = self.tags.concat();
        [&self.to[..], &self.from, &tags, &self.kind.to_be_bytes(), &self.rest].concat()
    }

    /// Length without tags: what is counted. Of a frame in several buffers the packet's own word says
    /// how long it is, and it is believed where there seems to be less.
    pub(crate) fn length(&self, ip: &Ip) -> usize {
        14 + self.rest.len().max(ip.total())
    }

    /// Whether the whole packet is there.
    pub(crate) fn is_complete(&self, ip: &Ip) -> bool {
        self.rest.len() >= ip.total()
    }

    /// Whether it was for one host alone.
    pub(crate) fn is_unicast(&self) -> bool {
        self.to[0] & 1 == 0
    }

    /// Back to where it came from, with something else in it.
    pub(crate) fn returned(&self, rest: Vec<u8>) -> Self {
        Self { to: self.from, from: self.to, rest, ..self.clone() }
    }
}

/// What the two versions have for themselves.
#[derive(Clone, Debug)]
pub(crate) enum Version {
    V4 { vihl: u8, tos: u8, length: u16, id: u16, fragment: u16, check: u16, options: Vec<u8> },
    V6 { flow: u32, length: u16 },
}

/// An IP packet, with what follows it in the frame.
#[derive(Clone, Debug)]
pub(crate) struct Ip {
    pub(crate) version: Version,
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) payload: Vec<u8>,
}

/// What lies behind the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// A whole packet of this protocol.
    Whole(u8),
    /// The first fragment of one.
    First(u8),
    /// Another fragment.
    Later,
    Malformed,
}

impl Content {
    /// The protocol whose header is there.
    pub(crate) fn protocol(self) -> Option<u8> {
        match self {
            Self::Whole(protocol) | Self::First(protocol) => Some(protocol),
            _ => None,
        }
    }
}

impl Ip {
    pub(crate) fn parse_v4(mut bytes: &[u8]) -> Option<Self> {
        let [vihl, tos, l0, l1, i0, i1, f0, f1, ttl, protocol, c0, c1] = take(&mut bytes)?;
        let (source, destination) = (take::<4>(&mut bytes)?, take::<4>(&mut bytes)?);
        let words = usize::from(vihl & 0xf).saturating_sub(5);
        let (options, payload) = bytes.split_at((words * 4).min(bytes.len()));
        let [length, id, fragment, check] =
            [[l0, l1], [i0, i1], [f0, f1], [c0, c1]].map(u16::from_be_bytes);
        let options = options.to_vec();
        Some(Self {
            version: Version::V4 { vihl, tos, length, id, fragment, check, options },
            ttl,
            protocol,
            source: Ipv4Addr::from(source).into(),
            destination: Ipv4Addr::from(destination).into(),
            payload: payload.to_vec(),
        })
    }

    pub(crate) fn parse_v6(mut bytes: &[u8]) -> Option<Self> {
        let flow = u32::from_be_bytes(take(&mut bytes)?);
        let length = u16::from_be_bytes(take(&mut bytes)?);
        let [protocol, ttl] = take(&mut bytes)?;
        let (source, destination) = (take::<16>(&mut bytes)?, take::<16>(&mut bytes)?);
        Some(Self {
            version: Version::V6 { flow, length },
            ttl,
            protocol,
            source: Ipv6Addr::from(source).into(),
            destination: Ipv6Addr::from(destination).into(),
            payload: bytes.to_vec(),
        })
    }

    /// A packet as a host makes it that has nothing to say of its own.
    pub(crate) fn new(source: IpAddr, destination: IpAddr, protocol: u8, payload: Vec<u8>) -> Self {
        let length = payload.len();
        Self { payload, ..Self::around(source, destination, protocol, length) }
    }

    /// The header of one, of a payload of that length.
    pub(crate) fn around(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Self {
        let (length, payload) = (length as u16, vec![]);
        let version = if source.is_ipv4() {
            // Don't fragment, so that the identification may be 0 (RFC 6864 §4.1).
            let (id, fragment, check) = (0, 0x4000, 0);
            let (tos, length, options) = (0, length + 20, vec![]);
            Version::V4 { vihl: 0x45, tos, length, id, fragment, check, options }
        } else {
            Version::V6 { flow: 0x6000_0000, length }
        };
        let mut ip = Self { version, ttl: 64, protocol, source, destination, payload };
        let right = checksum(&ip.header());
        if let Version::V4 { check, .. } = &mut ip.version {
            *check = right;
        }
        ip
    }

    pub(crate) fn is_v4(&self) -> bool {
        self.source.is_ipv4()
    }

    /// The version's control messages.
    pub(crate) fn icmp(&self) -> u8 {
        if self.is_v4() { ICMP } else { ICMPV6 }
    }

    fn header(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match &self.version {
            Version::V4 { vihl, tos, length, id, fragment, check, .. } => {
                bytes.extend([*vihl, *tos]);
                bytes.extend([length, id, fragment].map(|word| word.to_be_bytes()).concat());
                bytes.extend([self.ttl, self.protocol]);
                bytes.extend(check.to_be_bytes());
            }
            Version::V6 { flow, length } => {
                bytes.extend(flow.to_be_bytes());
                bytes.extend(length.to_be_bytes());
                bytes.extend([self.protocol, self.ttl]);
            }
        }
        bytes.extend(octets(self.source));
        bytes.extend(octets(self.destination));
        if let Version::V4 { options, .. } = &self.version {
            bytes.extend(options);
        }
        bytes
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        [self.header(), self.payload.clone()].concat()
    }

    /// Bytes of the header with its options.
    pub(crate) fn header_length(&self) -> usize {
        match self.version {
            Version::V4 { vihl, .. } => usize::from(vihl & 0xf) * 4,
            Version::V6 { .. } => 40,
        }
    }

    /// Bytes of the packet, by its own word.
    pub(crate) fn total(&self) -> usize {
        match self.version {
            Version::V4 { length, .. } => length.into(),
            Version::V6 { length, .. } => usize::from(length) + 40,
        }
    }

    /// Bytes behind the header, by its own word.
    pub(crate) fn length(&self) -> usize {
        match self.version {
            Version::V4 { length, .. } => usize::from(length).saturating_sub(self.header_length()),
            Version::V6 { length, .. } => length.into(),
        }
    }

    /// What it carries, and behind how many bytes of the payload: those of extension headers.
    pub(crate) fn content(&self) -> (Content, usize) {
        match &self.version {
            Version::V4 { vihl, .. } if vihl & 0xf < 5 => (Content::Malformed, 0),
            Version::V4 { fragment, .. } => match fragment & 0x3fff {
                0 => (Content::Whole(self.protocol), 0),
                0x2000 => (Content::First(self.protocol), 0),
                _ => (Content::Later, 0),
            },
            Version::V6 { .. } => self.behind_extensions(),
        }
    }

    /// RFC 8200 §4. More than five extension headers are not stepped over: what follows them is
    /// nothing that is known.
    fn behind_extensions(&self) -> (Content, usize) {
        let (mut next, mut at, mut part) = (self.protocol, 0, false);
        for _ in 0..5 {
            let header = self.payload.get(at..).unwrap_or_default();
            match (next, header) {
                (HOP_BY_HOP | ROUTING | DESTINATION, [protocol, units, ..]) => {
                    (next, at) = (*protocol, at + (usize::from(*units) + 1) * 8);
                }
                (FRAGMENT, [protocol, _, high, low, _, _, _, _, ..]) => {
                    // §4.5: offset in the upper 13 bits, then whether more follow. Neither: it is
                    // whole (RFC 6946).
                    let place = u16::from_be_bytes([*high, *low]);
                    if place >> 3 != 0 {
                        return (Content::Later, at + 8);
                    }
                    part |= place & 1 != 0;
                    (next, at) = (*protocol, at + 8);
                }
                (HOP_BY_HOP | ROUTING | DESTINATION | FRAGMENT, _) => {
                    return (Content::Malformed, at);
                }
                _ => break,
            }
        }
        (if part { Content::First(next) } else { Content::Whole(next) }, at)
    }

    /// What tells its fragments from those of other packets between the same two.
    pub(crate) fn identification(&self) -> (u32, u8) {
        match self.version {
            Version::V4 { id, .. } => (id.into(), self.protocol),
            Version::V6 { .. } => {
                let (mut next, mut at) = (self.protocol, 0);
                while let [protocol, units, rest @ ..] = self.behind(at) {
                    if next == FRAGMENT {
                        let id = rest.get(2..6).and_then(|id| id.try_into().ok());
                        return (id.map_or(0, u32::from_be_bytes), 0);
                    }
                    (next, at) = (*protocol, at + (usize::from(*units) + 1) * 8);
                }
                (0, 0)
            }
        }
    }

    /// The bytes from there on.
    pub(crate) fn behind(&self, at: usize) -> &[u8] {
        self.payload.get(at..).unwrap_or_default()
    }

    /// Ports are at `at`.
    pub(crate) fn set_port(&mut self, at: usize, port: u16) {
        if self.content().0.protocol() == Some(SCTP) {
            // Its checksum covers ports, so they stay.
            return;
        }
        self.payload[at..at + 2].copy_from_slice(&port.to_be_bytes());
    }

    /// Makes a change, and the checksums of IP, TCP and UDP follow it.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Self)) {
        let before = self.clone();
        change(self);
        if let Version::V4 { check: old, .. } = &before.version {
            let without = |ip: &Self| {
                let mut bytes = ip.header();
                bytes[10..12].fill(0);
                bytes
            };
            let new = follow(*old, &without(&before), &without(self));
            if let Version::V4 { check, .. } = &mut self.version {
                *check = new;
            }
        }
        let (content, at) = before.content();
        let Some(protocol @ (TCP | UDP)) = content.protocol() else { return };
        let check = at + if protocol == TCP { 16 } else { 6 };
        let Some(old) = before.payload.get(check..check + 2) else { return };
        let old = u16::from_be_bytes([old[0], old[1]]);
        let before = before.covered(protocol, at, check);
        let after = self.covered(protocol, at, check);
        let new = if protocol == TCP { follow } else { follow_udp }(old, &before, &after);
        self.payload[check..check + 2].copy_from_slice(&new.to_be_bytes());
    }

    /// What a transport checksum covers (RFC 9293 §3.1, RFC 768, RFC 8200 §8.1) of a segment at `at`,
    /// with zeros in its place, `check`. Padding of the frame is not covered.
    fn covered(&self, protocol: u8, at: usize, check: usize) -> Vec<u8> {
        let end = self.length().clamp(check + 2, self.payload.len());
        let mut segment = self.payload[at..end].to_vec();
        segment[check - at..check - at + 2].fill(0);
        pseudo(self.source, self.destination, protocol, &segment)
    }
}

/// The pseudo-header and what follows it.
pub(crate) fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, segment: &[u8]) -> Vec<u8> {
    let mut bytes = octets(source);
    bytes.extend(octets(destination));
    bytes.extend((segment.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes.extend(segment);
    bytes
}

pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// A TCP, UDP or SCTP header, complete.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transport {
    pub(crate) protocol: u8,
    pub(crate) source: u16,
    pub(crate) destination: u16,
    pub(crate) sequence: u32,
    /// Of SCTP, the verification tag: it too is known to the client only from the backend's answer.
    pub(crate) acknowledgement: u32,
    /// Type of an SCTP packet's first chunk.
    pub(crate) chunk: Option<u8>,
    /// Bytes of a TCP header, by its own word.
    pub(crate) header: u32,
    pub(crate) flags: u8,
}

/// Types of SCTP chunks.
const INIT: u8 = 1;
pub(crate) const INIT_ACK: u8 = 2;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

impl Transport {
    pub(crate) fn parse(protocol: u8, bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let [source, destination] = [take(&mut rest)?, take(&mut rest)?].map(u16::from_be_bytes);
        let mut transport = Self {
            protocol,
            source,
            destination,
            sequence: 0,
            acknowledgement: 0,
            chunk: None,
            header: 8,
            flags: 0,
        };
        match protocol {
            TCP if bytes.len() >= 20 => {
                transport.sequence = u32::from_be_bytes(take(&mut rest)?);
                transport.acknowledgement = u32::from_be_bytes(take(&mut rest)?);
                let [offset, flags] = take(&mut rest)?;
                (transport.header, transport.flags) = (u32::from(offset >> 4) * 4, flags);
                Some(transport)
            }
            UDP if bytes.len() >= 8 => Some(transport),
            SCTP if bytes.len() >= 12 => {
                transport.acknowledgement = u32::from_be_bytes(take(&mut rest)?);
                transport.chunk = bytes.get(12).copied();
                Some(transport)
            }
            _ => None,
        }
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// It belongs to no flow: a SYN by itself, an INIT.
    pub(crate) fn opens(&self) -> bool {
        match self.protocol {
            SCTP => self.chunk == Some(INIT),
            _ => self.has(SYN) && !self.has(ACK) && !self.has(RST),
        }
    }

    /// It belongs to a connection that has begun with another segment.
    pub(crate) fn goes_on(&self) -> bool {
        self.protocol != UDP && !self.opens()
    }

    /// What it acknowledges of the backend's, if anything.
    pub(crate) fn acknowledged(&self) -> Option<u32> {
        let says = self.protocol == SCTP || self.has(ACK) && !self.has(SYN);
        says.then_some(self.acknowledgement)
    }
}

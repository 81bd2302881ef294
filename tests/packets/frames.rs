//! Frames as one would write them down, with right checksums.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kube_vip::view::Mac;

pub(crate) const CLIENT: Mac = Mac([2, 0, 0, 0, 0, 0xc1]);
pub(crate) const HOST: Mac = Mac([2, 0, 0, 0, 0, 0x01]);
pub(crate) const PEER: Mac = Mac([2, 0, 0, 0, 0, 0x02]);
pub(crate) const ROUTER: Mac = Mac([2, 0, 0, 0, 0, 0x0f]);
pub(crate) const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 0xee]);
pub(crate) const BROADCAST: Mac = Mac([0xff; 6]);
pub(crate) const NOBODY: Mac = Mac([0; 6]);

pub(crate) const VIP4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
pub(crate) const HOST4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(crate) const PEER4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub(crate) const CLIENT4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 201);
pub(crate) const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100);
pub(crate) const HOST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const PEER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
pub(crate) const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x201);

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

/// Flags of IPv4: don't fragment; more fragments.
pub(crate) const DF: u16 = 0x4000;
pub(crate) const MF: u16 = 0x2000;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const GRE: u8 = 47;
pub(crate) const ICMPV6: u8 = 58;

/// Shortest frame without its check sequence (IEEE 802.3 §3.2.8).
const SHORTEST: usize = 60;

/// The Internet checksum as RFC 1071 §4.1 has it, byte by byte and slow.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let mut bytes = octets(source);
    bytes.extend(octets(destination));
    match source {
        IpAddr::V4(_) => {
            bytes.extend([0, protocol]);
            bytes.extend((length as u16).to_be_bytes());
        }
        IpAddr::V6(_) => {
            bytes.extend((length as u32).to_be_bytes());
            bytes.extend([0, 0, 0, protocol]);
        }
    }
    bytes
}

/// What an IP packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    Tcp {
        flags: u8,
        sequence: u32,
        acknowledgement: u32,
        window: u16,
        options: Vec<u8>,
    },
    /// Without `checked` the checksum is 0: there is none (RFC 768).
    Udp {
        checked: bool,
    },
    /// ICMP or `ICMPv6`, with everything behind the checksum as data.
    Icmp {
        kind: u8,
        code: u8,
    },
    Other(u8),
}

/// A frame under construction, from the link up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) from: Mac,
    pub(crate) to: Mac,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) ttl: u8,
    /// Identification of IPv4.
    pub(crate) id: u16,
    /// Flags and offset of IPv4.
    pub(crate) fragment: u16,
    /// Options of IPv4.
    pub(crate) options: Vec<u8>,
    /// Source and destination of TCP and UDP.
    pub(crate) ports: (u16, u16),
    pub(crate) segment: Segment,
    pub(crate) data: Vec<u8>,
}

impl Packet {
    /// From the client to the family's VIP.
    pub(crate) fn new(v6: bool, segment: Segment, ports: (u16, u16), data: &[u8]) -> Self {
        Self {
            from: CLIENT,
            to: HOST,
            source: client(v6),
            destination: vip(v6),
            ttl: 64,
            id: 0x1234,
            fragment: 0,
            options: Vec::new(),
            ports,
            segment,
            data: data.to_vec(),
        }
    }

    pub(crate) fn tcp(v6: bool, ports: (u16, u16), flags: u8, data: &[u8]) -> Self {
        let (sequence, acknowledgement, window) = (0xffff_fff0, 0x0102_0304, 0x2000);
        let options = Vec::new();
        let segment = Segment::Tcp { flags, sequence, acknowledgement, window, options };
        Self::new(v6, segment, ports, data)
    }

    pub(crate) fn udp(v6: bool, ports: (u16, u16), data: &[u8]) -> Self {
        Self::new(v6, Segment::Udp { checked: true }, ports, data)
    }

    pub(crate) fn icmp(v6: bool, kind: u8, code: u8, rest: &[u8]) -> Self {
        Self::new(v6, Segment::Icmp { kind, code }, (0, 0), rest)
    }

    /// An echo request with this identifier, number and data.
    pub(crate) fn echo(v6: bool, data: &[u8]) -> Self {
        let rest = [&[0x11, 0x22, 0x33, 0x44], data].concat();
        Self::icmp(v6, if v6 { 128 } else { 8 }, 0, &rest)
    }

    pub(crate) fn other(v6: bool, protocol: u8, data: &[u8]) -> Self {
        Self::new(v6, Segment::Other(protocol), (0, 0), data)
    }

    pub(crate) fn link(self, from: Mac, to: Mac) -> Self {
        Self { from, to, ..self }
    }

    pub(crate) fn between(self, source: IpAddr, destination: IpAddr) -> Self {
        Self { source, destination, ..self }
    }

    pub(crate) fn ports(self, source: u16, destination: u16) -> Self {
        Self { ports: (source, destination), ..self }
    }

    pub(crate) fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    pub(crate) fn options(self, options: &[u8]) -> Self {
        Self { options: options.to_vec(), ..self }
    }

    pub(crate) fn fragment(self, fragment: u16) -> Self {
        Self { fragment, ..self }
    }

    /// As a program writes a header of its own: no identification, don't fragment.
    pub(crate) fn fresh(self) -> Self {
        Self { id: 0, fragment: DF, ttl: 64, ..self }
    }

    pub(crate) fn protocol(&self) -> u8 {
        match self.segment {
            Segment::Tcp { .. } => TCP,
            Segment::Udp { .. } => UDP,
            Segment::Icmp { .. } if self.source.is_ipv4() => ICMP,
            Segment::Icmp { .. } => ICMPV6,
            Segment::Other(protocol) => protocol,
        }
    }

    /// Transport header and data.
    pub(crate) fn transport(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let (source, destination) = self.ports;
        let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
        let check = match &self.segment {
            Segment::Tcp { flags, sequence, acknowledgement, window, options } => {
                bytes.extend(ports);
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(acknowledgement.to_be_bytes());
                bytes.extend([(5 + options.len() / 4) as u8 * 16, *flags]);
                bytes.extend(window.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(options);
                Some(16)
            }
            Segment::Udp { checked } => {
                bytes.extend(ports);
                bytes.extend((8 + self.data.len() as u16).to_be_bytes());
                bytes.extend([0; 2]);
                checked.then_some(6)
            }
            Segment::Icmp { kind, code } => {
                bytes.extend([*kind, *code, 0, 0]);
                Some(2)
            }
            Segment::Other(_) => None,
        };
        bytes.extend(&self.data);
        if let Some(at) = check {
            let pseudo = match self.protocol() {
                ICMP => Vec::new(),
                protocol => pseudo(self.source, self.destination, protocol, bytes.len()),
            };
            let check = match (checksum(&[&pseudo, &bytes]), self.protocol()) {
                (0, UDP) => 0xffff,
                (check, _) => check,
            };
            bytes[at..at + 2].copy_from_slice(&check.to_be_bytes());
        }
        bytes
    }

    /// The IP packet.
    pub(crate) fn network(&self) -> Vec<u8> {
        let transport = self.transport();
        let mut bytes = Vec::new();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let words = 5 + self.options.len() / 4;
                bytes.extend([0x40 | words as u8, 0]);
                bytes.extend(((words * 4 + transport.len()) as u16).to_be_bytes());
                bytes.extend(self.id.to_be_bytes());
                bytes.extend(self.fragment.to_be_bytes());
                bytes.extend([self.ttl, self.protocol(), 0, 0]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                bytes.extend(&self.options);
                let check = checksum(&[&bytes]);
                bytes[10..12].copy_from_slice(&check.to_be_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                bytes.extend([0x60, 0, 0, 0]);
                bytes.extend((transport.len() as u16).to_be_bytes());
                bytes.extend([self.protocol(), self.ttl]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
            }
            _ => panic!("one family"),
        }
        bytes.extend(transport);
        bytes
    }

    /// The frame.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let ethertype = if self.source.is_ipv4() { 0x0800 } else { 0x86dd };
        ethernet(self.to, self.from, ethertype, &self.network())
    }

    /// The frame, filled up to the shortest that travels.
    pub(crate) fn padded(&self) -> Vec<u8> {
        let mut frame = self.frame();
        frame.resize(frame.len().max(SHORTEST), 0);
        frame
    }

    /// The frame as an IPv6 fragment at this offset (RFC 8200 §4.5).
    pub(crate) fn fragment6(&self, offset_and_more: u16) -> Vec<u8> {
        let mut data = vec![self.protocol(), 0];
        data.extend(offset_and_more.to_be_bytes());
        data.extend([0, 0, 0, 1]);
        data.extend(self.transport());
        Self { segment: Segment::Other(44), data, ..self.clone() }.frame()
    }
}

pub(crate) fn client(v6: bool) -> IpAddr {
    if v6 { CLIENT6.into() } else { CLIENT4.into() }
}

pub(crate) fn vip(v6: bool) -> IpAddr {
    if v6 { VIP6.into() } else { VIP4.into() }
}

pub(crate) fn host(v6: bool) -> IpAddr {
    if v6 { HOST6.into() } else { HOST4.into() }
}

pub(crate) fn peer(v6: bool) -> IpAddr {
    if v6 { PEER6.into() } else { PEER4.into() }
}

pub(crate) fn ethernet(to: Mac, from: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = to.0.to_vec();
    bytes.extend(from.0);
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// An ARP message (RFC 826).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arp {
    pub(crate) to: Mac,
    pub(crate) from: Mac,
    /// Hardware and protocol type, their lengths.
    pub(crate) types: (u16, u16, u8, u8),
    pub(crate) operation: u16,
    pub(crate) sender: (Mac, Ipv4Addr),
    pub(crate) target: (Mac, Ipv4Addr),
}

impl Arp {
    /// A request by this sender, to everybody.
    pub(crate) fn request(sender: (Mac, Ipv4Addr), target: Ipv4Addr) -> Self {
        let (to, from, target) = (BROADCAST, sender.0, (NOBODY, target));
        Self { to, from, types: (1, 0x0800, 6, 4), operation: 1, sender, target }
    }

    /// A reply to the target.
    pub(crate) fn reply(sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Self {
        let (to, from) = (target.0, sender.0);
        Self { to, from, types: (1, 0x0800, 6, 4), operation: 2, sender, target }
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        let (hardware, protocol, hlen, plen) = self.types;
        let mut bytes = Vec::new();
        bytes.extend(hardware.to_be_bytes());
        bytes.extend(protocol.to_be_bytes());
        bytes.extend([hlen, plen]);
        bytes.extend(self.operation.to_be_bytes());
        bytes.extend(self.sender.0.0);
        bytes.extend(self.sender.1.octets());
        bytes.extend(self.target.0.0);
        bytes.extend(self.target.1.octets());
        ethernet(self.to, self.from, 0x0806, &bytes)
    }
}

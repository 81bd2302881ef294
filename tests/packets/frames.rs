//! Frames as one would write them down, with right checksums.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kube_vip::view::Mac;

pub const CLIENT: Mac = Mac([2, 0, 0, 0, 0, 0xc1]);
pub const HOST: Mac = Mac([2, 0, 0, 0, 0, 0x01]);
pub const PEER: Mac = Mac([2, 0, 0, 0, 0, 0x02]);
pub const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 0xee]);
pub const BROADCAST: Mac = Mac([0xff; 6]);

pub const VIP4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
pub const HOST4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const PEER4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub const CLIENT4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 201);
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100);
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
pub const PEER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x201);

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// The Internet checksum as RFC 1071 §4.1 has it, byte by byte and slow.
pub fn checksum(parts: &[&[u8]]) -> u16 {
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

/// A frame under construction, from the link up.
#[derive(Clone, Debug)]
pub struct Packet {
    pub from: Mac,
    pub to: Mac,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub ttl: u8,
    pub options: Vec<u8>,
    /// Flags and offset of IPv4.
    pub fragment: u16,
    pub protocol: u8,
    /// Transport header and data, with its checksum in place.
    pub segment: Vec<u8>,
}

impl Packet {
    fn new(source: IpAddr, destination: IpAddr, protocol: u8, segment: Vec<u8>) -> Self {
        let (from, to) = (CLIENT, HOST);
        let (options, fragment) = (Vec::new(), 0);
        Self { from, to, source, destination, ttl: 64, options, fragment, protocol, segment }
    }

    /// From the client to the family's VIP.
    pub fn tcp(v6: bool, ports: (u16, u16), flags: u8, data: &[u8]) -> Self {
        let (source, destination) = ends(v6);
        Self::tcp_between(source, destination, ports, flags, data)
    }

    pub fn tcp_between(
        source: IpAddr,
        destination: IpAddr,
        ports: (u16, u16),
        flags: u8,
        data: &[u8],
    ) -> Self {
        let mut segment = Vec::new();
        segment.extend(ports.0.to_be_bytes());
        segment.extend(ports.1.to_be_bytes());
        segment.extend(1000u32.to_be_bytes());
        segment.extend(2000u32.to_be_bytes());
        segment.extend([5 << 4, flags, 0x20, 0, 0, 0, 0, 0]);
        segment.extend(data);
        let pseudo = pseudo(source, destination, 6, segment.len());
        let check = checksum(&[&pseudo, &segment]);
        segment[16..18].copy_from_slice(&check.to_be_bytes());
        Self::new(source, destination, 6, segment)
    }

    /// From the client to the family's VIP.
    pub fn udp(v6: bool, ports: (u16, u16), data: &[u8]) -> Self {
        let (source, destination) = ends(v6);
        Self::udp_between(source, destination, ports, data)
    }

    pub fn udp_between(
        source: IpAddr,
        destination: IpAddr,
        ports: (u16, u16),
        data: &[u8],
    ) -> Self {
        let mut segment = Vec::new();
        segment.extend(ports.0.to_be_bytes());
        segment.extend(ports.1.to_be_bytes());
        segment.extend((8 + data.len() as u16).to_be_bytes());
        segment.extend([0, 0]);
        segment.extend(data);
        let pseudo = pseudo(source, destination, 17, segment.len());
        let check = match checksum(&[&pseudo, &segment]) {
            0 => 0xffff,
            check => check,
        };
        segment[6..8].copy_from_slice(&check.to_be_bytes());
        Self::new(source, destination, 17, segment)
    }

    /// An ICMP or ICMPv6 message with everything behind its checksum.
    pub fn icmp(source: IpAddr, destination: IpAddr, kind: u8, code: u8, rest: &[u8]) -> Self {
        let protocol = if source.is_ipv4() { 1 } else { 58 };
        let mut segment = vec![kind, code, 0, 0];
        segment.extend(rest);
        let pseudo = match source {
            IpAddr::V4(_) => Vec::new(),
            IpAddr::V6(_) => pseudo(source, destination, 58, segment.len()),
        };
        let check = checksum(&[&pseudo, &segment]);
        segment[2..4].copy_from_slice(&check.to_be_bytes());
        Self::new(source, destination, protocol, segment)
    }

    pub fn link(mut self, from: Mac, to: Mac) -> Self {
        (self.from, self.to) = (from, to);
        self
    }

    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    pub fn fragment(mut self, flags_and_offset: u16) -> Self {
        self.fragment = flags_and_offset;
        self
    }

    /// The IP packet.
    pub fn network(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let words = 5 + self.options.len() / 4;
                let total = words * 4 + self.segment.len();
                bytes.extend([0x40 | words as u8, 0]);
                bytes.extend((total as u16).to_be_bytes());
                bytes.extend([0x12, 0x34]);
                bytes.extend(self.fragment.to_be_bytes());
                bytes.extend([self.ttl, self.protocol, 0, 0]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                bytes.extend(&self.options);
                let check = checksum(&[&bytes]);
                bytes[10..12].copy_from_slice(&check.to_be_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                bytes.extend([0x60, 0, 0, 0]);
                bytes.extend((self.segment.len() as u16).to_be_bytes());
                bytes.extend([self.protocol, self.ttl]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
            }
            _ => panic!("one family"),
        }
        bytes.extend(&self.segment);
        bytes
    }

    /// The frame.
    pub fn frame(&self) -> Vec<u8> {
        let ethertype: u16 = if self.source.is_ipv4() { 0x0800 } else { 0x86dd };
        ethernet(self.to, self.from, ethertype, &self.network())
    }
}

/// The client's and the VIP's address.
pub fn ends(v6: bool) -> (IpAddr, IpAddr) {
    if v6 { (CLIENT6.into(), VIP6.into()) } else { (CLIENT4.into(), VIP4.into()) }
}

pub fn ethernet(to: Mac, from: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = to.0.to_vec();
    bytes.extend(from.0);
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// An ARP message.
pub fn arp(
    to: Mac,
    from: Mac,
    operation: u8,
    sender: (Mac, Ipv4Addr),
    target: (Mac, Ipv4Addr),
) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, operation];
    bytes.extend(sender.0.0);
    bytes.extend(sender.1.octets());
    bytes.extend(target.0.0);
    bytes.extend(target.1.octets());
    ethernet(to, from, 0x0806, &bytes)
}

/// A frame taken apart; panics where a checksum is wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct Parsed {
    pub to: Mac,
    pub from: Mac,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub ttl: u8,
    pub protocol: u8,
    /// Source and destination port of TCP and UDP.
    pub ports: (u16, u16),
    /// Flags of TCP.
    pub flags: u8,
    /// Everything behind the IP header.
    pub segment: Vec<u8>,
}

pub fn parse(frame: &[u8]) -> Parsed {
    let mac = |at: usize| Mac(frame[at..at + 6].try_into().expect("six bytes"));
    let ip = &frame[14..];
    let (source, destination, ttl, protocol, segment): (IpAddr, IpAddr, u8, u8, &[u8]) = match frame
        [12..14]
    {
        [0x08, 0x00] => {
            let header = usize::from(ip[0] & 15) * 4;
            assert_eq!(checksum(&[&ip[..header]]), 0, "IPv4 header checksum");
            let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
            let at = |n: usize| <[u8; 4]>::try_from(&ip[n..n + 4]).expect("four bytes").into();
            (at(12), at(16), ip[8], ip[9], &ip[header..total])
        }
        [0x86, 0xdd] => {
            let length = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
            let at = |n: usize| <[u8; 16]>::try_from(&ip[n..n + 16]).expect("sixteen bytes").into();
            (at(8), at(24), ip[7], ip[6], &ip[40..40 + length])
        }
        _ => panic!("ethertype {:02x?}", &frame[12..14]),
    };
    let none = protocol == 17 && source.is_ipv4() && segment[6..8] == [0, 0];
    if !none {
        let pseudo = match protocol {
            1 => Vec::new(),
            _ => pseudo(source, destination, protocol, segment.len()),
        };
        assert_eq!(checksum(&[&pseudo, segment]), 0, "checksum of protocol {protocol}");
    }
    let port = |n: usize| u16::from_be_bytes([segment[n], segment[n + 1]]);
    let ports = if matches!(protocol, 6 | 17) { (port(0), port(2)) } else { (0, 0) };
    let flags = if protocol == 6 { segment[13] } else { 0 };
    Parsed {
        to: mac(0),
        from: mac(6),
        source,
        destination,
        ttl,
        protocol,
        ports,
        flags,
        segment: segment.to_vec(),
    }
}

//! Frames as structures, with right checksums, and what is done to them afterwards.

use std::net::IpAddr;

use crate::reference::checksum;
use crate::reference::packet::{
    ARP, FRAGMENT, ICMP, ICMPV6, IPV4, IPV6, Mac, TCP, UDP, octets, pseudo,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) from: Mac,
    pub(crate) to: Mac,
    /// VLAN tags, outermost first: EtherType and control word.
    pub(crate) tags: Vec<(u16, u16)>,
    pub(crate) body: Body,
    pub(crate) damage: Vec<Damage>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Arp { types: [u8; 6], operation: u16, sender: (Mac, [u8; 4]), target: (Mac, [u8; 4]) },
    Ip(Ip),
    Other(u16, Vec<u8>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ip {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    pub(crate) id: u16,
    /// Offset in units of eight bytes, and whether more follow.
    pub(crate) fragment: Option<(u16, bool)>,
    /// Options of IPv4, in whole words.
    pub(crate) options: Vec<u8>,
    /// Extension headers of IPv6: kind and content, which is filled up to whole units.
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
    pub(crate) carries: Carries,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    Tcp {
        ports: (u16, u16),
        flags: u8,
        numbers: (u32, u32),
        options: Vec<u8>,
        data: Vec<u8>,
    },
    Udp {
        ports: (u16, u16),
        checked: bool,
        data: Vec<u8>,
    },
    /// The control messages of the version: kind, code, the second word, and what follows.
    Icmp {
        kind: u8,
        code: u8,
        word: [u8; 4],
        data: Vec<u8>,
    },
    /// An error, with as much of the packet it is about.
    Error {
        kind: u8,
        code: u8,
        word: [u8; 4],
        about: Box<Ip>,
        quoted: usize,
    },
    Sctp {
        ports: (u16, u16),
        tag: u32,
        chunk: u8,
        data: Vec<u8>,
    },
    /// A packet in a packet.
    Inner(Box<Ip>),
    Other(u8, Vec<u8>),
}

/// Done to the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Cut off behind so many bytes.
    Cut(usize),
    /// So many bytes behind the end.
    Padding(usize),
    /// These bits of a byte are turned.
    Turn(usize, u8),
    /// A byte is set.
    Set(usize, u8),
}

pub(crate) const SCTP: u8 = 132;

impl Carries {
    fn protocol(&self, v4: bool) -> u8 {
        match self {
            Self::Tcp { .. } => TCP,
            Self::Udp { .. } => UDP,
            Self::Icmp { .. } | Self::Error { .. } => {
                if v4 {
                    ICMP
                } else {
                    ICMPV6
                }
            }
            Self::Sctp { .. } => SCTP,
            Self::Inner(ip) => {
                if ip.source.is_ipv4() {
                    4
                } else {
                    41
                }
            }
            Self::Other(protocol, _) => *protocol,
        }
    }

    /// The bytes, and where their checksum goes.
    fn bytes(&self) -> (Vec<u8>, Option<usize>) {
        let ports = |(source, destination): (u16, u16)| {
            [source, destination].map(u16::to_be_bytes).concat()
        };
        match self {
            Self::Tcp { ports: p, flags, numbers, options, data } => {
                let mut bytes = ports(*p);
                bytes.extend([numbers.0, numbers.1].map(u32::to_be_bytes).concat());
                bytes.extend([(5 + options.len() / 4) as u8 * 16, *flags, 0x20, 0, 0, 0, 0, 0]);
                bytes.extend(options);
                bytes.extend(data);
                (bytes, Some(16))
            }
            Self::Udp { ports: p, checked, data } => {
                let mut bytes = ports(*p);
                bytes.extend((data.len() as u16 + 8).to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(data);
                (bytes, checked.then_some(6))
            }
            Self::Icmp { kind, code, word, data } => {
                ([&[*kind, *code, 0, 0], &word[..], data].concat(), Some(2))
            }
            Self::Error { kind, code, word, about, quoted } => {
                let mut quotation = about.bytes();
                quotation.truncate(*quoted);
                ([&[*kind, *code, 0, 0], &word[..], &quotation].concat(), Some(2))
            }
            Self::Sctp { ports: p, tag, chunk, data } => {
                let common = [&ports(*p)[..], &tag.to_be_bytes(), &[0xc0, 0xff, 0xee, 1]].concat();
                ([&common[..], &[*chunk, 0, 0, 20], data].concat(), None)
            }
            Self::Inner(ip) => (ip.bytes(), None),
            Self::Other(_, data) => (data.clone(), None),
        }
    }
}

impl Ip {
    pub(crate) fn new(source: IpAddr, destination: IpAddr, carries: Carries) -> Self {
        Self {
            source,
            destination,
            ttl: 64,
            tos: 0,
            id: 0x1234,
            fragment: None,
            options: vec![],
            extensions: vec![],
            carries,
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let v4 = self.source.is_ipv4();
        let mut protocol = self.carries.protocol(v4);
        let (mut payload, at) = self.carries.bytes();
        if let Some(at) = at {
            let check = match protocol {
                ICMP => checksum(&payload),
                _ => checksum(&pseudo(self.source, self.destination, protocol, &payload)),
            };
            let check = if (protocol, check) == (UDP, 0) { 0xffff } else { check };
            payload[at..at + 2].copy_from_slice(&check.to_be_bytes());
        }
        if let (Some((offset, _)), true) = (self.fragment, self.fragment.is_some_and(|f| f.0 > 0)) {
            // A later fragment begins behind what the first one had.
            payload.drain(..payload.len().min(usize::from(offset) * 8).min(24));
        }
        let ends = [octets(self.source), octets(self.destination)].concat();
        if v4 {
            let words = 5 + self.options.len() / 4;
            let length = (words * 4 + payload.len()) as u16;
            let fragment = self
                .fragment
                .map_or(0x4000, |(offset, more)| offset & 0x1fff | if more { 0x2000 } else { 0 });
            let mut bytes = vec![0x40 | words as u8, self.tos];
            bytes.extend([length, self.id, fragment].map(u16::to_be_bytes).concat());
            bytes.extend([self.ttl, protocol, 0, 0]);
            bytes.extend(ends);
            bytes.extend(&self.options);
            let check = checksum(&bytes);
            bytes[10..12].copy_from_slice(&check.to_be_bytes());
            bytes.extend(payload);
            return bytes;
        }
        if let Some((offset, more)) = self.fragment {
            let word = offset << 3 | u16::from(more);
            let [o0, o1] = word.to_be_bytes();
            let [i0, i1] = self.id.to_be_bytes();
            payload.splice(0..0, [protocol, 0, o0, o1, 0, 0, i0, i1]);
            protocol = FRAGMENT;
        }
        for (kind, content) in self.extensions.iter().rev() {
            let units = (content.len() + 2).div_ceil(8);
            let mut header = vec![protocol, (units - 1) as u8];
            header.extend(content);
            header.resize(units * 8, 0);
            payload.splice(0..0, header);
            protocol = *kind;
        }
        let mut bytes = vec![0x60 | self.tos >> 4, self.tos << 4, 0, 0];
        bytes.extend((payload.len() as u16).to_be_bytes());
        bytes.extend([protocol, self.ttl]);
        bytes.extend(ends);
        bytes.extend(payload);
        bytes
    }
}

impl Frame {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let (kind, payload) = match &self.body {
            Body::Arp { types, operation, sender, target } => {
                let sides = [&sender.0[..], &sender.1, &target.0, &target.1].concat();
                (ARP, [&types[..], &operation.to_be_bytes(), &sides].concat())
            }
            Body::Ip(ip) => (if ip.source.is_ipv4() { IPV4 } else { IPV6 }, ip.bytes()),
            Body::Other(kind, bytes) => (*kind, bytes.clone()),
        };
        let mut bytes = [self.to, self.from].concat();
        for (kind, control) in &self.tags {
            bytes.extend([kind, control].map(|word| word.to_be_bytes()).concat());
        }
        bytes.extend(kind.to_be_bytes());
        bytes.extend(payload);
        for damage in &self.damage {
            match *damage {
                Damage::Cut(length) => bytes.truncate(length),
                Damage::Padding(more) => bytes.resize(bytes.len() + more, 0xab),
                Damage::Turn(at, bits) => {
                    bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= bits);
                }
                Damage::Set(at, value) => {
                    bytes.get_mut(at).into_iter().for_each(|byte| *byte = value);
                }
            }
        }
        // A shorter one does not exist.
        bytes.resize(bytes.len().max(14), 0);
        bytes
    }
}

//! Frames by hand: the few that are sent, and the few fields that are looked at.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use anyhow::{Context, Result};

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Everybody on the segment.
    pub const BROADCAST: Self = Self([0xff; 6]);
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for Mac {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.trim().split(':').map(|part| u8::from_str_radix(part, 16));
        let bytes = parts.collect::<Result<Vec<_>, _>>().ok().and_then(|all| all.try_into().ok());
        bytes.map(Self).with_context(|| format!("{text:?} is no MAC address"))
    }
}

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ICMPV6: u8 = 58;

/// A broadcast who-has: a probe where the sender is unspecified, an announcement where it is the
/// target.
pub fn arp_request(mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    arp_frame(1, Mac::BROADCAST, (mac, sender), (Mac([0; 6]), target))
}

/// An answer to `to`, whether it asked or not, that tells `address` to be at `mac`.
pub fn arp_reply(mac: Mac, address: Ipv4Addr, to: (Mac, Ipv4Addr)) -> Vec<u8> {
    arp_frame(2, to.0, (mac, address), to)
}

fn arp_frame(operation: u8, to: Mac, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut frame = ethernet(to, sender.0, ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, operation]);
    for (mac, address) in [sender, target] {
        frame.extend(mac.0);
        frame.extend(address.octets());
    }
    frame
}

/// A neighbour solicitation to the target's solicited-node group.
pub fn solicitation(mac: Mac, sender: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let [.., x, y, z] = target.octets();
    let group =
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(x), u16::from_be_bytes([y, z]));
    let to = (Mac([0x33, 0x33, 0xff, x, y, z]), group);
    neighbour([135, 0, 1], (mac, sender), to, target)
}

/// An unsolicited neighbour advertisement to all nodes, overriding what they know.
pub fn advertisement(mac: Mac, target: Ipv6Addr) -> Vec<u8> {
    const OVERRIDE: u8 = 0x20;
    let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let to = (Mac([0x33, 0x33, 0, 0, 0, 1]), all);
    neighbour([136, OVERRIDE, 2], (mac, target), to, target)
}

/// Message type, flags, and the type of the option with the link-layer address.
fn neighbour(
    [kind, flags, option]: [u8; 3],
    from: (Mac, Ipv6Addr),
    to: (Mac, Ipv6Addr),
    target: Ipv6Addr,
) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target.octets());
    message.extend([option, 1]);
    message.extend(from.0.0);
    let sum = icmpv6_checksum(from.1, to.1, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = ethernet(to.0, from.0, IPV6);
    frame.extend([0x60, 0, 0, 0, 0, message.len() as u8, ICMPV6, 255]);
    frame.extend(from.1.octets());
    frame.extend(to.1.octets());
    frame.extend(message);
    frame
}

fn ethernet(to: Mac, from: Mac, kind: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(86);
    frame.extend(to.0);
    frame.extend(from.0);
    frame.extend(kind.to_be_bytes());
    frame
}

fn icmpv6_checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let pairs = |bytes: &[u8]| {
        let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        bytes.chunks(2).map(word).sum::<u32>()
    };
    let mut sum = pairs(&from.octets())
        + pairs(&to.octets())
        + message.len() as u32
        + u32::from(ICMPV6)
        + pairs(message);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// What tests look at in a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who it was sent to.
    pub to: Mac,
    /// Who sent it.
    pub from: Mac,
    /// Its length without the checksum of the wire.
    pub length: usize,
    /// What it carries.
    pub what: What,
}

/// What a frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// ARP, request (1) or reply (2).
    Arp {
        /// 1 asks, 2 answers.
        operation: u16,
        /// Whose address is told.
        sender: Ipv4Addr,
        /// The MAC address told for it.
        at: Mac,
        /// Whose address is asked for.
        target: Ipv4Addr,
    },
    /// Neighbour solicitation (135) or advertisement (136).
    Neighbour {
        /// 135 asks, 136 answers.
        kind: u8,
        /// Who sent it; unspecified while it checks for duplicates.
        sender: Ipv6Addr,
        /// Who it was sent to.
        receiver: Ipv6Addr,
        /// The address asked for or told.
        target: Ipv6Addr,
        /// The MAC address told with it.
        at: Option<Mac>,
    },
    /// Any other IP packet.
    Ip {
        /// Its source.
        source: IpAddr,
        /// Its destination.
        destination: IpAddr,
        /// Its protocol: 6 is TCP, 17 UDP, 1 and 58 ICMP.
        protocol: u8,
        /// Its time to live or hop limit.
        ttl: u8,
        /// Source and destination port of TCP and UDP; type and code of ICMP.
        ports: Option<(u16, u16)>,
        /// Flags of TCP: 0x02 SYN, 0x10 ACK, 0x04 RST, 0x01 FIN.
        flags: u8,
    },
    /// Anything else, with its Ethernet type.
    Other(u16),
}

impl Seen {
    /// Reads a frame; one too short to say anything is `Other`.
    pub fn of(frame: &[u8]) -> Self {
        let mac = |at: usize| array(frame, at).map_or(Mac([0; 6]), Mac);
        let kind = word(frame, 12).unwrap_or_default();
        let what = match kind {
            ARP => arp(frame),
            IPV4 => ipv4(frame),
            IPV6 => ipv6(frame),
            _ => None,
        };
        Self {
            to: mac(0),
            from: mac(6),
            length: frame.len(),
            what: what.unwrap_or(What::Other(kind)),
        }
    }

    /// Source and destination of an IP packet.
    pub fn addresses(&self) -> Option<(IpAddr, IpAddr)> {
        match self.what {
            What::Ip { source, destination, .. } => Some((source, destination)),
            _ => None,
        }
    }
}

fn array<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..at + N)?.try_into().ok()
}

fn word(frame: &[u8], at: usize) -> Option<u16> {
    array(frame, at).map(u16::from_be_bytes)
}

fn arp(frame: &[u8]) -> Option<What> {
    Some(What::Arp {
        operation: word(frame, 20)?,
        at: Mac(array(frame, 22)?),
        sender: array::<4>(frame, 28)?.into(),
        target: array::<4>(frame, 38)?.into(),
    })
}

fn ipv4(frame: &[u8]) -> Option<What> {
    let header = usize::from(frame.get(14)? & 15) * 4;
    Some(upper(
        frame,
        14 + header,
        *frame.get(23)?,
        *frame.get(22)?,
        array::<4>(frame, 26)?.into(),
        array::<4>(frame, 30)?.into(),
    ))
}

fn ipv6(frame: &[u8]) -> Option<What> {
    let source = Ipv6Addr::from(array::<16>(frame, 22)?);
    let destination = Ipv6Addr::from(array::<16>(frame, 38)?);
    let (protocol, ttl) = (*frame.get(20)?, *frame.get(21)?);
    let kind = *frame.get(54).unwrap_or(&0);
    if protocol == ICMPV6 && matches!(kind, 135 | 136) {
        // The first option is the link-layer address, or there is none.
        let at =
            if matches!(frame.get(78), Some(1 | 2)) { array(frame, 80).map(Mac) } else { None };
        let target = array::<16>(frame, 62)?.into();
        let (sender, receiver) = (source, destination);
        return Some(What::Neighbour { kind, sender, receiver, target, at });
    }
    Some(upper(frame, 54, protocol, ttl, source.into(), destination.into()))
}

fn upper(
    frame: &[u8],
    at: usize,
    protocol: u8,
    ttl: u8,
    source: IpAddr,
    destination: IpAddr,
) -> What {
    let ports = match protocol {
        6 | 17 => word(frame, at).zip(word(frame, at + 2)),
        1 | ICMPV6 => array::<2>(frame, at).map(|[kind, code]| (kind.into(), code.into())),
        _ => None,
    };
    let flags = if protocol == 6 { *frame.get(at + 13).unwrap_or(&0) } else { 0 };
    What::Ip { source, destination, protocol, ttl, ports, flags }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Mac = Mac([2, 0x77, 0, 0, 0, 201]);

    #[test]
    fn what_is_built_is_what_is_read() {
        let vip = Ipv4Addr::new(10, 77, 0, 100);
        let other = (Mac([2; 6]), Ipv4Addr::new(10, 77, 0, 11));
        let seen = Seen::of(&arp_reply(ME, vip, other));
        assert_eq!((seen.to, seen.from), (other.0, ME));
        let told = What::Arp { operation: 2, sender: vip, at: ME, target: other.1 };
        assert_eq!(seen.what, told);
        let vip = "fd77::100".parse().expect("v6");
        let seen = Seen::of(&advertisement(ME, vip));
        assert_eq!(seen.to.to_string(), "33:33:00:00:00:01");
        assert_eq!(
            seen.what,
            What::Neighbour {
                kind: 136,
                sender: vip,
                receiver: "ff02::1".parse().expect("v6"),
                target: vip,
                at: Some(ME)
            }
        );

        let (me, vip) = (Ipv4Addr::new(10, 77, 0, 201), Ipv4Addr::new(10, 77, 0, 100));
        let seen = Seen::of(&arp_request(ME, me, vip));
        assert_eq!((seen.to, seen.from, seen.length), (Mac::BROADCAST, ME, 42));
        assert_eq!(seen.what, What::Arp { operation: 1, sender: me, at: ME, target: vip });

        let (me, vip) = ("fd77::201".parse().expect("v6"), "fd77::100".parse().expect("v6"));
        let seen = Seen::of(&solicitation(ME, me, vip));
        assert_eq!(seen.to.to_string(), "33:33:ff:00:01:00");
        assert_eq!(
            seen.what,
            What::Neighbour {
                kind: 135,
                sender: me,
                receiver: "ff02::1:ff00:100".parse().expect("v6"),
                target: vip,
                at: Some(ME)
            }
        );
    }

    #[test]
    fn short_frames_are_no_panic() {
        let frame = solicitation(ME, Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
        for length in 0..frame.len() {
            Seen::of(&frame[..length]);
            let mut as_v4 = frame[..length].to_vec();
            if length > 14 {
                as_v4[12..14].copy_from_slice(&IPV4.to_be_bytes());
                Seen::of(&as_v4);
            }
        }
    }
}

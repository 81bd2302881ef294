//! Frames to be judged. No stage verifies a checksum, they only follow changes; so none is computed.

use std::net::{IpAddr, Ipv4Addr};

use kube_vip::view::Mac;

pub(crate) const SYN: u8 = 2;
pub(crate) const ACK: u8 = 16;

/// Shortest frame that counts as one, without its check sequence as programs see it.
const SHORTEST: usize = 64;

/// A TCP segment between two sockets, headers only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) link: (Mac, Mac),
    pub(crate) from: (IpAddr, u16),
    pub(crate) to: (IpAddr, u16),
    pub(crate) flags: u8,
    pub(crate) ttl: u8,
}

impl Segment {
    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut frame = match (self.from.0, self.to.0) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut frame = ethernet(self.link, 0x0800);
                frame.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, self.ttl, 6, 0, 0]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
                frame
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut frame = ethernet(self.link, 0x86dd);
                frame.extend([0x60, 0, 0, 0, 0, 20, 6, self.ttl]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
                frame
            }
            _ => unreachable!("both ends are of one family"),
        };
        frame.extend(self.from.1.to_be_bytes());
        frame.extend(self.to.1.to_be_bytes());
        // What acknowledges something acknowledges the first number.
        frame.extend([0, 0, 0, 0, 0, 0, 0, u8::from(self.flags & ACK != 0)]);
        frame.extend([5 << 4, self.flags, 0x20, 0, 0x12, 0x34, 0, 0]);
        padded(frame)
    }
}

/// An IPv4 datagram of the shortest frame's length, without a checksum.
pub(crate) fn datagram(link: (Mac, Mac), from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Vec<u8> {
    const LENGTH: u16 = (SHORTEST - 14) as u16;
    let mut frame = ethernet(link, 0x0800);
    let mut header = vec![0x45, 0];
    header.extend(LENGTH.to_be_bytes());
    header.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    header.extend(from.0.octets());
    header.extend(to.0.octets());
    let sum =
        header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    frame.extend(header);
    frame.extend(from.1.to_be_bytes());
    frame.extend(to.1.to_be_bytes());
    frame.extend((LENGTH - 20).to_be_bytes());
    frame.extend([0, 0]);
    padded(frame)
}

/// Writes the checksum of an IPv4 header (RFC 791 §3.1).
pub(crate) fn seal(header: &mut [u8]) {
    header[10..12].fill(0);
    let words = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
}

/// A broadcast request for the hardware address of `target`.
pub(crate) fn arp_request(from: Mac, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = ethernet((from, Mac([0xff; 6])), 0x0806);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(from.0);
    frame.extend(sender);
    frame.extend([0; 6]);
    frame.extend(target);
    padded(frame)
}

fn ethernet((from, to): (Mac, Mac), kind: u16) -> Vec<u8> {
    [to.0.as_slice(), &from.0, &kind.to_be_bytes()].concat()
}

fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(SHORTEST), 0);
    frame
}

/// `Original` of the measuring programs: what they make the frame again.
pub(crate) type Original = [u8; 200];

/// The parts of a frame at the places where `Original` has them, and how many bytes the program
/// takes off its head.
pub(crate) fn original(frame: &[u8], flows: u32, missing: i32) -> Original {
    const ETHERNET: usize = 8;
    const V4: usize = ETHERNET + 14;
    const V6: usize = V4 + 20;
    const TCP: usize = V6 + 40;
    const ARP: usize = TCP + 20;
    const MISSING: usize = ARP + 28 + 2;
    const TUNNELLED: usize = MISSING + 4;
    const OUTER4: usize = TUNNELLED + 4;
    const OUTER6: usize = OUTER4 + 20;
    let mut original = [0; size_of::<Original>()];
    let mut put = |at: usize, bytes: &[u8]| original[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &(flows - 1).to_ne_bytes());
    put(ETHERNET, &frame[..14]);
    put(MISSING, &missing.to_ne_bytes());
    let packet = &frame[14..];
    let family: u32 = match frame[12..14] {
        [0x08, 0x00] => {
            let inner = if packet[9] == IPIP { 20 } else { 0 };
            put(TUNNELLED, &(inner as u32).to_ne_bytes());
            put(OUTER4, &packet[..20]);
            put(V4, &packet[inner..inner + 20]);
            put(TCP, &packet[inner + 20..inner + 40]);
            4
        }
        [0x86, 0xdd] => {
            let inner = if packet[6] == IP6IP6 { 40 } else { 0 };
            put(TUNNELLED, &(inner as u32).to_ne_bytes());
            put(OUTER6, &packet[..40]);
            put(V6, &packet[inner..inner + 40]);
            put(TCP, &packet[inner + 40..inner + 60]);
            6
        }
        _ => {
            put(ARP, &packet[..28]);
            0
        }
    };
    put(4, &family.to_ne_bytes());
    original
}

/// Protocol numbers of packets inside others (RFC 2003 §3.1, RFC 2473 §3).
const IPIP: u8 = 4;
const IP6IP6: u8 = 41;

/// A frame with its packet inside another one, between two hosts of the packet's family.
pub(crate) fn tunnelled(frame: &[u8], from: IpAddr, to: IpAddr) -> Vec<u8> {
    let inner = (frame.len() - 14) as u16;
    let mut outer = frame[..14].to_vec();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0];
            header.extend((inner + 20).to_be_bytes());
            header.extend([0, 0, 0x40, 0, 64, IPIP, 0, 0]);
            header.extend(from.octets());
            header.extend(to.octets());
            seal(&mut header);
            outer.extend(header);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            outer.extend([0x60, 0, 0, 0]);
            outer.extend(inner.to_be_bytes());
            outer.extend([IP6IP6, 64]);
            outer.extend(from.octets());
            outer.extend(to.octets());
        }
        _ => unreachable!("both ends are of one family"),
    }
    outer.extend(&frame[14..]);
    outer
}

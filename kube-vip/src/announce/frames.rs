//! The frames of an announcement, byte by byte. No I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::BufMut;
use kube_vip_common::checksum::Sum;

use crate::plan::Announcement;
use crate::view::Mac;

/// The shortest Ethernet frame without its checksum (IEEE 802.3 §3.2.8); ARP is padded to it.
const MIN_FRAME: usize = 60;
/// Ethernet 14, IPv6 40, neighbour advertisement 24, one option of 8.
const ADVERTISEMENT: usize = 86;

const BROADCAST: Mac = Mac([0xff; 6]);
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ICMPV6: u8 = 58;

/// Every frame that says once where a VIP is: both ARP forms, because some implementations
/// heed only the one and some only the other, or one neighbour advertisement.
pub fn of(announcement: &Announcement) -> Vec<Vec<u8>> {
    let mac = announcement.mac;
    match announcement.address {
        IpAddr::V4(vip) => vec![arp_request(mac, vip).to_vec(), arp_reply(mac, vip).to_vec()],
        IpAddr::V6(vip) => vec![neighbour_advertisement(mac, vip).to_vec()],
    }
}

/// An ARP announcement: a request for the VIP by the VIP (RFC 5227 §1.1, §2.3). Nothing is
/// asked, so the target hardware address is left zero.
pub fn arp_request(mac: Mac, vip: Ipv4Addr) -> [u8; MIN_FRAME] {
    arp(1, mac, vip, Mac::default())
}

/// A reply nobody asked for, in the form of RFC 5944 §4.6: the target hardware address is the
/// one to be remembered, too.
pub fn arp_reply(mac: Mac, vip: Ipv4Addr) -> [u8; MIN_FRAME] {
    arp(2, mac, vip, mac)
}

fn arp(operation: u16, sender: Mac, vip: Ipv4Addr, target: Mac) -> [u8; MIN_FRAME] {
    let mut frame = [0; MIN_FRAME];
    let mut at = &mut frame[..];
    put_ethernet(&mut at, BROADCAST, sender, ETHERTYPE_ARP);
    // RFC 826: Ethernet, IPv4, and the lengths of their addresses.
    at.put_slice(&[0, 1, 0x08, 0, 6, 4]);
    at.put_u16(operation);
    at.put_slice(&sender.0);
    at.put_slice(&vip.octets());
    at.put_slice(&target.0);
    at.put_slice(&vip.octets());
    frame
}

/// An unsolicited neighbour advertisement to all nodes (RFC 4861 §7.2.6): override set, solicited
/// clear, and the target link-layer address that caches are to take.
///
/// The router flag is clear even on a host that forwards: caches keep it per address, to know
/// whether a default router still is one (§7.3.3), and a VIP is nobody's router.
pub fn neighbour_advertisement(mac: Mac, vip: Ipv6Addr) -> [u8; ADVERTISEMENT] {
    const OVERRIDE: u8 = 0x20;
    const TARGET_LINK_LAYER_ADDRESS: u8 = 2;

    let mut message = [0; 32];
    let mut at = &mut message[..];
    at.put_slice(&[136, 0, 0, 0]);
    at.put_slice(&[OVERRIDE, 0, 0, 0]);
    at.put_slice(&vip.octets());
    at.put_slice(&[TARGET_LINK_LAYER_ADDRESS, 1]);
    at.put_slice(&mac.0);
    let checksum = icmpv6_checksum(vip, ALL_NODES, &message);
    message[2..4].copy_from_slice(&checksum.to_ne_bytes());

    let mut frame = [0; ADVERTISEMENT];
    let mut at = &mut frame[..];
    put_ethernet(&mut at, multicast_mac(ALL_NODES), mac, ETHERTYPE_IPV6);
    at.put_u32(0x6000_0000);
    at.put_u16(message.len() as u16);
    // Receivers drop neighbour discovery with any other hop limit (RFC 4861 §7.1.2).
    at.put_slice(&[ICMPV6, 255]);
    at.put_slice(&vip.octets());
    at.put_slice(&ALL_NODES.octets());
    at.put_slice(&message);
    frame
}

fn put_ethernet(at: &mut impl BufMut, destination: Mac, source: Mac, ethertype: u16) {
    at.put_slice(&destination.0);
    at.put_slice(&source.0);
    at.put_u16(ethertype);
}

/// RFC 2464 §7.
fn multicast_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

/// RFC 4443 §2.3: over the pseudo-header of RFC 8200 §8.1 and the message; as it lies in memory.
fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8; 32]) -> u16 {
    let pseudo = [[0, 0, 0, 32], [0, 0, 0, ICMPV6]].concat();
    let (source, destination) = (source.octets(), destination.octets());
    let parts = [&source[..], &destination, &pseudo, message];
    let words = parts.into_iter().flat_map(|part| part.chunks_exact(4));
    words
        .fold(Sum::default(), |sum, word| {
            sum.add(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
        })
        .checksum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee]);

    /// Written out by hand from RFC 826, RFC 5227 and RFC 5944.
    #[test]
    fn arp_frames_have_these_bytes() {
        let vip = Ipv4Addr::new(192, 0, 2, 10);
        #[rustfmt::skip]
        let table: [(&str, [u8; 60], &[u8]); 2] = [
            ("request", arp_request(MAC, vip), &[
                0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0x08, 0x06,
                0, 1, 8, 0, 6, 4, 0, 1,
                0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 192, 0, 2, 10,
                0, 0, 0, 0, 0, 0, 192, 0, 2, 10,
            ]),
            ("reply", arp_reply(MAC, vip), &[
                0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0x08, 0x06,
                0, 1, 8, 0, 6, 4, 0, 2,
                0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 192, 0, 2, 10,
                0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 192, 0, 2, 10,
            ]),
        ];
        for (form, frame, expected) in table {
            assert_eq!(frame[..42], *expected, "{form}");
            assert_eq!(frame[42..], [0; 18], "{form}: padding");
        }
    }

    #[test]
    fn an_advertisement_has_these_bytes() {
        let frame = neighbour_advertisement(MAC, "2001:db8::10".parse().unwrap());
        #[rustfmt::skip]
        let expected: [u8; 86] = [
            0x33, 0x33, 0, 0, 0, 1, 0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0x86, 0xdd,
            0x60, 0, 0, 0, 0, 32, 58, 255,
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
            0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
            136, 0, frame[56], frame[57], 0x20, 0, 0, 0,
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
            2, 1, 0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee,
        ];
        assert_eq!(frame, expected);
    }

    proptest::proptest! {
        /// What the receiver checks (RFC 1071): pseudo-header and message together sum up to ones.
        #[test]
        fn a_receiver_finds_the_checksum_right(mac: [u8; 6], vip: u128) {
            let frame = neighbour_advertisement(Mac(mac), Ipv6Addr::from(vip));
            let mut covered = frame[22..54].to_vec();
            covered.extend([0, 0, 0, 32, 0, 0, 0, 58]);
            covered.extend(&frame[54..]);
            let sum = covered.chunks(2).fold(0u64, |sum, pair| {
                sum + u64::from(pair[0]) * 256 + u64::from(pair[1])
            });
            // Ones' complement zero, however many times 0xffff it holds.
            proptest::prop_assert_eq!(sum % 0xffff, 0);
        }
    }

    #[test]
    fn an_announcement_takes_both_arp_forms_or_one_advertisement() {
        let operations = |address: &str| -> Vec<u8> {
            of(&Announcement { interface: 1, mac: MAC, address: address.parse().unwrap() })
                .iter()
                .map(|frame| if frame[12..14] == [8, 6] { frame[21] } else { frame[54] })
                .collect()
        };
        assert_eq!(operations("192.0.2.10"), [1, 2]);
        assert_eq!(operations("2001:db8::10"), [136]);
    }
}

//! VLAN tags: what is ours is handled as without them and keeps them, all else passes as it is.

use std::cell::RefCell;
use std::net::IpAddr;

use kube_vip_common::stats::Reason;
use proptest::prelude::*;

use super::cluster::*;
use super::frames::*;
use super::kernel::*;

const FAMILIES: [bool; 2] = [false, true];
const SOURCE: u16 = 40000;

/// A customer's tag with priority and number, a provider's outside of one, two customers'.
const TAGS: [&[[u8; 4]]; 4] = [
    &[[0x81, 0, 0x60, 5]],
    &[[0x88, 0xa8, 0, 7]],
    &[[0x88, 0xa8, 0x20, 7], [0x81, 0, 0, 0]],
    &[[0x81, 0, 0x0f, 0xff], [0x81, 0, 0, 6]],
];

/// The frame with those tags.
fn tagged(frame: &[u8], tags: &[[u8; 4]]) -> Vec<u8> {
    [&frame[..12], &tags.concat(), &frame[12..]].concat()
}

/// Packets that a backend or a peer serves.
fn packets(v6: bool) -> Vec<Packet> {
    let tcp = |flags, data| Packet::tcp(v6, (SOURCE, PORT), flags, data);
    vec![
        tcp(SYN, b""),
        tcp(ACK, b"odd"),
        Packet::udp(v6, (SOURCE, PORT), b""),
        Packet::udp(v6, (SOURCE, PORT), &[0xff; 1400]),
    ]
}

#[test]
fn delivered_with_their_tags() {
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for (v6, tags) in FAMILIES.into_iter().flat_map(|v6| TAGS.map(|tags| (v6, tags))) {
        for packet in packets(v6) {
            let target = At::Pod(1).address(v6);
            let out = packet.clone().between(client(v6), target.ip()).ports(SOURCE, target.port());
            let frame = tagged(&packet.frame(), tags);
            kernel.xdp(&frame).passed(&tagged(&out.frame(), tags), &[]);
        }
    }
}

#[test]
fn forwarded_with_their_tags() {
    for desired in [held, elsewhere] {
        let mut kernel = Kernel::new(&desired(everywhere(&[At::Peer])));
        for (v6, tags) in FAMILIES.into_iter().flat_map(|v6| TAGS.map(|tags| (v6, tags))) {
            for packet in packets(v6) {
                let out = packet.clone().ttl(240).link(HOST, PEER).frame();
                let frame = tagged(&packet.frame(), tags);
                kernel.xdp(&frame).transmitted(&tagged(&out, tags), &[]);
            }
        }
    }
}

#[test]
fn refused_with_their_tags() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[])));
    for (v6, tags) in FAMILIES.into_iter().flat_map(|v6| TAGS.map(|tags| (v6, tags))) {
        for packet in packets(v6) {
            let plain = kernel.xdp(&packet.frame());
            assert_eq!(plain.verdict, Verdict::Transmit);
            let reasons: Vec<_> = plain.counted.keys().copied().collect();
            let outcome = kernel.xdp(&tagged(&packet.frame(), tags));
            outcome.transmitted(&tagged(&plain.frame, tags), &reasons);
        }
    }
}

#[test]
fn questions_are_answered_with_their_tags() {
    let desired = held(everywhere(&[At::Pod(1)]));
    let mut kernel = Kernel::owning(&desired);
    let arp = Arp::request((CLIENT, CLIENT4), VIP4).frame();
    let frames = [arp, solicitation(), Packet::echo(false, b"x").frame()];
    for frame in &frames {
        let plain = kernel.xdp(frame);
        assert_eq!(plain.verdict, Verdict::Transmit);
        let reasons: Vec<_> = plain.counted.keys().copied().collect();
        for tags in TAGS {
            let outcome = kernel.xdp(&tagged(frame, tags));
            outcome.transmitted(&tagged(&plain.frame, tags), &reasons);
        }
    }
    // Not owned: swallowed, tags or not.
    let mut kernel = Kernel::new(&desired);
    for frame in &frames {
        let reasons: Vec<_> = kernel.xdp(frame).counted.keys().copied().collect();
        for tags in TAGS {
            kernel.xdp(&tagged(frame, tags)).dropped(&reasons);
        }
    }
}

/// Of the VIP, as `ndisc_send_ns` in Linux makes it.
fn solicitation() -> Vec<u8> {
    let target = VIP6.octets();
    let mut data = vec![0; 4];
    data.extend(target);
    data.extend([1, 1]);
    data.extend(CLIENT.0);
    let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
    group[13..].copy_from_slice(&target[13..]);
    let to = kube_vip::view::Mac([0x33, 0x33, 0xff, target[13], target[14], target[15]]);
    Packet::icmp(true, 135, 0, &data)
        .between(CLIENT6.into(), IpAddr::from(group))
        .link(CLIENT, to)
        .ttl(255)
        .frame()
}

#[test]
fn others_and_more_tags_pass_untouched() {
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        for packet in packets(v6) {
            for tags in TAGS {
                let others = tagged(&packet.clone().between(client(v6), peer(v6)).frame(), tags);
                kernel.xdp(&others).untouched(&others);
                let three = tagged(&packet.frame(), &[tags, &[[0x81, 0, 0, 1]; 2]].concat());
                kernel.xdp(&three).untouched(&three);
            }
        }
    }
    for tags in TAGS {
        let arp = tagged(&Arp::request((CLIENT, CLIENT4), PEER4).frame(), tags);
        kernel.xdp(&arp).untouched(&arp);
        let own = Arp::request((CLIENT, CLIENT4), VIP4).frame();
        let short = tagged(&own, tags);
        for length in 15..short.len() {
            kernel.xdp(&short[..length]).untouched(&short[..length]);
        }
        // Up to the kernel, and as it came.
        let ssh = tagged(&Packet::tcp(false, (SOURCE, SSH), SYN, b"").frame(), tags);
        kernel.xdp(&ssh).passed(&ssh, &[Reason::PassedUp]);
    }
}

#[test]
fn replies_leave_with_their_tags() {
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        for request in packets(v6) {
            kernel.run_xdp(&request.frame());
            let target = At::Pod(1).address(v6);
            let reply = request.clone().between(target.ip(), client(v6)).ports(TARGET, SOURCE);
            let expected = reply.clone().between(vip(v6), client(v6)).ports(PORT, SOURCE);
            for tags in TAGS {
                let outcome = kernel.egress(&tagged(&reply.frame(), tags));
                outcome.passed(&tagged(&expected.frame(), tags), &[]);
            }
        }
    }
}

#[test]
fn fence_looks_behind_tags() {
    let desired = held(everywhere(&[At::Pod(1)]));
    let arp = Arp::request((HOST, VIP4), CLIENT4).frame();
    let advertisement = {
        let data = [&[0x20, 0, 0, 0][..], &VIP6.octets(), &[2, 1], &HOST.0].concat();
        Packet::icmp(true, 136, 0, &data).between(HOST6.into(), CLIENT6.into()).ttl(255).frame()
    };
    let mut kernel = Kernel::new(&desired);
    for tags in TAGS {
        kernel.egress(&tagged(&arp, tags)).dropped(&[Reason::ArpFenced]);
        kernel.egress(&tagged(&advertisement, tags)).dropped(&[Reason::NdFenced]);
    }
    let mut kernel = Kernel::owning(&desired);
    for tags in TAGS {
        for frame in [&arp, &advertisement] {
            let frame = tagged(frame, tags);
            kernel.egress(&frame).untouched(&frame);
        }
    }
}

#[test]
fn any_tag_is_kept() {
    let kernel = RefCell::new(Kernel::new(&elsewhere(everywhere(&[At::Peer]))));
    let tag = |(service, [a, b]): (bool, [u8; 2])| match service {
        true => [0x88, 0xa8, a, b],
        false => [0x81, 0, a, b],
    };
    let tags = proptest::collection::vec(any::<(bool, [u8; 2])>().prop_map(tag), 1..=2);
    proptest!(|(tags in tags, v6: bool, port: u16)| {
        let packet = Packet::udp(v6, (port, PORT), b"hello");
        let expected = tagged(&packet.clone().ttl(240).link(HOST, PEER).frame(), &tags);
        let out = kernel.borrow_mut().run_xdp(&tagged(&packet.frame(), &tags));
        prop_assert_eq!(out, (Verdict::Transmit, expected));
    });
}

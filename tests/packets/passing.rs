//! What is not ours passes untouched in both directions, whatever it looks like.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kube_vip_common::filter::Bit;
use kube_vip_common::stats::Reason;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::cluster::*;
use super::frames::*;
use super::kernel::*;

/// Cases of each property.
const CASES: u32 = 2000;

fn busy() -> Kernel {
    Kernel::owning(&held(everywhere(&[At::Host, At::Pod(1), At::Peer])))
}

fn segment() -> impl Strategy<Value = Segment> {
    let tcp = any::<(u8, u32)>().prop_map(|(flags, sequence)| Segment::Tcp {
        flags,
        sequence,
        acknowledgement: 1,
        window: 1,
        options: vec![2, 4, 5, 0xb4],
    });
    prop_oneof![
        4 => tcp,
        4 => any::<bool>().prop_map(|checked| Segment::Udp { checked }),
        2 => any::<(u8, u8)>().prop_map(|(kind, code)| Segment::Icmp { kind, code }),
        // Hop-by-hop, routing, fragment and destination options of IPv6 among them.
        2 => select(vec![0, 43, 44, 60, 132]).prop_map(Segment::Other),
        1 => any::<u8>().prop_map(Segment::Other),
    ]
}

/// Neighbours of what is ours: other hosts, and groups.
fn not_ours(v6: bool) -> impl Strategy<Value = IpAddr> {
    let known: Vec<IpAddr> = if v6 {
        vec![CLIENT6.into(), PEER6.into(), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into()]
    } else {
        vec![
            CLIENT4.into(),
            PEER4.into(),
            Ipv4Addr::BROADCAST.into(),
            Ipv4Addr::new(224, 0, 0, 1).into(),
        ]
    };
    let any = any::<[u8; 16]>().prop_map(move |bytes| match v6 {
        true => IpAddr::from(bytes),
        false => IpAddr::from([bytes[0] | 16, bytes[1], bytes[2], bytes[3]]),
    });
    prop_oneof![select(known), any]
}

/// A packet between others, to ports that are ours and not.
fn packet() -> impl Strategy<Value = Packet> {
    let port = || prop_oneof![Just(PORT), Just(TARGET), Just(CLOSED), any::<u16>()];
    let ends = any::<bool>().prop_flat_map(|v6| (Just(v6), not_ours(v6), not_ours(v6)));
    let link = (select(vec![CLIENT, PEER, STRANGER]), select(vec![HOST, BROADCAST, CLIENT]));
    let network = (
        prop_oneof![Just(64), Just(240), any::<u8>()],
        prop_oneof![3 => Just(0), 1 => Just(MF), 1 => any::<u16>()],
        prop_oneof![3 => Just(0), 1 => 0..=10usize],
    );
    let data = proptest::collection::vec(any::<u8>(), 0..80);
    (ends, link, network, segment(), (port(), port()), data).prop_map(
        |((v6, source, destination), (from, to), (ttl, fragment, words), segment, ports, data)| {
            Packet::new(v6, segment, ports, &data)
                .fragment(fragment)
                .options(&vec![1; words * 4])
                .between(source, destination)
                .link(from, to)
                .ttl(ttl)
        },
    )
}

/// What may happen to a frame's bytes besides: changed, cut short, tagged.
fn spoiled() -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec(any::<(Index, u8)>(), 0..4);
    let tags = prop_oneof![4 => Just(0), 1 => 1..=2usize];
    (packet(), changes, any::<Option<Index>>(), tags).prop_map(|(packet, changes, cut, tags)| {
        let mut frame = packet.frame();
        // Not the destination: else it might become ours.
        let address = if packet.source.is_ipv4() { 30..34 } else { 38..54 };
        for (at, value) in changes {
            let at = at.index(frame.len());
            if !address.contains(&at) {
                frame[at] = value;
            }
        }
        if let Some(cut) = cut {
            frame.truncate(15 + cut.index(frame.len() - 14));
        }
        for _ in 0..tags {
            frame.splice(12..12, [0x81, 0, 0, 5]);
        }
        frame
    })
}

/// Bytes behind an Ethernet header that promises something.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let ethertype = select(vec![0x0800, 0x86dd, 0x0806, 0x8100, 0x88a8, 0x88cc, 0x0026]);
    let payload = proptest::collection::vec(any::<u8>(), 1..120);
    (ethertype, payload).prop_map(|(kind, payload)| ethernet(HOST, CLIENT, kind, &payload))
}

/// Test runs refuse skbs that are shorter than the header their type promises.
fn leaves(frame: &[u8]) -> bool {
    frame.len()
        >= match frame[12..14] {
            [0x08, 0x00] => 34,
            [0x86, 0xdd] => 54,
            _ => 15,
        }
}

fn pass_untouched(
    frames: impl Strategy<Value = Vec<u8>>,
    run: impl Fn(&mut Kernel, &[u8]) -> (Verdict, Vec<u8>),
) {
    let kernel = RefCell::new(busy());
    proptest!(ProptestConfig::with_cases(CASES), |(frame in frames)| {
        let (verdict, out) = run(&mut kernel.borrow_mut(), &frame);
        prop_assert_eq!((verdict, out), (Verdict::Pass, frame));
    });
    assert_eq!(kernel.borrow().counts(), Default::default());
    assert_eq!(kernel.borrow_mut().events(), []);
}

#[test]
fn packets_of_others_pass_up() {
    pass_untouched(spoiled(), Kernel::run_xdp);
}

#[test]
fn garbage_passes_up() {
    pass_untouched(garbage(), Kernel::run_xdp);
}

#[test]
fn packets_of_others_pass_out() {
    pass_untouched(spoiled().prop_filter("too short", |f| leaves(f)), Kernel::run_egress);
}

#[test]
fn garbage_passes_out() {
    pass_untouched(garbage().prop_filter("too short", |f| leaves(f)), Kernel::run_egress);
}

/// An address that is not `ip` but has its bit in the filter.
fn lookalike(ip: IpAddr) -> IpAddr {
    let candidates = (0..u32::MAX).map(|n| match ip {
        IpAddr::V4(_) => IpAddr::from((n | 0x0b00_0000).to_be_bytes()),
        IpAddr::V6(_) => Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, (n >> 16) as u16, n as u16).into(),
    });
    let mut same = candidates.filter(|other| Bit::of_ip(*other) == Bit::of_ip(ip) && *other != ip);
    same.next().expect("65536 bits for many more addresses")
}

#[test]
fn address_that_only_looks_like_a_vip_passes() {
    let mut kernel = busy();
    for v6 in [false, true] {
        let other = lookalike(vip(v6));
        let tcp = |flags| Packet::tcp(v6, (40000, PORT), flags, b"hello");
        for packet in
            [tcp(SYN), tcp(ACK), Packet::udp(v6, (40000, PORT), b""), Packet::echo(v6, b"1234")]
        {
            let frame = packet.between(client(v6), other).frame();
            kernel.xdp(&frame).untouched(&frame);
        }
    }
}

#[test]
fn source_that_only_looks_like_a_backend_passes() {
    let mut kernel = busy();
    for v6 in [false, true] {
        let ends = (lookalike(At::Pod(1).address(v6).ip()), client(v6));
        for packet in
            [Packet::tcp(v6, (TARGET, 40000), ACK, b""), Packet::udp(v6, (TARGET, 40000), b"")]
        {
            let frame = packet.between(ends.0, ends.1).frame();
            kernel.egress(&frame).untouched(&frame);
        }
    }
}

#[test]
fn the_same_packets_to_a_vip_do_not_pass_untouched() {
    // What makes the tests above able to fail.
    let mut kernel = busy();
    for v6 in [false, true] {
        for packet in [
            Packet::tcp(v6, (40000, PORT), SYN, b""),
            Packet::udp(v6, (40000, PORT), b""),
            Packet::echo(v6, b"1234"),
        ] {
            assert_ne!(kernel.xdp(&packet.frame()).frame, packet.frame());
        }
        let other = Packet::tcp(v6, (40000, SSH), SYN, b"").frame();
        kernel.xdp(&other).passed(&other, &[Reason::PassedUp]);
    }
}

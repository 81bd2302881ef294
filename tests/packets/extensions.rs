//! IPv4 options and IPv6 extension headers are stepped over, and kept on all that goes on.

use kube_vip_common::stats::Reason;

use super::cluster::*;
use super::frames::*;
use super::kernel::*;

const SOURCE: u16 = 40000;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// A chain of extension headers, each with so many units of eight bytes besides its first.
type Chain<'a> = &'a [(u8, u8)];

/// Chains as they are sent, the longest that is walked among them.
const CHAINS: [Chain<'_>; 6] = [
    &[(HOP_BY_HOP, 0)],
    &[(DESTINATION, 2)],
    &[(ROUTING, 4)],
    // A packet that is its own only fragment (RFC 6946).
    &[(FRAGMENT, 0)],
    &[(HOP_BY_HOP, 1), (DESTINATION, 0), (ROUTING, 2)],
    &[(HOP_BY_HOP, 0), (DESTINATION, 0), (ROUTING, 2), (FRAGMENT, 0), (DESTINATION, 1)],
];

/// The frame with the chain between header and transport.
fn chained(packet: &Packet, chain: Chain<'_>) -> Vec<u8> {
    let mut frame = packet.frame();
    let last = std::mem::replace(&mut frame[20], chain[0].0);
    let mut bytes = Vec::new();
    for (n, (kind, units)) in chain.iter().enumerate() {
        let next = chain.get(n + 1).map_or(last, |(next, _)| *next);
        if *kind == FRAGMENT {
            bytes.extend([next, 0, 0, 0, 1, 2, 3, 4]);
        } else {
            bytes.extend([next, *units, 1, 4, 0, 0, 0, 0]);
            bytes.resize(bytes.len() + usize::from(*units) * 8, 0);
        }
    }
    let length = u16::from_be_bytes([frame[18], frame[19]]) + bytes.len() as u16;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame.splice(54..54, bytes);
    frame
}

fn packets() -> [Packet; 3] {
    [
        Packet::tcp(true, (SOURCE, PORT), SYN, b""),
        Packet::tcp(true, (SOURCE, PORT), ACK, b"hello"),
        Packet::udp(true, (SOURCE, PORT), b"odd"),
    ]
}

#[test]
fn delivered_with_their_headers() {
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    let target = At::Pod(1).address(true);
    for chain in CHAINS {
        for packet in packets() {
            let out = packet.clone().between(client(true), target.ip()).ports(SOURCE, TARGET);
            kernel.xdp(&chained(&packet, chain)).passed(&chained(&out, chain), &[]);
        }
    }
}

#[test]
fn forwarded_with_their_headers() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[At::Peer])));
    for chain in CHAINS {
        for packet in packets() {
            let out = packet.clone().ttl(240).link(HOST, PEER);
            kernel.xdp(&chained(&packet, chain)).transmitted(&chained(&out, chain), &[]);
        }
    }
}

#[test]
fn replies_leave_with_their_headers() {
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for request in packets() {
        kernel.run_xdp(&request.frame());
        let target = At::Pod(1).address(true);
        let reply = request.between(target.ip(), client(true)).ports(TARGET, SOURCE);
        let expected = reply.clone().between(vip(true), client(true)).ports(PORT, SOURCE);
        for chain in CHAINS {
            kernel.egress(&chained(&reply, chain)).passed(&chained(&expected, chain), &[]);
        }
    }
}

#[test]
fn resets_acknowledge_what_is_behind_the_headers() {
    // Another length of text would give another acknowledgement.
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[])));
    for packet in &packets()[..2] {
        let plain = kernel.xdp(&packet.frame());
        assert_eq!(plain.verdict, Verdict::Transmit);
        let reasons: Vec<_> = plain.counted.keys().copied().collect();
        for chain in CHAINS {
            kernel.xdp(&chained(packet, chain)).transmitted(&plain.frame, &reasons);
        }
    }
}

/// The error that answers a frame, quoting so many bytes of its packet.
fn unreachable(frame: &[u8], v6: bool, quoted: usize) -> Vec<u8> {
    let (kind, code) = if v6 { (1, 4) } else { (3, 3) };
    let data = [&[0; 4], &frame[14..14 + quoted]].concat();
    Packet::icmp(v6, kind, code, &data)
        .between(vip(v6), client(v6))
        .link(HOST, CLIENT)
        .fresh()
        .frame()
}

#[test]
fn errors_quote_all_headers() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[])));
    let counted = &[Reason::NoBackendUnreachable];
    let udp = |v6| Packet::udp(v6, (SOURCE, PORT), b"hello, and more than is quoted");
    for words in 0..=10 {
        let frame = udp(false).options(&vec![1; words * 4]).frame();
        let answer = unreachable(&frame, false, 20 + words * 4 + 8);
        kernel.xdp(&frame).transmitted(&answer, counted);
    }
    for chain in CHAINS {
        let frame = chained(&udp(true), chain);
        let chain = frame.len() - udp(true).frame().len();
        kernel.xdp(&frame).transmitted(&unreachable(&frame, true, 40 + chain + 8), counted);
    }
    // The longest that is quoted, and longer.
    let frame = chained(&udp(true), &[(DESTINATION, 10)]);
    kernel.xdp(&frame).transmitted(&unreachable(&frame, true, 40 + 88 + 8), counted);
    let frame = chained(&udp(true), &[(DESTINATION, 11)]);
    kernel.xdp(&frame).dropped(&[Reason::Unanswerable]);
}

#[test]
fn longer_chains_and_headers_cut_short_are_no_frontends() {
    let chain = [&[(HOP_BY_HOP, 0)][..], &[(DESTINATION, 0); 5]].concat();
    let long = chained(&packets()[0], &chain);
    let cut = &chained(&packets()[0], &[(DESTINATION, 20)])[..70];
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for frame in [&long, cut] {
        kernel.xdp(frame).passed(frame, &[Reason::PassedUp]);
    }
}

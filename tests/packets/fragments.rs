//! Fragments follow the first of their packet, wherever it went, and so do those of replies.

use std::net::IpAddr;

use kube_vip::plan::DataPlane;
use kube_vip_common::frontend::Protocol;
use kube_vip_common::stats::Reason;

use super::cluster::*;
use super::frames::*;
use super::kernel::*;

const FAMILIES: [bool; 2] = [false, true];
const SOURCE: u16 = 40000;
const ID: u16 = 0x77aa;

/// A packet in pieces of so many bytes; what of it is in each is the same whatever its addresses.
fn cut(packet: &Packet, size: usize) -> Vec<Packet> {
    let (bytes, protocol) = (packet.transport(), packet.protocol());
    let last = bytes.len().div_ceil(size) - 1;
    let pieces = bytes.chunks(size).enumerate().map(|(n, piece)| {
        let (offset, more) = ((n * size / 8) as u16, n != last);
        if packet.source.is_ipv4() {
            let fragment = offset | if more { MF } else { 0 };
            Packet {
                segment: Segment::Other(protocol),
                data: piece.to_vec(),
                fragment,
                id: ID,
                ..packet.clone()
            }
        } else {
            let place = (offset << 3 | u16::from(more)).to_be_bytes();
            let id = ID.to_be_bytes();
            let header = [protocol, 0, place[0], place[1], 0, 0, id[0], id[1]];
            let data = [&header[..], piece].concat();
            Packet { segment: Segment::Other(44), data, ..packet.clone() }
        }
    });
    pieces.collect()
}

fn frames(pieces: &[Packet]) -> Vec<Vec<u8>> {
    pieces.iter().map(Packet::frame).collect()
}

/// Large datagrams, and a segment cut behind its header.
fn packets(v6: bool) -> Vec<(Packet, usize)> {
    let data: Vec<u8> = (0..3000).map(|n| n as u8).collect();
    vec![
        (Packet::udp(v6, (SOURCE, PORT), &data), 1480),
        (Packet::udp(v6, (SOURCE, PORT), &data), 8),
        (Packet::tcp(v6, (SOURCE, PORT), SYN, &data), 24),
    ]
}

const FOLLOWED: &[Reason] = &[Reason::FragmentFollowed];

/// Sends all pieces and compares what becomes of them; the first is counted as packets are.
fn all(
    kernel: &mut Kernel,
    pieces: &[Vec<u8>],
    verdict: Verdict,
    out: &[Vec<u8>],
    first: &[Reason],
) {
    assert_eq!(pieces.len(), out.len());
    for (n, (piece, out)) in pieces.iter().zip(out).enumerate() {
        kernel.xdp(piece).is(verdict, out, if n == 0 { first } else { FOLLOWED });
    }
}

#[test]
fn delivered_to_the_backend_of_the_first() {
    for at in [At::Host, At::Pod(1)] {
        let mut kernel = Kernel::owning(&held(everywhere(&[at])));
        for (packet, size) in FAMILIES.into_iter().flat_map(packets) {
            let target = at.address(packet.source.is_ipv6());
            let out = packet.clone().between(packet.source, target.ip()).ports(SOURCE, TARGET);
            let (pieces, out) = (frames(&cut(&packet, size)), frames(&cut(&out, size)));
            all(&mut kernel, &pieces, Verdict::Pass, &out, &[]);
        }
    }
}

#[test]
fn the_choice_is_the_firsts_alone() {
    // Many flows over many backends: each packet stays in one piece.
    let backends = [At::Pod(1), At::Pod(2), At::Pod(3), At::Peer];
    let mut kernel = Kernel::owning(&held(everywhere(&backends)));
    for v6 in FAMILIES {
        let mut seen = std::collections::BTreeSet::new();
        for source in 1..60 {
            let packet = Packet { id: source, ..Packet::udp(v6, (source, PORT), &[7; 100]) };
            let pieces = cut(&packet, 48);
            let ends =
                |bytes: &[u8]| if v6 { bytes[38..54].to_vec() } else { bytes[30..34].to_vec() };
            let went: Vec<_> = pieces
                .into_iter()
                .map(|piece| Packet { id: source, ..piece })
                .map(|piece| kernel.run_xdp(&piece.frame()))
                .map(|(verdict, out)| (format!("{verdict:?}"), out[..12].to_vec(), ends(&out)))
                .collect();
            assert!(went.windows(2).all(|pair| pair[0] == pair[1]), "{went:?}");
            seen.insert(went[0].clone());
        }
        assert_eq!(seen.len(), backends.len());
    }
}

#[test]
fn forwarded_where_the_first_went() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[At::Peer])));
    for (packet, size) in FAMILIES.into_iter().flat_map(packets) {
        let out = packet.clone().ttl(240).link(HOST, PEER);
        let (pieces, out) = (frames(&cut(&packet, size)), frames(&cut(&out, size)));
        all(&mut kernel, &pieces, Verdict::Transmit, &out, &[]);
        // Flooded ones are their receiver's.
        for piece in cut(&packet, size) {
            let frame = piece.link(CLIENT, STRANGER).frame();
            kernel.xdp(&frame).untouched(&frame);
        }
    }
    let mut desired: DataPlane = elsewhere(everywhere(&[At::Peer]));
    let hop = Some(link(PEER, IFINDEX + 1));
    let node = desired.nodes.get_mut("peer").expect("peer");
    (node.hop4, node.hop6) = (hop.clone(), hop);
    let mut kernel = Kernel::new(&desired);
    for (packet, size) in FAMILIES.into_iter().flat_map(packets) {
        let out = packet.clone().ttl(240).link(HOST, PEER);
        let (pieces, out) = (frames(&cut(&packet, size)), frames(&cut(&out, size)));
        all(&mut kernel, &pieces, Verdict::Redirect, &out, &[]);
    }
}

#[test]
fn delivered_for_another_agent() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[At::Pod(1)])));
    for (packet, size) in FAMILIES.into_iter().flat_map(packets) {
        let packet = packet.link(PEER, HOST).ttl(240);
        let target = At::Pod(1).address(packet.source.is_ipv6());
        let out = packet.clone().between(packet.source, target.ip()).ports(SOURCE, TARGET).ttl(64);
        let (pieces, out) = (frames(&cut(&packet, size)), frames(&cut(&out, size)));
        all(&mut kernel, &pieces, Verdict::Pass, &out, &[Reason::DeliveredForPeer]);
    }
}

#[test]
fn overtaking_ones_are_dropped() {
    for desired in [held, elsewhere] {
        let mut kernel = Kernel::owning(&desired(everywhere(&[At::Pod(1)])));
        for (packet, size) in FAMILIES.into_iter().flat_map(packets) {
            let pieces = frames(&cut(&packet, size));
            kernel.xdp(&pieces[1]).dropped(&[Reason::Fragment]);
        }
    }
    // Another identification, source or protocol is another packet.
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        let pieces = cut(&Packet::udp(v6, (SOURCE, PORT), &[1; 64]), 24);
        kernel.run_xdp(&pieces[0].frame());
        let other: IpAddr = peer(v6);
        let mut strangers = vec![pieces[1].clone().between(other, vip(v6))];
        if v6 {
            let mut piece = pieces[1].clone();
            piece.data[7] ^= 1;
            strangers.push(piece);
        } else {
            strangers.push(Packet { id: ID ^ 1, ..pieces[1].clone() });
            strangers.push(Packet { segment: Segment::Other(TCP), ..pieces[1].clone() });
        }
        for piece in strangers {
            kernel.xdp(&piece.frame()).dropped(&[Reason::Fragment]);
        }
    }
}

#[test]
fn refused_packets_are_refused_whole() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[])));
    for v6 in FAMILIES {
        let pieces = frames(&cut(&Packet::udp(v6, (SOURCE, PORT), &[1; 64]), 24));
        let first = kernel.xdp(&pieces[0]);
        assert_eq!(first.verdict, Verdict::Transmit);
        assert!(first.counted.contains_key(&Reason::NoBackendUnreachable));
        kernel.xdp(&pieces[1]).dropped(&[Reason::Fragment]);
        // Its header says where the segment ends, and that is not in the first fragment.
        let pieces = frames(&cut(&Packet::tcp(v6, (SOURCE, PORT), SYN, &[1; 64]), 24));
        kernel.xdp(&pieces[0]).dropped(&[Reason::Unanswerable]);
    }
}

#[test]
fn the_owners_own_ports_get_theirs() {
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        let pieces = frames(&cut(&Packet::udp(v6, (SOURCE, SSH), &[1; 64]), 24));
        let (first, rest) = pieces.split_first().expect("pieces");
        kernel.xdp(&rest[0]).dropped(&[Reason::Fragment]);
        kernel.xdp(first).passed(first, &[Reason::PassedUp]);
        rest.iter().for_each(|piece| kernel.xdp(piece).passed(piece, FOLLOWED));
    }
}

#[test]
fn a_hosts_own_address_keeps_its_fragments() {
    // There the kernel has connections of its own; what overtakes is put together by it.
    let mut kernel = Kernel::new(&own_addresses(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        for frame in frames(&cut(&Packet::udp(v6, (SOURCE, SSH), &[1; 64]), 24)) {
            kernel.xdp(&frame).untouched(&frame);
        }
        let packet = Packet::udp(v6, (SOURCE, PORT), &[1; 64]);
        let target = At::Pod(1).address(v6);
        let out = packet.clone().between(client(v6), target.ip()).ports(SOURCE, TARGET);
        let (pieces, out) = (frames(&cut(&packet, 24)), frames(&cut(&out, 24)));
        kernel.xdp(&pieces[1]).untouched(&pieces[1]);
        all(&mut kernel, &pieces, Verdict::Pass, &out, &[]);
    }
}

#[test]
fn no_fragment_goes_back_where_it_came_from() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[At::Peer])));
    for v6 in FAMILIES {
        let pieces = cut(&Packet::udp(v6, (SOURCE, PORT), &[1; 64]), 24);
        kernel.run_xdp(&pieces[0].frame());
        let back = pieces[1].clone().link(PEER, HOST).frame();
        kernel.xdp(&back).dropped(&[Reason::BackToSender]);
    }
}

#[test]
fn tags_stay_on_all_of_them() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[At::Peer])));
    let tag = |frame: &[u8]| [&frame[..12], &[0x81, 0, 0, 9], &frame[12..]].concat();
    for v6 in FAMILIES {
        let packet = Packet::udp(v6, (SOURCE, PORT), &[1; 64]);
        let out = packet.clone().ttl(240).link(HOST, PEER);
        for (n, (piece, out)) in cut(&packet, 24).iter().zip(cut(&out, 24)).enumerate() {
            let counted = if n == 0 { &[] } else { FOLLOWED };
            kernel.xdp(&tag(&piece.frame())).transmitted(&tag(&out.frame()), counted);
        }
    }
}

#[test]
fn replies_in_fragments_come_from_the_vip() {
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        let request = Packet::udp(v6, (SOURCE, PORT), b"question");
        let at = At::Pod(1).address(v6);
        let reply = Packet::udp(v6, (TARGET, SOURCE), &[0x5a; 3001]).between(at.ip(), client(v6));
        let expected = reply.clone().between(vip(v6), client(v6)).ports(PORT, SOURCE);
        let (pieces, expected) = (frames(&cut(&reply, 1480)), frames(&cut(&expected, 1480)));
        // No reply to anything, then one.
        pieces.iter().for_each(|piece| kernel.egress(piece).untouched(piece));
        kernel.run_xdp(&request.frame());
        kernel.egress(&pieces[1]).untouched(&pieces[1]);
        for (n, (piece, out)) in pieces.iter().zip(&expected).enumerate() {
            kernel.egress(piece).passed(out, if n == 0 { &[] } else { FOLLOWED });
        }
        let traffic = kernel.backend(Protocol::Udp, at).replies;
        let bytes: usize = pieces.iter().map(Vec::len).sum();
        assert_eq!((traffic.packets, traffic.bytes), (pieces.len() as u64, bytes as u64));
    }
}

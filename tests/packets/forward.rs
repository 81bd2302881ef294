//! To a peer on this L2: Ethernet addresses and the mark change, nothing else.

use kube_vip::config::XdpMode;
use kube_vip::plan::{DataPlane, Uplink};
use kube_vip::view::Mac;
use kube_vip_common::frontend::Protocol;
use kube_vip_common::stats::{BackendTraffic, Reason, Traffic};

use super::cluster::*;
use super::frames::*;
use super::kernel::*;

const FAMILIES: [bool; 2] = [false, true];
const SOURCE: u16 = 40000;

/// The mark of position 0.
const MARK: u8 = 240;

/// After which nobody follows.
const LAST: u8 = 244;

/// Packets that a peer serves; none needs a connection before it.
fn packets(v6: bool) -> Vec<Packet> {
    let tcp = |flags, data| Packet::tcp(v6, (SOURCE, PORT), flags, data);
    let mut packets = vec![
        tcp(SYN, b""),
        tcp(ACK, b"odd"),
        tcp(FIN | ACK, &[0xff; 1400]),
        tcp(RST, b""),
        Packet::udp(v6, (SOURCE, PORT), b""),
        Packet::udp(v6, (SOURCE, PORT), &[0xff; 1471]),
    ];
    if !v6 {
        packets.push(tcp(ACK, b"with options").options(&[1; 40]));
        packets.push(Packet::new(false, Segment::Udp { checked: false }, (SOURCE, PORT), b"x"));
    }
    packets
}

#[test]
fn only_link_addresses_and_ttl_change() {
    for desired in [held, elsewhere, nowhere, own_addresses] {
        let mut kernel = Kernel::new(&desired(everywhere(&[At::Peer])));
        for packet in FAMILIES.into_iter().flat_map(packets) {
            for ttl in [1, 2, 64, 239, 240, 247, 248, 255] {
                let packet = packet.clone().ttl(ttl);
                // What looks like an agent's goes on as if it were at the end of its way.
                let mark = if (240..248).contains(&ttl) { LAST } else { MARK };
                let expected = packet.clone().ttl(mark).link(HOST, PEER);
                kernel.xdp(&packet.frame()).transmitted(&expected.frame(), &[]);
                // Padding goes along.
                let pad = |frame: Vec<u8>| [frame, vec![0xab; 6]].concat();
                let outcome = kernel.xdp(&pad(packet.frame()));
                outcome.transmitted(&pad(expected.frame()), &[]);
            }
        }
    }
}

#[test]
fn flooded_frames_are_for_their_receiver_to_forward() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[At::Peer])));
    for packet in FAMILIES.into_iter().flat_map(packets) {
        let frame = packet.link(CLIENT, STRANGER).frame();
        kernel.xdp(&frame).untouched(&frame);
    }
}

#[test]
fn nothing_is_remembered() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[At::Peer])));
    for v6 in FAMILIES {
        let syn = Packet::tcp(v6, (SOURCE, PORT), SYN, b"");
        kernel.run_xdp(&syn.frame());
        assert_eq!(kernel.flows(v6), (0, 0));
    }
}

#[test]
fn packets_and_bytes_are_counted() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[At::Peer])));
    for v6 in FAMILIES {
        let packets = [&b""[..], b"hello"].map(|d| Packet::udp(v6, (SOURCE, PORT), d).frame());
        packets.iter().for_each(|frame| assert_eq!(kernel.run_xdp(frame).0, Verdict::Transmit));
        let bytes = packets.iter().map(|frame| frame.len() as u64).sum();
        let traffic = Traffic { packets: 2, bytes };
        assert_eq!(kernel.frontend(&udp(v6)), traffic);
        let sent = BackendTraffic { sent: traffic, ..Default::default() };
        assert_eq!(kernel.backend(Protocol::Udp, At::Peer.address(v6)), sent);
        let none = BackendTraffic::default();
        assert_eq!(kernel.backend(Protocol::Tcp, At::Peer.address(v6)), none);
    }
}

/// The peer as only node with a backend, reached like this.
fn peer_behind(hop: Option<(Mac, u32)>) -> DataPlane {
    let mut desired = elsewhere(everywhere(&[At::Peer]));
    let hop = hop.map(|(mac, interface)| link(mac, interface));
    let node = desired.nodes.get_mut("peer").expect("peer");
    (node.hop4, node.hop6) = (hop.clone(), hop);
    desired
}

#[test]
fn peer_without_a_known_way() {
    let mut kernel = Kernel::new(&peer_behind(None));
    for packet in FAMILIES.into_iter().flat_map(packets) {
        kernel.xdp(&packet.frame()).dropped(&[Reason::NoNextHop]);
    }
    for v6 in FAMILIES {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let backend = kernel.backend(protocol, At::Peer.address(v6));
            assert_eq!(backend, BackendTraffic::default());
        }
        assert_eq!(kernel.frontend(&tcp(v6)).packets, if v6 { 4 } else { 5 });
    }
}

#[test]
fn no_frame_goes_back_where_it_came_from() {
    // The backend is where the client is, and so is the owner that would translate.
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[At::Peer])));
    for v6 in FAMILIES {
        for packet in
            [Packet::tcp(v6, (SOURCE, PORT), SYN, b""), Packet::udp(v6, (SOURCE, PORT), b"x")]
        {
            let packet = packet.link(PEER, HOST);
            kernel.xdp(&packet.frame()).dropped(&[Reason::BackToSender]);
        }
    }
}

#[test]
fn peer_on_another_interface() {
    let mut kernel = Kernel::new(&peer_behind(Some((PEER, IFINDEX + 1))));
    for packet in FAMILIES.into_iter().flat_map(packets) {
        let expected = packet.clone().ttl(MARK).link(HOST, PEER);
        kernel.xdp(&packet.frame()).is(Verdict::Redirect, &expected.frame(), &[]);
    }
}

#[test]
fn peer_on_another_uplink() {
    const OTHER: Mac = Mac([2, 0, 0, 0, 1, 1]);
    let mut desired = peer_behind(Some((PEER, IFINDEX + 1)));
    let (index, mac) = (IFINDEX + 1, OTHER);
    let uplink = Uplink { index, mac, xdp: XdpMode::Auto, reason: None };
    desired.uplinks.insert("eth1".to_owned(), uplink);
    let mut kernel = Kernel::new(&desired);
    for packet in FAMILIES.into_iter().flat_map(packets) {
        // It leaves with the Ethernet address this host has there.
        let expected = packet.clone().ttl(MARK).link(OTHER, PEER);
        kernel.xdp(&packet.frame()).is(Verdict::Redirect, &expected.frame(), &[]);
        // A switch floods it: whom it is for sends it on.
        let flooded = packet.link(CLIENT, Mac([2, 0, 0, 0, 0, 0x55])).frame();
        kernel.xdp(&flooded).untouched(&flooded);
    }
}

#[test]
fn way_to_a_peer_changes() {
    const NEW: Mac = Mac([2, 0, 0, 0, 0, 0x77]);
    let mut kernel = Kernel::new(&peer_behind(None));
    for v6 in FAMILIES {
        let syn = Packet::tcp(v6, (SOURCE, PORT), SYN, b"");
        for mac in [PEER, NEW, PEER] {
            kernel.apply(&peer_behind(Some((mac, IFINDEX))));
            let expected = syn.clone().ttl(MARK).link(HOST, mac);
            kernel.xdp(&syn.frame()).transmitted(&expected.frame(), &[]);
            kernel.apply(&peer_behind(None));
            kernel.xdp(&syn.frame()).dropped(&[Reason::NoNextHop]);
        }
    }
}

#[test]
fn each_node_gets_its_own() {
    let third = Mac([2, 0, 0, 0, 0, 3]);
    let addresses = [std::net::Ipv4Addr::new(10, 0, 0, 3).into(), HOST6.into()];
    let mut desired = elsewhere(everywhere(&[At::Peer, At::On("third", 9), At::Pod(1)]));
    desired.nodes.insert("third".to_owned(), node(false, third, addresses));
    let mut kernel = Kernel::new(&desired);
    for v6 in FAMILIES {
        let mut counts = [0; 3];
        for source in 1..=300 {
            let packet = Packet::udp(v6, (source, PORT), b"");
            let (verdict, out) = kernel.run_xdp(&packet.frame());
            let forwarded = |mac| packet.clone().ttl(MARK).link(HOST, mac).frame();
            let here = At::Pod(1).address(v6).ip();
            let delivered = packet.clone().between(client(v6), here).ports(source, TARGET).frame();
            let ways = [
                (Verdict::Transmit, forwarded(PEER)),
                (Verdict::Transmit, forwarded(third)),
                (Verdict::Pass, delivered),
            ];
            let way = ways.iter().position(|way| *way == (verdict, out.clone())).expect("a way");
            counts[way] += 1;
        }
        let backends = [At::Peer, At::On("third", 9), At::Pod(1)].map(|at| at.address(v6));
        let sent = backends.map(|backend| kernel.backend(Protocol::Udp, backend).sent.packets);
        assert_eq!(sent, counts);
        assert!(counts.iter().all(|count| *count > 60), "{counts:?}");
    }
}

//! To a peer behind a router: the packet inside another one, or told how big it may be.

use kube_vip::plan::{DataPlane, NextHop, Through};
use kube_vip_common::frontend::Protocol;
use kube_vip_common::node;
use kube_vip_common::stats::{BackendTraffic, Reason, Traffic};

use super::cluster::*;
use super::frames::*;
use super::kernel::*;
use super::unreachable;

const FAMILIES: [bool; 2] = [false, true];
const SOURCE: u16 = 40000;
const MTU: u32 = 1500;

/// The mark of position 0.
const MARK: u8 = 240;
/// After which nobody follows.
const LAST: u8 = 244;

/// Bytes of the outer header.
fn room(v6: bool) -> usize {
    if v6 { 40 } else { 20 }
}

/// Bytes of the headers that a TCP segment of the client has.
fn headers(v6: bool) -> usize {
    room(v6) + 20
}

fn behind_router(interface: u32, mtu: u32) -> Option<NextHop> {
    Some(NextHop { mac: ROUTER, interface, through: Through::Tunnel, mtu, full: mtu })
}

/// The peer, which has all backends, is behind a router.
fn routed(mut desired: DataPlane, interface: u32, mtu: u32) -> DataPlane {
    let peer = desired.nodes.get_mut("peer").expect("peer");
    (peer.hop4, peer.hop6) = (behind_router(interface, mtu), behind_router(interface, mtu));
    desired
}

/// The packet as it leaves for the peer.
pub(crate) fn tunnelled(packet: &Packet) -> Packet {
    let v6 = packet.source.is_ipv6();
    // What looks like an agent's goes on as if it were at the end of its way.
    let mark = if (240..248).contains(&packet.ttl) { LAST } else { MARK };
    let inner = packet.clone().ttl(mark).network();
    Packet::other(v6, if v6 { 41 } else { 4 }, &inner)
        .between(host(v6), peer(v6))
        .link(HOST, ROUTER)
        .fresh()
}

fn packets(v6: bool) -> Vec<Packet> {
    let tcp = |flags, data: &[u8]| Packet::tcp(v6, (SOURCE, PORT), flags, data);
    let whole = vec![0xff; MTU as usize - room(v6) - headers(v6)];
    let mut packets = vec![
        tcp(SYN, b""),
        tcp(ACK, b"odd"),
        tcp(ACK, &whole),
        Packet::udp(v6, (SOURCE, PORT), b""),
        Packet::udp(v6, (SOURCE, PORT), b"hello"),
    ];
    if !v6 {
        packets.push(tcp(ACK, b"with options").options(&[1; 40]));
    }
    packets
}

#[test]
fn packet_travels_unchanged_but_for_the_mark() {
    for desired in [held, elsewhere, nowhere, own_addresses] {
        let desired = routed(desired(everywhere(&[At::Peer])), IFINDEX, MTU);
        let mut kernel = Kernel::new(&desired);
        for packet in FAMILIES.into_iter().flat_map(packets) {
            for ttl in [1, 64, 240, 255] {
                let packet = packet.clone().ttl(ttl);
                let expected = tunnelled(&packet).frame();
                kernel.xdp(&packet.frame()).transmitted(&expected, &[Reason::Tunnelled]);
            }
            // What pads a short frame stays behind the packet, as it was.
            let padding = packet.padded().len() - packet.frame().len();
            let expected = [tunnelled(&packet).frame(), vec![0; padding]].concat();
            kernel.xdp(&packet.padded()).transmitted(&expected, &[Reason::Tunnelled]);
        }
    }
}

#[test]
fn router_on_another_interface() {
    let desired = routed(elsewhere(everywhere(&[At::Peer])), IFINDEX + 1, MTU);
    let mut kernel = Kernel::new(&desired);
    for packet in FAMILIES.into_iter().flat_map(packets) {
        let expected = tunnelled(&packet).frame();
        let outcome = kernel.xdp(&packet.frame());
        outcome.is(Verdict::Redirect, &expected, &[Reason::Tunnelled]);
    }
}

#[test]
fn clients_behind_the_same_router_are_served() {
    let mut kernel = Kernel::new(&routed(elsewhere(everywhere(&[At::Peer])), IFINDEX, MTU));
    for packet in FAMILIES.into_iter().flat_map(packets) {
        let expected = tunnelled(&packet).frame();
        let packet = packet.link(ROUTER, HOST);
        kernel.xdp(&packet.frame()).transmitted(&expected, &[Reason::Tunnelled]);
    }
}

#[test]
fn each_family_has_its_own_way() {
    let mut desired = elsewhere(everywhere(&[At::Peer]));
    let peer = desired.nodes.get_mut("peer").expect("peer");
    peer.hop6 = behind_router(IFINDEX, MTU);
    let mut kernel = Kernel::new(&desired);
    let v4 = Packet::tcp(false, (SOURCE, PORT), SYN, b"");
    let forwarded = v4.clone().ttl(MARK).link(HOST, PEER).frame();
    kernel.xdp(&v4.frame()).transmitted(&forwarded, &[]);
    let v6 = Packet::tcp(true, (SOURCE, PORT), SYN, b"");
    kernel.xdp(&v6.frame()).transmitted(&tunnelled(&v6).frame(), &[Reason::Tunnelled]);
    desired.nodes.get_mut("peer").expect("peer").hop6 = None;
    kernel.apply(&desired);
    kernel.xdp(&v6.frame()).dropped(&[Reason::NoNextHop]);
}

#[test]
fn what_came_out_of_its_tunnel_does_not_go_back() {
    let mut kernel = Kernel::new(&routed(elsewhere(everywhere(&[At::Peer])), IFINDEX, MTU));
    for packet in FAMILIES.into_iter().flat_map(packets) {
        let packet = packet.ttl(MARK).link(kube_vip::view::Mac(node::tunnelled(2).octets), HOST);
        let outcome = kernel.xdp(&packet.frame());
        assert!(!outcome.counted.contains_key(&Reason::Tunnelled), "{:?}", outcome.counted);
        assert!(!outcome.counted.is_empty(), "nobody looked at it");
    }
}

#[test]
fn too_big_is_answered_with_what_fits() {
    for mtu in [1280, 1400, 1500, 3000] {
        let mut kernel = Kernel::new(&routed(held(everywhere(&[At::Peer])), IFINDEX, mtu));
        for v6 in FAMILIES {
            let fits = mtu as usize - room(v6);
            let sized = |bytes: usize| vec![0x5a; bytes - headers(v6)];
            let packet = |bytes| Packet::tcp(v6, (SOURCE, PORT), ACK, &sized(bytes)).ttl(7);
            let just = packet(fits);
            let out = tunnelled(&just).frame();
            kernel.xdp(&just.frame()).transmitted(&out, &[Reason::Tunnelled]);
            for bytes in [fits + 1, fits + room(v6), 3400] {
                for fragment in [0, DF] {
                    let packet = packet(bytes).fragment(fragment);
                    let [high, low] = (fits as u16).to_be_bytes();
                    let kind = if v6 { (2, 0) } else { (3, 4) };
                    let answer = unreachable::error_saying(&packet, kind, [0, 0, high, low]);
                    kernel.xdp(&packet.frame()).transmitted(&answer, &[Reason::TooBig]);
                }
            }
        }
    }
}

#[test]
fn too_big_is_not_answered_to_everybody() {
    let mut kernel = Kernel::new(&routed(held(everywhere(&[At::Peer])), IFINDEX, MTU));
    for v6 in FAMILIES {
        let packet = Packet::udp(v6, (SOURCE, PORT), &[0; 1472]);
        for source in super::reset::invalid_sources(v6) {
            let packet = packet.clone().between(source, vip(v6));
            kernel.xdp(&packet.frame()).dropped(&[Reason::Unanswerable]);
        }
    }
}

#[test]
fn what_arrived_is_counted() {
    let mut kernel = Kernel::new(&routed(elsewhere(everywhere(&[At::Peer])), IFINDEX, MTU));
    for v6 in FAMILIES {
        let frame = Packet::udp(v6, (SOURCE, PORT), b"hello").frame();
        kernel.run_xdp(&frame);
        let big = Packet::udp(v6, (SOURCE, PORT), &[0; 1472]).frame();
        kernel.run_xdp(&big);
        let sent = Traffic { packets: 1, bytes: frame.len() as u64 };
        let expected = BackendTraffic { sent, ..Default::default() };
        assert_eq!(kernel.backend(Protocol::Udp, At::Peer.address(v6)), expected);
    }
}

//! Flows that begin, what proves that their client exists, and how they end.

use std::time::Duration;

use kube_vip::plan::DataPlane;
use kube_vip_common::frontend::Protocol;
use kube_vip_common::stats::Reason;

use super::cluster::*;
use super::frames::*;
use super::kernel::*;

const FAMILIES: [bool; 2] = [false, true];
const SOURCE: u16 = 40000;
/// The number the backend chooses.
const CHOSEN: u32 = 0xffff_ffff;

fn delivered(packet: &Packet, at: At) -> Packet {
    let target = at.address(packet.source.is_ipv6());
    let (source, _) = packet.ports;
    packet.clone().between(packet.source, target.ip()).ports(source, target.port())
}

/// The backend's answer to a packet as it got it.
fn answer(got: &Packet, flags: u8) -> Packet {
    let (client, target) = got.ports;
    let segment = match &got.segment {
        Segment::Tcp { window, .. } => Segment::Tcp {
            flags,
            sequence: CHOSEN,
            acknowledgement: 1,
            window: *window,
            options: vec![],
        },
        other => other.clone(),
    };
    let (backend, whom) = (got.destination, got.source);
    Packet { segment, data: vec![], ..got.clone() }
        .between(backend, whom)
        .ports(target, client)
        .link(HOST, CLIENT)
}

fn ack(v6: bool, acknowledgement: u32) -> Packet {
    let mut packet = Packet::tcp(v6, (SOURCE, PORT), ACK, b"");
    if let Segment::Tcp { acknowledgement: number, .. } = &mut packet.segment {
        *number = acknowledgement;
    }
    packet
}

fn syn(v6: bool) -> Packet {
    Packet::tcp(v6, (SOURCE, PORT), SYN, b"")
}

#[test]
fn tcp_client_proves_itself_by_what_it_acknowledges() {
    let at = At::Pod(1);
    let mut kernel = Kernel::owning(&held(everywhere(&[at])));
    for v6 in FAMILIES {
        kernel.xdp(&syn(v6).frame()).passed(&delivered(&syn(v6), at).frame(), &[]);
        assert_eq!(kernel.flows(v6), (0, 2));
        // Nothing the backend said can be acknowledged yet.
        let early = ack(v6, CHOSEN.wrapping_add(1));
        kernel.xdp(&early.frame()).passed(&delivered(&early, at).frame(), &[]);
        assert_eq!(kernel.flows(v6), (0, 2));
        kernel.run_egress(&answer(&delivered(&syn(v6), at), SYN | ACK).frame());
        // Sent once more, it changes nothing.
        kernel.xdp(&syn(v6).frame()).passed(&delivered(&syn(v6), at).frame(), &[]);
        for wrong in [CHOSEN, CHOSEN.wrapping_add(2), 77] {
            let wrong = ack(v6, wrong);
            kernel.xdp(&wrong.frame()).passed(&delivered(&wrong, at).frame(), &[]);
            assert_eq!(kernel.flows(v6), (0, 2));
        }
        let right = ack(v6, CHOSEN.wrapping_add(1));
        kernel.xdp(&right.frame()).passed(&delivered(&right, at).frame(), &[]);
        assert_eq!(kernel.flows(v6), (1, 0));
        kernel.xdp(&right.frame()).passed(&delivered(&right, at).frame(), &[]);
        let reply = answer(&delivered(&right, at), ACK);
        let expected = reply.clone().between(vip(v6), client(v6)).ports(PORT, SOURCE);
        kernel.egress(&reply.frame()).passed(&expected.frame(), &[]);
    }
}

#[test]
fn syn_out_of_the_blue_leaves_a_connection_as_it_is() {
    let at = At::Pod(1);
    let mut kernel = Kernel::owning(&held(everywhere(&[at])));
    for v6 in FAMILIES {
        establish(&mut kernel, v6, at);
        kernel.xdp(&syn(v6).frame()).passed(&delivered(&syn(v6), at).frame(), &[]);
        assert_eq!(kernel.flows(v6), (1, 0));
    }
    // Another backend has the slot: a client that uses its port again begins anew.
    kernel.apply(&held(everywhere(&[At::Pod(2)])));
    for v6 in FAMILIES {
        let more = ack(v6, 5);
        kernel.xdp(&more.frame()).passed(&delivered(&more, at).frame(), &[]);
        kernel.xdp(&syn(v6).frame()).passed(&delivered(&syn(v6), At::Pod(2)).frame(), &[]);
        kernel.xdp(&more.frame()).passed(&delivered(&more, At::Pod(2)).frame(), &[]);
        assert_eq!(kernel.flows(v6), (0, 2));
    }
}

/// That backend answers a SYN; the handshake's last segment, as its client sends it.
pub(crate) fn answered(kernel: &mut Kernel, syn: &Packet, at: At) -> Packet {
    kernel.run_egress(&answer(&delivered(syn, at), SYN | ACK).frame());
    let segment = ack(syn.source.is_ipv6(), CHOSEN.wrapping_add(1)).segment;
    Packet { segment, ..syn.clone() }
}

/// A connection of the client to that backend.
pub(crate) fn establish(kernel: &mut Kernel, v6: bool, at: At) {
    kernel.run_xdp(&syn(v6).frame());
    kernel.run_egress(&answer(&delivered(&syn(v6), at), SYN | ACK).frame());
    kernel.run_xdp(&ack(v6, CHOSEN.wrapping_add(1)).frame());
    assert_eq!(kernel.flows(v6), (1, 0));
}

#[test]
fn flood_of_first_packets_evicts_no_flow() {
    let at = At::Pod(1);
    let mut kernel = Kernel::owning(&held(everywhere(&[at])));
    for v6 in FAMILIES {
        establish(&mut kernel, v6, at);
        for source in 1..20_000 {
            if source != SOURCE {
                kernel.run_xdp(&Packet::tcp(v6, (source, PORT), SYN, b"").frame());
                kernel.run_xdp(&Packet::udp(v6, (source, PORT), b"").frame());
            }
        }
        let more = ack(v6, 5);
        kernel.xdp(&more.frame()).passed(&delivered(&more, at).frame(), &[]);
        let reply = answer(&delivered(&more, at), ACK);
        let expected = reply.clone().between(vip(v6), client(v6)).ports(PORT, SOURCE);
        kernel.egress(&reply.frame()).passed(&expected.frame(), &[]);
        assert_eq!(kernel.flows(v6).0, 1);
    }
}

fn udp(v6: bool) -> Packet {
    Packet::udp(v6, (SOURCE, PORT), b"question")
}

#[test]
fn udp_flow_is_known_after_an_answer_and_ends_when_idle() {
    let (first, second) = (At::Pod(1), At::Pod(2));
    let mut kernel = Kernel::owning(&held(everywhere(&[first])));
    for v6 in FAMILIES {
        kernel.apply(&held(everywhere(&[first])));
        kernel.clock(1000);
        let got = delivered(&udp(v6), first);
        for _ in 0..2 {
            kernel.xdp(&udp(v6).frame()).passed(&got.frame(), &[]);
            assert_eq!(kernel.flows(v6), (0, 2));
        }
        kernel.run_egress(&answer(&got, 0).frame());
        kernel.xdp(&udp(v6).frame()).passed(&got.frame(), &[]);
        assert_eq!(kernel.flows(v6), (1, 0));
        // Another backend gets all that is new, this flow stays: both its sides keep it alive.
        let mut both = everywhere(&[first, second]);
        for (port, frontend) in &mut both {
            let old = first.address(port.0.is_ipv6());
            frontend.backends.get_mut(&old).expect("backend").weight = 0;
        }
        kernel.apply(&held(both));
        kernel.clock(1120);
        kernel.xdp(&udp(v6).frame()).passed(&got.frame(), &[]);
        kernel.clock(1240);
        kernel.run_egress(&answer(&got, 0).frame());
        kernel.clock(1360);
        kernel.xdp(&udp(v6).frame()).passed(&got.frame(), &[]);
        kernel.clock(1481);
        let moved = delivered(&udp(v6), second);
        kernel.xdp(&udp(v6).frame()).passed(&moved.frame(), &[]);
        assert_eq!(kernel.flows(v6), (0, 2));
    }
}

#[test]
fn two_vips_one_backend_and_the_same_client_port() {
    let at = At::Pod(1);
    let ports = everywhere(&[at]).into_iter().flat_map(|((ip, port, protocol), frontend)| {
        [port, 81].map(|port| ((ip, port, protocol), frontend.clone()))
    });
    let mut kernel = Kernel::owning(&held(ports.collect()));
    for v6 in FAMILIES {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let request = |port| match protocol {
                Protocol::Tcp => Packet::tcp(v6, (SOURCE, port), SYN, b""),
                _ => Packet::udp(v6, (SOURCE, port), b"question"),
            };
            kernel.xdp(&request(PORT).frame()).passed(&delivered(&request(PORT), at).frame(), &[]);
            let other = request(81);
            let (verdict, out) = kernel.run_xdp(&other.frame());
            assert_eq!(verdict, Verdict::Pass);
            let header = if v6 { 54 } else { 34 };
            let changed = u16::from_be_bytes([out[header], out[header + 1]]);
            assert!(changed != SOURCE && changed >= 1024, "{changed}");
            let got = delivered(&other, at).ports(changed, TARGET);
            assert_eq!(out, got.frame());
            // Once it has a port it keeps it.
            kernel.xdp(&other.frame()).passed(&got.frame(), &[]);
            for (request, got) in [(request(PORT), delivered(&request(PORT), at)), (other, got)] {
                let reply = answer(&got, SYN | ACK);
                let expected =
                    reply.clone().between(vip(v6), client(v6)).ports(request.ports.1, SOURCE);
                kernel.egress(&reply.frame()).passed(&expected.frame(), &[]);
            }
        }
    }
    assert_eq!(kernel.counts().get(&Reason::PortChanged), Some(&4));
}

fn with_timeout(plane: DataPlane, timeout: Duration) -> DataPlane {
    DataPlane { drain_timeout: Some(timeout), ..plane }
}

#[test]
fn flows_of_a_backend_that_is_gone_for_too_long_are_reset() {
    let at = At::Pod(1);
    let hour = Duration::from_secs(3600);
    for rest in [vec![], vec![At::Pod(2)]] {
        let mut kernel = Kernel::owning(&with_timeout(held(everywhere(&[at])), Duration::ZERO));
        for v6 in FAMILIES {
            establish(&mut kernel, v6, at);
        }
        kernel.apply(&with_timeout(held(everywhere(&rest)), hour));
        for v6 in FAMILIES {
            let more = ack(v6, 5);
            kernel.xdp(&more.frame()).passed(&delivered(&more, at).frame(), &[]);
        }
        kernel.apply(&with_timeout(held(everywhere(&rest)), Duration::ZERO));
        for v6 in FAMILIES {
            assert_eq!(kernel.flows(v6), (0, 0));
            let outcome = kernel.xdp(&ack(v6, 5).frame());
            assert_eq!(outcome.verdict, Verdict::Transmit);
            assert_eq!(outcome.counted, [(Reason::NoFlowReset, 1)].into());
        }
    }
}

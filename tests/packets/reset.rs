//! TCP that nobody serves: RST as in RFC 9293 §3.10.7.1.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kube_vip_common::stats::Reason;

use super::cluster::*;
use super::frames::*;
use super::kernel::*;

const FAMILIES: [bool; 2] = [false, true];

fn segment(v6: bool, port: u16, flags: u8, sequence: u32, data: &[u8]) -> Packet {
    let options = if flags & SYN != 0 { vec![2, 4, 5, 0xb4, 1, 3, 3, 7] } else { Vec::new() };
    let segment =
        Segment::Tcp { flags, sequence, acknowledgement: 0x0102_0304, window: 512, options };
    Packet::new(v6, segment, (40000, port), data)
}

fn rst(request: &Packet, flags: u8, sequence: u32, acknowledgement: u32) -> Packet {
    let segment = Segment::Tcp { flags, sequence, acknowledgement, window: 0, options: Vec::new() };
    let (source, destination) = request.ports;
    Packet { segment, data: Vec::new(), options: Vec::new(), ..request.clone() }
        .ports(destination, source)
        .between(request.destination, request.source)
        .link(request.to, request.from)
        .fresh()
}

#[track_caller]
fn resets(kernel: &mut Kernel, request: &Packet, answer: &Packet, reason: Reason) {
    let mut outcome = kernel.xdp(&request.frame());
    let (length, answer) = (outcome.frame.len(), answer.frame());
    assert_eq!(length, answer.len().max(60));
    // What fills the shortest frame up is of no matter.
    outcome.frame.truncate(answer.len());
    outcome.transmitted(&answer, &[reason]);
}

#[test]
fn sequence_numbers_follow_the_standard() {
    let mut kernel = Kernel::new(&elsewhere(Frontends::new()));
    for v6 in FAMILIES {
        for data in [&b""[..], b"x", b"hello!", &[7; 1300]] {
            let length = data.len() as u32;
            for sequence in [0, 1000, u32::MAX - 2] {
                let next = |n: u32| sequence.wrapping_add(length).wrapping_add(n);
                let of = |flags| segment(v6, SSH, flags, sequence, data);
                for (request, flags, sequence, acknowledgement) in [
                    // With ACK: the number that it expects.
                    (of(ACK), RST, 0x0102_0304, 0),
                    (of(SYN | ACK), RST, 0x0102_0304, 0),
                    (of(FIN | ACK), RST, 0x0102_0304, 0),
                    // Without: 0, and everything acknowledged.
                    (of(SYN), RST | ACK, 0, next(1)),
                    (of(FIN), RST | ACK, 0, next(1)),
                    (of(SYN | FIN), RST | ACK, 0, next(2)),
                    (of(0), RST | ACK, 0, next(0)),
                ] {
                    let answer = rst(&request, flags, sequence, acknowledgement);
                    resets(&mut kernel, &request, &answer, Reason::NoFrontendReset);
                }
            }
        }
    }
}

#[test]
fn ip_options_are_left_out_of_the_answer() {
    let mut kernel = Kernel::new(&elsewhere(Frontends::new()));
    let request = segment(false, SSH, SYN, 9, b"abc").options(&[1; 12]);
    let answer = rst(&request, RST | ACK, 0, 9 + 3 + 1);
    resets(&mut kernel, &request, &answer, Reason::NoFrontendReset);
}

#[test]
fn every_reason_to_reset_is_counted_as_such() {
    // Connections this host does not know, to a backend here; a frontend without a backend.
    let (here, empty) = (everywhere(&[At::Pod(1)]), everywhere(&[]));
    for desired in [held, elsewhere] {
        for v6 in FAMILIES {
            let mut kernel = Kernel::new(&desired(here.clone()));
            for flags in [ACK, FIN | ACK, SYN | ACK] {
                let request = segment(v6, PORT, flags, 5, b"");
                let answer = rst(&request, RST, 0x0102_0304, 0);
                resets(&mut kernel, &request, &answer, Reason::NoFlowReset);
            }
            let mut kernel = Kernel::new(&desired(empty.clone()));
            let request = segment(v6, PORT, SYN, 5, b"");
            let answer = rst(&request, RST | ACK, 0, 6);
            resets(&mut kernel, &request, &answer, Reason::NoBackendReset);
            let request = segment(v6, PORT, ACK, 5, b"");
            let answer = rst(&request, RST, 0x0102_0304, 0);
            resets(&mut kernel, &request, &answer, Reason::NoFlowReset);
        }
    }
}

#[test]
fn a_hosts_own_address_is_left_to_its_kernel() {
    // It may have connections of its own at that port.
    let own = |backends: &[At]| {
        let mut frontends = everywhere(backends);
        frontends.values_mut().for_each(|frontend| frontend.host_address = true);
        own_addresses(frontends)
    };
    for v6 in FAMILIES {
        let mut kernel = Kernel::new(&own(&[At::Pod(1)]));
        for flags in [ACK, FIN | ACK, SYN | ACK, RST] {
            let frame = segment(v6, PORT, flags, 5, b"").frame();
            kernel.xdp(&frame).untouched(&frame);
        }
        let mut kernel = Kernel::new(&own(&[]));
        for packet in [segment(v6, PORT, SYN, 5, b""), Packet::udp(v6, (40000, PORT), b"hello")] {
            let frame = packet.frame();
            kernel.xdp(&frame).untouched(&frame);
        }
    }
}

/// Sources that are no single host's (RFC 1122 §3.2.2, RFC 4443 §2.4).
pub(crate) fn invalid_sources(v6: bool) -> Vec<IpAddr> {
    if v6 {
        let multicast = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST, multicast].map(IpAddr::from).to_vec()
    } else {
        let multicast = Ipv4Addr::new(224, 0, 0, 1);
        [Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST, multicast, Ipv4Addr::BROADCAST]
            .map(IpAddr::from)
            .to_vec()
    }
}

#[test]
fn what_must_not_be_answered_is_dropped() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[])));
    for v6 in FAMILIES {
        for port in [SSH, PORT] {
            let syn = segment(v6, port, SYN, 5, b"");
            let mut silent = vec![
                segment(v6, port, RST, 5, b""),
                segment(v6, port, RST | ACK, 5, b""),
                segment(v6, port, RST | SYN, 5, b""),
                syn.clone().link(CLIENT, BROADCAST),
                syn.clone().link(CLIENT, kube_vip::view::Mac([0x33, 0x33, 0, 0, 0, 1])),
                syn.clone().link(CLIENT, kube_vip::view::Mac([1, 0, 0x5e, 0, 0, 1])),
            ];
            silent
                .extend(invalid_sources(v6).into_iter().map(|ip| syn.clone().between(ip, vip(v6))));
            for packet in silent {
                kernel.xdp(&packet.frame()).dropped(&[Reason::Unanswerable]);
            }
        }
        // A header cut short.
        let frame = segment(v6, SSH, SYN, 5, b"").frame();
        let header = if v6 { 54 } else { 34 };
        for length in header..header + 20 {
            kernel.xdp(&frame[..length]).dropped(&[Reason::Unanswerable]);
        }
    }
}

//! Everything else that nobody serves: "destination unreachable" (RFC 792, RFC 4443 §3.1).

use kube_vip_common::stats::Reason;

use super::cluster::*;
use super::frames::*;
use super::kernel::*;
use super::reset::invalid_sources;

const FAMILIES: [bool; 2] = [false, true];

/// Nobody at that port; nobody at that address.
fn port(v6: bool) -> (u8, u8) {
    if v6 { (1, 4) } else { (3, 3) }
}

fn address(v6: bool) -> (u8, u8) {
    if v6 { (1, 3) } else { (3, 1) }
}

/// The error that quotes a packet's header and the eight bytes behind it.
fn error(request: &Packet, kind: (u8, u8)) -> Vec<u8> {
    error_saying(request, kind, [0; 4])
}

/// The same with another second word.
pub(crate) fn error_saying(request: &Packet, (kind, code): (u8, u8), second: [u8; 4]) -> Vec<u8> {
    let v6 = request.source.is_ipv6();
    let mut quoted = request.network();
    quoted.resize(if v6 { 48 } else { 28 }, 0);
    Packet::icmp(v6, kind, code, &[&second, quoted.as_slice()].concat())
        .between(request.destination, request.source)
        .link(request.to, request.from)
        .fresh()
        .frame()
}

#[test]
fn udp_to_a_vip_that_is_not_held() {
    let mut kernel = Kernel::new(&elsewhere(Frontends::new()));
    for v6 in FAMILIES {
        for length in [0, 1, 2, 9, 100, 1400] {
            let request = Packet::udp(v6, (40000, SSH), &vec![0x5a; length]).ttl(9);
            let answer = error(&request, port(v6));
            kernel.xdp(&request.frame()).transmitted(&answer, &[Reason::NoFrontendUnreachable]);
            let padded = request.padded();
            kernel.xdp(&padded).transmitted(&answer, &[Reason::NoFrontendUnreachable]);
        }
    }
}

#[test]
fn other_protocols_to_a_vip_that_is_not_held() {
    let mut kernel = Kernel::new(&elsewhere(Frontends::new()));
    for v6 in FAMILIES {
        for protocol in [GRE, 50, 132] {
            // With less than the eight bytes that are quoted, zeros take their place.
            for length in [100, 8, 3] {
                let request = Packet::other(v6, protocol, &vec![0xa5; length]);
                let answer = error(&request, address(v6));
                kernel.xdp(&request.frame()).transmitted(&answer, &[Reason::NoFrontendUnreachable]);
            }
        }
    }
}

#[test]
fn udp_to_a_frontend_without_a_backend() {
    for desired in [held, elsewhere, own_addresses] {
        let mut kernel = Kernel::new(&desired(everywhere(&[])));
        for v6 in FAMILIES {
            let request = Packet::udp(v6, (40000, PORT), b"hello");
            let answer = error(&request, port(v6));
            kernel.xdp(&request.frame()).transmitted(&answer, &[Reason::NoBackendUnreachable]);
        }
    }
}

#[test]
fn what_must_not_be_answered_is_dropped() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[])));
    for v6 in FAMILIES {
        for port in [SSH, PORT] {
            let udp = Packet::udp(v6, (40000, port), b"hello");
            let multicast = kube_vip::view::Mac([0x33, 0x33, 0, 0, 0, 1]);
            let mut silent =
                vec![udp.clone().link(CLIENT, BROADCAST), udp.clone().link(CLIENT, multicast)];
            silent
                .extend(invalid_sources(v6).into_iter().map(|ip| udp.clone().between(ip, vip(v6))));
            for packet in silent {
                kernel.xdp(&packet.frame()).dropped(&[Reason::Unanswerable]);
            }
        }
    }
}

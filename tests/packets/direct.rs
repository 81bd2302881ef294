//! Connections that a client makes straight to a backend here are its own.

use kube_vip_common::stats::Reason;

use super::cluster::*;
use super::frames::*;
use super::kernel::*;

const FAMILIES: [bool; 2] = [false, true];
const SOURCE: u16 = 40000;
const BACKENDS: [At; 2] = [At::Host, At::Pod(1)];

fn direct(packet: Packet, at: At) -> Packet {
    let target = at.address(packet.source.is_ipv6());
    let (client, (port, _)) = (packet.source, packet.ports);
    packet.between(client, target.ip()).ports(port, target.port())
}

fn reply(request: &Packet) -> Packet {
    let (source, destination) = request.ports;
    request.clone().between(request.destination, request.source).ports(destination, source)
}

#[test]
fn both_directions_stay_untouched() {
    for at in BACKENDS {
        let mut kernel = Kernel::owning(&held(everywhere(&[at])));
        for v6 in FAMILIES {
            for packet in [
                Packet::tcp(v6, (SOURCE, 0), SYN, b""),
                Packet::tcp(v6, (SOURCE, 0), ACK, b"hello"),
                Packet::udp(v6, (SOURCE, 0), b"hello"),
            ] {
                let packet = direct(packet, at);
                kernel.xdp(&packet.frame()).untouched(&packet.frame());
                kernel.egress(&reply(&packet).frame()).untouched(&reply(&packet).frame());
            }
        }
    }
}

#[test]
fn connection_beside_a_balanced_one_stays_untouched() {
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        let balanced = Packet::tcp(v6, (SOURCE, PORT), SYN, b"");
        kernel.run_xdp(&balanced.frame());
        let beside = direct(Packet::tcp(v6, (SOURCE + 1, 0), SYN, b""), At::Pod(1));
        kernel.xdp(&beside.frame()).untouched(&beside.frame());
        kernel.egress(&reply(&beside).frame()).untouched(&reply(&beside).frame());
        // And the balanced one goes on.
        let answer = reply(&direct(balanced.clone(), At::Pod(1)));
        let expected = reply(&balanced);
        kernel.egress(&answer.frame()).passed(&expected.frame(), &[]);
    }
}

#[test]
fn datagram_from_the_same_port_ends_the_record() {
    for at in BACKENDS {
        let mut kernel = Kernel::owning(&held(everywhere(&[at])));
        for v6 in FAMILIES {
            let balanced = Packet::udp(v6, (SOURCE, PORT), b"hello");
            kernel.run_xdp(&balanced.frame());
            let again = direct(balanced, at);
            kernel.xdp(&again.frame()).passed(&again.frame(), &[Reason::FlowReplaced]);
            kernel.egress(&reply(&again).frame()).untouched(&reply(&again).frame());
            // Once is enough.
            kernel.xdp(&again.frame()).untouched(&again.frame());
        }
    }
}

#[test]
fn handshake_from_the_same_port_ends_the_record() {
    for at in BACKENDS {
        let mut kernel = Kernel::owning(&held(everywhere(&[at])));
        for v6 in FAMILIES {
            let of = |flags| Packet::tcp(v6, (SOURCE, PORT), flags, b"");
            let balanced = of(SYN);
            kernel.run_xdp(&balanced.frame());
            let again = direct(balanced.clone(), at);
            kernel.xdp(&again.frame()).untouched(&again.frame());
            // The balanced connection may still be closing: what the backend sends is its.
            for flags in [ACK, FIN | ACK, RST] {
                let last = reply(&direct(of(flags), at));
                kernel.egress(&last.frame()).passed(&reply(&of(flags)).frame(), &[]);
            }
            // The backend takes the new connection up, so the old one is gone.
            let accepted = reply(&direct(of(SYN | ACK), at));
            let replaced = &[Reason::FlowReplaced];
            kernel.egress(&accepted.frame()).passed(&accepted.frame(), replaced);
            kernel.egress(&accepted.frame()).untouched(&accepted.frame());
            let answer = reply(&direct(of(ACK), at));
            kernel.egress(&answer.frame()).untouched(&answer.frame());
            // The other direction is forgotten too.
            assert!(kernel.xdp(&of(ACK).frame()).counted.contains_key(&Reason::NoFlowReset));
        }
    }
}

#[test]
fn balanced_handshake_after_a_direct_one_is_the_balanced_ones() {
    let at = At::Pod(1);
    let mut kernel = Kernel::owning(&held(everywhere(&[at])));
    for v6 in FAMILIES {
        let of = |flags| Packet::tcp(v6, (SOURCE, PORT), flags, b"");
        kernel.run_xdp(&of(SYN).frame());
        kernel.run_xdp(&direct(of(SYN), at).frame());
        // The client gave the direct one up before it was answered.
        kernel.run_xdp(&of(SYN).frame());
        let accepted = reply(&direct(of(SYN | ACK), at));
        kernel.egress(&accepted.frame()).passed(&reply(&of(SYN | ACK)).frame(), &[]);
    }
}

#[test]
fn segment_inside_a_connection_ends_no_record() {
    // It may be a late one of a connection before; only a SYN begins.
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        let balanced = Packet::tcp(v6, (SOURCE, PORT), SYN, b"");
        kernel.run_xdp(&balanced.frame());
        for flags in [ACK, FIN | ACK, RST, SYN | ACK, SYN | RST] {
            let late = direct(Packet::tcp(v6, (SOURCE, 0), flags, b""), At::Pod(1));
            kernel.xdp(&late.frame()).untouched(&late.frame());
        }
        // Not even the answer to a handshake.
        let accepted = Packet::tcp(v6, (SOURCE, PORT), SYN | ACK, b"");
        for packet in [balanced, accepted] {
            let answer = reply(&direct(packet.clone(), At::Pod(1)));
            kernel.egress(&answer.frame()).passed(&reply(&packet).frame(), &[]);
        }
    }
}

#[test]
fn frames_with_the_mark_are_not_judged() {
    // 8 to 15 routers away from 255, or from an agent's Pod: not for a VIP, so not ours.
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        let packet = direct(Packet::tcp(v6, (SOURCE, 0), SYN, b""), At::Pod(1));
        let packet = packet.ttl(240).link(PEER, HOST);
        kernel.xdp(&packet.frame()).untouched(&packet.frame());
    }
}

//! Backends that fail their checks, and frontends that are left without any.

use kube_vip_common::frontend::HOST_ADDRESS;
use kube_vip_common::mark::PROBE_TTL;
use kube_vip_common::stats::Reason;

use super::cluster::*;
use super::frames::*;
use super::kernel::*;

const FAMILIES: [bool; 2] = [false, true];
const SOURCE: u16 = 40000;

fn delivered(packet: &Packet, at: At) -> Vec<u8> {
    let target = at.address(packet.source.is_ipv6());
    let (source, _) = packet.ports;
    packet.clone().between(packet.source, target.ip()).ports(source, target.port()).frame()
}

/// The same frontends, with this backend failing its checks.
fn without(mut frontends: Frontends, at: At) -> Frontends {
    for frontend in frontends.values_mut() {
        for (address, backend) in &mut frontend.backends {
            backend.excluded |= *address == at.address(address.is_ipv6());
        }
    }
    frontends
}

#[test]
fn a_backend_that_is_down_gets_nothing_new_and_keeps_its_connections() {
    let (one, other) = (At::Pod(1), At::Pod(2));
    let mut kernel = Kernel::new(&held(everywhere(&[one])));
    for v6 in FAMILIES {
        let syn = |source| Packet::tcp(v6, (source, PORT), SYN, b"");
        kernel.apply(&held(everywhere(&[one])));
        kernel.xdp(&syn(SOURCE).frame()).passed(&delivered(&syn(SOURCE), one), &[]);
        kernel.apply(&held(without(everywhere(&[one, other]), one)));
        let ack = Packet::tcp(v6, (SOURCE, PORT), ACK, b"more");
        kernel.xdp(&ack.frame()).passed(&delivered(&ack, one), &[]);
        for source in SOURCE + 1..SOURCE + 100 {
            kernel.xdp(&syn(source).frame()).passed(&delivered(&syn(source), other), &[]);
        }
        kernel.apply(&held(everywhere(&[one])));
        kernel.xdp(&syn(SOURCE + 1).frame()).passed(&delivered(&syn(SOURCE + 1), one), &[]);
    }
}

#[test]
fn datagrams_leave_a_backend_that_is_down() {
    let (one, other) = (At::Pod(1), At::Pod(2));
    for v6 in FAMILIES {
        let mut kernel = Kernel::new(&held(everywhere(&[one])));
        let packet = Packet::udp(v6, (SOURCE, PORT), b"hello");
        kernel.xdp(&packet.frame()).passed(&delivered(&packet, one), &[]);
        kernel.apply(&held(without(everywhere(&[one, other]), one)));
        kernel.xdp(&packet.frame()).passed(&delivered(&packet, other), &[]);
        // Up again: who moved stays, who stays is found.
        kernel.apply(&held(everywhere(&[one, other])));
        kernel.xdp(&packet.frame()).passed(&delivered(&packet, other), &[]);
    }
}

#[test]
fn one_frontends_check_does_not_move_anothers_datagrams() {
    let (one, other) = (At::Pod(1), At::Pod(2));
    for v6 in FAMILIES {
        let second = (vip(v6), PORT + 1, kube_vip_common::frontend::Protocol::Udp);
        let mut before = everywhere(&[one]);
        before.insert(second, frontend(v6, &[one]));
        let mut after = without(everywhere(&[one, other]), one);
        after.insert(second, frontend(v6, &[one, other]));
        let mut kernel = Kernel::new(&held(before));
        let packet = Packet::udp(v6, (SOURCE, PORT + 1), b"hello");
        kernel.xdp(&packet.frame()).passed(&delivered(&packet, one), &[]);
        kernel.apply(&held(after));
        kernel.xdp(&packet.frame()).passed(&delivered(&packet, one), &[]);
    }
}

#[test]
fn a_silent_frontend_without_a_backend_drops() {
    for desired in [held, elsewhere, nowhere] {
        for all_down in [false, true] {
            let backends: &[At] = if all_down { &[At::Pod(1)] } else { &[] };
            let mut frontends = without(everywhere(backends), At::Pod(1));
            frontends.values_mut().for_each(|frontend| frontend.silent = true);
            let mut kernel = Kernel::new(&desired(frontends));
            for v6 in FAMILIES {
                for packet in [
                    Packet::tcp(v6, (SOURCE, PORT), SYN, b""),
                    Packet::udp(v6, (SOURCE, PORT), b"hello"),
                ] {
                    let from_agent = packet.clone().link(PEER, HOST).ttl(240);
                    for packet in [packet, from_agent] {
                        kernel.xdp(&packet.frame()).dropped(&[Reason::NoBackendDropped]);
                    }
                }
                // A connection nobody knows is told so all the same.
                let ack = Packet::tcp(v6, (SOURCE, PORT), ACK, b"more");
                let outcome = kernel.xdp(&ack.frame());
                assert!(outcome.counted.contains_key(&Reason::NoFlowReset));
            }
        }
    }
}

#[test]
fn a_silent_frontend_with_a_backend_serves() {
    let mut frontends = everywhere(&[At::Pod(1)]);
    frontends.values_mut().for_each(|frontend| frontend.silent = true);
    let mut kernel = Kernel::new(&held(frontends));
    for v6 in FAMILIES {
        let syn = Packet::tcp(v6, (SOURCE, PORT), SYN, b"");
        kernel.xdp(&syn.frame()).passed(&delivered(&syn, At::Pod(1)), &[]);
    }
}

#[test]
fn an_agents_own_look_at_a_backend_is_not_balanced() {
    let mut frontends = everywhere(&[At::Pod(1)]);
    frontends.values_mut().for_each(|frontend| frontend.host_address = true);
    let mut kernel = Kernel::new(&own_addresses(frontends));
    assert_eq!(HOST_ADDRESS & kube_vip_common::frontend::SILENT, 0);
    for v6 in FAMILIES {
        let probe = Packet::tcp(v6, (SOURCE, PORT), SYN, b"").ttl(PROBE_TTL);
        let from_peer = probe.clone().link(PEER, HOST).between(peer(v6), vip(v6));
        kernel.xdp(&from_peer.frame()).passed(&from_peer.frame(), &[]);
        // A peer with an ordinary TTL is balanced.
        let ordinary = from_peer.ttl(64);
        kernel.xdp(&ordinary.frame()).passed(&delivered(&ordinary, At::Pod(1)), &[]);
    }
}

#[test]
fn a_client_opens_as_many_connections_as_it_may() {
    const RATE: u32 = 5;
    let limited = |mut frontends: Frontends| {
        frontends.values_mut().for_each(|frontend| frontend.rate_limit = Some(RATE));
        frontends
    };
    let mut kernel = Kernel::new(&held(limited(everywhere(&[At::Pod(1)]))));
    for v6 in FAMILIES {
        let syn = |n: u16| Packet::tcp(v6, (SOURCE + n, PORT), SYN, b"");
        let admitted = |kernel: &mut Kernel, packet: Packet| {
            let outcome = kernel.xdp(&packet.frame());
            let dropped = outcome.counted.contains_key(&Reason::RateLimited);
            assert_eq!(dropped, outcome.verdict == Verdict::Drop, "{:?}", outcome.counted);
            !dropped
        };
        let count = (0..100).filter(|n| admitted(&mut kernel, syn(*n))).count();
        // A slow machine may take long enough for another one.
        assert!((5..=7).contains(&count), "{count}");
        // What is open goes on, and other clients are nobody's concern.
        let ack = Packet::tcp(v6, (SOURCE, PORT), ACK, b"more");
        assert!(admitted(&mut kernel, ack));
        let other = if v6 { "2001:db8::77" } else { "198.51.100.77" };
        let other = other.parse().expect("an address");
        assert!(admitted(&mut kernel, syn(0).between(other, vip(v6))));
        // It does not matter who sent it here.
        assert!(!admitted(&mut kernel, syn(200).link(PEER, HOST).ttl(240)));
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert!(admitted(&mut kernel, syn(300)));
    }
}

#[test]
fn a_client_begins_as_many_datagram_flows_as_it_may() {
    let mut frontends = everywhere(&[At::Pod(1)]);
    frontends.values_mut().for_each(|frontend| frontend.rate_limit = Some(5));
    let mut kernel = Kernel::new(&held(frontends));
    for v6 in FAMILIES {
        let packet = |n: u16| Packet::udp(v6, (SOURCE + n, PORT), b"hello").frame();
        let mut admitted = |n| {
            let outcome = kernel.xdp(&packet(n));
            !outcome.counted.contains_key(&Reason::RateLimited)
        };
        let count = (0..100).filter(|n| admitted(*n)).count();
        assert!((5..=7).contains(&count), "{count}");
        // A flow that is known is never held up.
        assert!((0..100).all(|_| admitted(0)));
    }
}

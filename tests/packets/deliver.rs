//! To a backend on this host: destination rewritten, and the flow remembered.

use kube_vip_common::frontend::Protocol;
use kube_vip_common::stats::{BackendTraffic, Reason, Traffic};
use proptest::prelude::*;

use super::cluster::*;
use super::frames::*;
use super::halfopen::answered;
use super::kernel::*;

const FAMILIES: [bool; 2] = [false, true];
const SOURCE: u16 = 40000;

/// The packet as a backend gets it.
fn delivered(packet: &Packet, at: At) -> Vec<u8> {
    let target = at.address(packet.source.is_ipv6());
    let (source, _) = packet.ports;
    packet.clone().between(packet.source, target.ip()).ports(source, target.port()).frame()
}

fn syn(v6: bool) -> Packet {
    Packet::tcp(v6, (SOURCE, PORT), SYN, b"")
}

#[test]
fn both_protocols_reach_the_backend() {
    for at in [At::Host, At::Pod(1)] {
        let mut kernel = Kernel::owning(&held(everywhere(&[at])));
        for v6 in FAMILIES {
            let tcp = |flags, data| Packet::tcp(v6, (SOURCE, PORT), flags, data);
            let packets = [
                tcp(SYN, b""),
                tcp(ACK, b""),
                tcp(ACK, b"hello"),
                tcp(ACK, &[0xff; 1400]),
                tcp(FIN | ACK, b"odd"),
                tcp(RST, b""),
                Packet::udp(v6, (SOURCE, PORT), b""),
                Packet::udp(v6, (SOURCE, PORT), b"odd"),
                Packet::udp(v6, (SOURCE, PORT), &[0xff; 1400]),
            ];
            for packet in packets {
                for packet in [packet.clone().ttl(1), packet.ttl(255)] {
                    kernel.xdp(&packet.frame()).passed(&delivered(&packet, at), &[]);
                }
            }
        }
    }
}

#[test]
fn every_host_delivers_owner_or_not() {
    for desired in [held, elsewhere, nowhere, own_addresses] {
        let mut kernel = Kernel::new(&desired(everywhere(&[At::Pod(1)])));
        for v6 in FAMILIES {
            kernel.xdp(&syn(v6).frame()).passed(&delivered(&syn(v6), At::Pod(1)), &[]);
        }
    }
}

#[test]
fn connections_go_on_when_the_last_backend_is_taken_away() {
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        kernel.apply(&held(everywhere(&[At::Pod(1)])));
        kernel.xdp(&syn(v6).frame()).passed(&delivered(&syn(v6), At::Pod(1)), &[]);
        let ack = answered(&mut kernel, &syn(v6), At::Pod(1));
        kernel.apply(&held(everywhere(&[])));
        kernel.xdp(&ack.frame()).passed(&delivered(&ack, At::Pod(1)), &[]);
        let other = Packet::tcp(v6, (SOURCE + 1, PORT), SYN, b"").frame();
        assert!(kernel.xdp(&other).counted.contains_key(&Reason::NoBackendReset));
    }
}

#[test]
fn same_port_is_kept() {
    let mut frontends = everywhere(&[At::Pod(1)]);
    frontends = frontends.into_iter().map(|((ip, _, p), f)| ((ip, TARGET, p), f)).collect();
    let mut kernel = Kernel::owning(&held(frontends));
    for v6 in FAMILIES {
        for packet in
            [Packet::tcp(v6, (SOURCE, TARGET), SYN, b""), Packet::udp(v6, (SOURCE, TARGET), b"x")]
        {
            kernel.xdp(&packet.frame()).passed(&delivered(&packet, At::Pod(1)), &[]);
        }
    }
}

#[test]
fn ip_options_are_kept() {
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for words in 1..=10 {
        for packet in [syn(false), Packet::udp(false, (SOURCE, PORT), b"hello")] {
            let packet = packet.options(&vec![1; words * 4]);
            kernel.xdp(&packet.frame()).passed(&delivered(&packet, At::Pod(1)), &[]);
        }
    }
}

#[test]
fn udp_without_checksum_stays_without() {
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    let packet = Packet::new(false, Segment::Udp { checked: false }, (SOURCE, PORT), b"hello");
    let out = delivered(&packet, At::Pod(1));
    assert_eq!(out[40..42], [0, 0]);
    kernel.xdp(&packet.frame()).passed(&out, &[]);
}

#[test]
fn udp_checksum_that_becomes_zero_is_all_ones() {
    // RFC 768: zero means that there is none.
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        let check = if v6 { 60..62 } else { 40..42 };
        let with = |n: u16| Packet::udp(v6, (SOURCE, PORT), &n.to_be_bytes());
        let out = |n: u16| delivered(&with(n), At::Pod(1));
        let n = (0..=u16::MAX).find(|n| out(*n)[check.clone()] == [0xff, 0xff]).expect("one does");
        kernel.xdp(&with(n).frame()).passed(&out(n), &[]);
    }
}

#[test]
fn connection_stays_with_its_backend() {
    let (one, two, three) = (At::Pod(1), At::Pod(2), At::Pod(3));
    let mut kernel = Kernel::owning(&held(everywhere(&[one])));
    for v6 in FAMILIES {
        let ack = Packet::tcp(v6, (SOURCE, PORT), ACK, b"hello");
        let udp = Packet::udp(v6, (SOURCE, PORT), b"hello");
        kernel.apply(&held(everywhere(&[one])));
        kernel.xdp(&syn(v6).frame()).passed(&delivered(&syn(v6), one), &[]);
        kernel.xdp(&udp.frame()).passed(&delivered(&udp, one), &[]);
        // Still a backend, with next to no share: another would be chosen.
        let mut frontends = everywhere(&[one, two]);
        for frontend in frontends.values_mut() {
            frontend.backends.get_mut(&one.address(frontend_v6(frontend))).expect("one").weight = 0;
        }
        kernel.apply(&held(frontends));
        kernel.xdp(&ack.frame()).passed(&delivered(&ack, one), &[]);
        kernel.xdp(&udp.frame()).passed(&delivered(&udp, one), &[]);
        // Gone, and its number may be another's: TCP goes on, UDP moves.
        kernel.apply(&held(everywhere(&[two])));
        kernel.apply(&held(everywhere(&[two, three])));
        kernel.apply(&held(everywhere(&[three])));
        kernel.xdp(&ack.frame()).passed(&delivered(&ack, one), &[]);
        kernel.xdp(&udp.frame()).passed(&delivered(&udp, three), &[]);
        let backend = one.address(v6);
        let reply = ack.clone().between(backend.ip(), client(v6)).ports(backend.port(), SOURCE);
        let expected = reply.clone().between(vip(v6), client(v6)).ports(PORT, SOURCE);
        kernel.egress(&reply.frame()).passed(&expected.frame(), &[]);
        // A SYN begins anew, and what follows goes with it.
        kernel.xdp(&syn(v6).frame()).passed(&delivered(&syn(v6), three), &[]);
        kernel.xdp(&ack.frame()).passed(&delivered(&ack, three), &[]);
    }
}

fn frontend_v6(frontend: &kube_vip::plan::Frontend) -> bool {
    frontend.backends.keys().any(std::net::SocketAddr::is_ipv6)
}

#[test]
fn unknown_connections_leave_no_trace() {
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        for flags in [ACK, SYN | ACK, FIN | ACK] {
            let segment = Packet::tcp(v6, (SOURCE, PORT), flags, b"").frame();
            for _ in 0..2 {
                let outcome = kernel.xdp(&segment);
                assert_eq!(outcome.verdict, Verdict::Transmit);
                assert_eq!(outcome.counted.keys().collect::<Vec<_>>(), [&Reason::NoFlowReset]);
            }
        }
        // An RST without a flow is for nobody.
        for flags in [RST, RST | ACK, RST | SYN] {
            let segment = Packet::tcp(v6, (SOURCE, PORT), flags, b"").frame();
            kernel.xdp(&segment).dropped(&[Reason::Unanswerable]);
        }
    }
}

#[test]
fn tuples_are_told_apart() {
    // The same ports over TCP and UDP, at two VIPs' ports, from two clients.
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        kernel.xdp(&syn(v6).frame()).passed(&delivered(&syn(v6), At::Pod(1)), &[]);
        let ack = Packet::tcp(v6, (SOURCE, PORT), ACK, b"");
        let other = ack.clone().between(peer(v6), vip(v6));
        for stranger in [ack.clone().ports(SOURCE + 1, PORT), other] {
            assert_eq!(kernel.run_xdp(&stranger.frame()).0, Verdict::Transmit);
        }
        kernel.xdp(&ack.frame()).passed(&delivered(&ack, At::Pod(1)), &[]);
    }
}

#[test]
fn packets_and_bytes_are_counted() {
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        let packets = [syn(v6), Packet::tcp(v6, (SOURCE, PORT), ACK, b"hello")];
        let bytes = packets.iter().map(|packet| packet.frame().len() as u64).sum();
        for packet in &packets {
            kernel.run_xdp(&packet.frame());
        }
        let traffic = Traffic { packets: 2, bytes };
        assert_eq!(kernel.frontend(&tcp(v6)), traffic);
        assert_eq!(kernel.frontend(&udp(v6)), Traffic::default());
        let sent = BackendTraffic { sent: traffic, ..Default::default() };
        assert_eq!(kernel.backend(Protocol::Tcp, At::Pod(1).address(v6)), sent);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_content_arrives_with_right_checksums(
        packets in proptest::collection::vec(
            (any::<bool>(), any::<bool>(), any::<u16>(), any::<u8>(),
             proptest::collection::vec(any::<u8>(), 0..200)),
            1..40,
        ),
    ) {
        let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
        for (v6, is_tcp, port, ttl, data) in packets {
            let packet = match is_tcp {
                true => Packet::tcp(v6, (port, PORT), SYN, &data),
                false => Packet::udp(v6, (port, PORT), &data),
            };
            let packet = packet.ttl(ttl);
            let out = delivered(&packet, At::Pod(1));
            prop_assert_eq!(kernel.run_xdp(&packet.frame()), (Verdict::Pass, out));
        }
    }
}

//! A backend's reply leaves in the VIP's name.
//!
//! Packets with partial checksums and those that stand for many segments cannot be made by a test
//! run; real connections in the lab have them.

use std::cell::RefCell;
use std::net::SocketAddr;

use kube_vip_common::frontend::Protocol;
use kube_vip_common::stats::{BackendTraffic, Reason, Traffic};
use proptest::prelude::*;

use super::cluster::*;
use super::frames::*;
use super::kernel::*;

const FAMILIES: [bool; 2] = [false, true];
const SOURCE: u16 = 40000;

/// A backend's answer to the request, as it leaves the backend.
fn answer(request: &Packet, at: SocketAddr, data: &[u8]) -> Packet {
    let (client, _) = request.ports;
    Packet { data: data.to_vec(), ..request.clone() }
        .between(at.ip(), request.source)
        .ports(at.port(), client)
        .link(HOST, CLIENT)
}

/// The answer as its client expects it.
fn from_vip(request: &Packet, answer: &Packet) -> Packet {
    let ((client, port), vip) = (request.ports, request.destination);
    answer.clone().between(vip, request.source).ports(port, client)
}

#[test]
fn replies_of_both_protocols_come_from_the_vip() {
    for at in [At::Host, At::Pod(1)] {
        let mut kernel = Kernel::owning(&held(everywhere(&[at])));
        for v6 in FAMILIES {
            let tcp = Packet::tcp(v6, (SOURCE, PORT), SYN, b"");
            let udp = Packet::udp(v6, (SOURCE, PORT), b"question");
            for request in [tcp, udp] {
                kernel.run_xdp(&request.frame());
                for data in [&b""[..], b"odd", b"even", &[0xff; 1399]] {
                    let reply = answer(&request, at.address(v6), data);
                    let expected = from_vip(&request, &reply);
                    kernel.egress(&reply.frame()).passed(&expected.frame(), &[]);
                }
            }
        }
    }
}

#[test]
fn same_port_ip_options_and_missing_checksums() {
    let frontends = everywhere(&[At::Pod(1)]);
    let ports = frontends.into_iter().flat_map(|((ip, port, protocol), frontend)| {
        [port, TARGET].map(|port| ((ip, port, protocol), frontend.clone()))
    });
    let mut kernel = Kernel::owning(&held(ports.collect()));
    let unchecked = Packet::new(false, Segment::Udp { checked: false }, (SOURCE, PORT), b"x");
    let requests = [
        Packet::tcp(false, (SOURCE, TARGET), SYN, b""),
        Packet::udp(true, (SOURCE, TARGET), b""),
        Packet::tcp(false, (SOURCE + 1, PORT), SYN, b"").options(&[1; 40]),
        unchecked,
    ];
    for request in requests {
        kernel.run_xdp(&request.frame());
        let reply = answer(&request, At::Pod(1).address(request.source.is_ipv6()), b"answer");
        let expected = from_vip(&request, &reply);
        kernel.egress(&reply.frame()).passed(&expected.frame(), &[]);
    }
}

#[test]
fn udp_checksum_that_becomes_zero_is_all_ones() {
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        let check = if v6 { 60..62 } else { 40..42 };
        let request = Packet::udp(v6, (SOURCE, PORT), b"");
        kernel.run_xdp(&request.frame());
        let reply = |n: u16| answer(&request, At::Pod(1).address(v6), &n.to_be_bytes());
        let expected = |n| from_vip(&request, &reply(n)).frame();
        let mut all = 0..=u16::MAX;
        let n = all.find(|n| expected(*n)[check.clone()] == [0xff, 0xff]).expect("one does");
        kernel.egress(&reply(n).frame()).passed(&expected(n), &[]);
    }
}

#[test]
fn replies_are_counted() {
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        let (request, at) = (Packet::udp(v6, (SOURCE, PORT), b""), At::Pod(1).address(v6));
        kernel.run_xdp(&request.frame());
        let reply = answer(&request, at, b"hello").frame();
        kernel.run_egress(&reply);
        kernel.run_egress(&reply);
        let of = |packets, bytes| Traffic { packets, bytes };
        let expected = BackendTraffic {
            sent: of(1, request.frame().len() as u64),
            replies: of(2, 2 * reply.len() as u64),
        };
        assert_eq!(kernel.backend(Protocol::Udp, at), expected);
    }
}

#[test]
fn what_is_no_reply_leaves_as_it_is() {
    let at = At::Pod(1);
    let mut kernel = Kernel::owning(&held(everywhere(&[at])));
    for v6 in FAMILIES {
        let request = Packet::tcp(v6, (SOURCE, PORT), SYN, b"");
        kernel.run_xdp(&request.frame());
        let reply = answer(&request, at.address(v6), b"answer");
        let (backend, client) = (reply.source, reply.destination);
        let udp = Packet { segment: Segment::Udp { checked: true }, ..reply.clone() };
        for other in [
            // Another port at the client's or the backend's end, another host, another protocol.
            reply.clone().ports(TARGET, SOURCE + 1),
            reply.clone().ports(TARGET + 1, SOURCE),
            reply.clone().between(backend, peer(v6)),
            reply.clone().between(host(v6), client),
            udp,
            // What the client itself sends, forwarded by this host.
            reply.clone().between(client, backend).ports(SOURCE, TARGET),
            Packet::icmp(v6, 3, 3, &reply.network()).between(backend, client),
        ] {
            kernel.egress(&other.frame()).untouched(&other.frame());
        }
        // Later parts of a packet have no ports.
        let part = if v6 { reply.fragment6(64) } else { reply.clone().fragment(8).frame() };
        kernel.egress(&part).untouched(&part);
        let short = &reply.frame()[..if v6 { 57 } else { 37 }];
        kernel.egress(short).untouched(short);
        kernel.egress(&reply.frame()).passed(&from_vip(&request, &reply).frame(), &[]);
    }
}

#[test]
fn reply_cut_short_is_not_sent_half_rewritten() {
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        let request = Packet::tcp(v6, (SOURCE, PORT), SYN, b"");
        kernel.run_xdp(&request.frame());
        let reply = answer(&request, At::Pod(1).address(v6), b"").frame();
        // The ports are there, the checksum is not.
        kernel.egress(&reply[..reply.len() - 10]).dropped(&[Reason::ReplyFailed]);
    }
}

#[test]
fn round_trip() {
    let backends = [At::Host, At::Pod(1), At::Pod(2), At::Pod(3)];
    let kernel = RefCell::new(Kernel::owning(&held(everywhere(&backends))));
    let data = || proptest::collection::vec(any::<u8>(), 0..300);
    let protocol = prop_oneof![
        Just(Segment::Udp { checked: true }),
        (any::<u32>(), any::<u16>()).prop_map(|(sequence, window)| Segment::Tcp {
            flags: SYN,
            sequence,
            acknowledgement: 0,
            window,
            options: vec![2, 4, 5, 0xb4],
        }),
    ];
    let config = ProptestConfig::with_cases(2000);
    proptest!(config, |(v6: bool, port: u16, ttl: u8, segment in protocol, there in data(), back in data())| {
        let mut kernel = kernel.borrow_mut();
        let request = Packet::new(v6, segment, (port, PORT), &there).ttl(ttl);
        let (verdict, arrived) = kernel.run_xdp(&request.frame());
        prop_assert_eq!(verdict, Verdict::Pass);
        // Which backend it is only the packet says.
        let mut reached = backends.into_iter().map(|at| at.address(v6)).filter(|at| {
            request.clone().between(request.source, at.ip()).ports(port, at.port()).frame() == arrived
        });
        let at = reached.next().expect("a backend, the rest of the packet as it was");
        let reply = answer(&request, at, &back);
        let left = kernel.run_egress(&reply.frame());
        prop_assert_eq!(left, (Verdict::Pass, from_vip(&request, &reply).frame()));
    });
    assert_eq!(kernel.borrow().counts(), Default::default());
}

//! Frames from other agents: the mark, when it is believed, and what follows.

use kube_vip::plan::DataPlane;
use kube_vip::view::Mac;
use kube_vip_common::stats::Reason;

use super::cluster::*;
use super::frames::*;
use super::halfopen::answered;
use super::kernel::*;

const FAMILIES: [bool; 2] = [false, true];
const MARKS: std::ops::Range<u8> = 240..248;

/// After which nobody follows.
const LAST: u8 = 244;
const SOURCE: u16 = 40000;

/// The client's packet as an agent passes it on.
fn marked(packet: Packet) -> Packet {
    packet.link(PEER, HOST).ttl(240)
}

fn delivered(packet: &Packet, at: At) -> Vec<u8> {
    let target = at.address(packet.source.is_ipv6());
    let (source, _) = packet.ports;
    packet.clone().between(packet.source, target.ip()).ports(source, target.port()).ttl(64).frame()
}

fn syn(v6: bool, source: u16) -> Packet {
    marked(Packet::tcp(v6, (source, PORT), SYN, b""))
}

fn ack(v6: bool, source: u16) -> Packet {
    marked(Packet::tcp(v6, (source, PORT), ACK, b"hello"))
}

fn both(v6: bool, source: u16) -> [Packet; 2] {
    [syn(v6, source), marked(Packet::udp(v6, (source, PORT), b"odd"))]
}

const WORD: &[Reason] = &[Reason::DeliveredForPeer];

#[test]
fn delivered_with_an_ordinary_ttl() {
    for desired in [held, elsewhere, nowhere] {
        let mut kernel = Kernel::new(&desired(everywhere(&[At::Pod(1)])));
        for v6 in FAMILIES {
            for mark in MARKS {
                let [tcp, udp] = both(v6, SOURCE).map(|packet| packet.ttl(mark));
                kernel.xdp(&tcp.frame()).passed(&delivered(&tcp, At::Pod(1)), WORD);
                let ack = answered(&mut kernel, &tcp, At::Pod(1));
                for packet in [ack, udp] {
                    kernel.xdp(&packet.frame()).passed(&delivered(&packet, At::Pod(1)), WORD);
                }
            }
        }
    }
}

#[test]
fn an_agent_may_send_through_another_interface_than_it_is_reached_at() {
    const OTHER: Mac = Mac([2, 0, 0, 0, 1, 2]);
    let mut desired = held(everywhere(&[At::Pod(1)]));
    for (mac, expected) in [(None, false), (Some(OTHER), true), (None, false)] {
        desired.senders = mac.into_iter().map(|mac| (mac, "peer".to_owned())).collect();
        let mut kernel = Kernel::new(&desired);
        for packet in FAMILIES.into_iter().flat_map(|v6| both(v6, SOURCE)) {
            let counted = kernel.xdp(&packet.link(OTHER, HOST).frame()).counted;
            assert_eq!(counted.contains_key(&Reason::DeliveredForPeer), expected);
        }
    }
}

#[test]
fn tables_choice_counts_if_it_is_here() {
    let here = [At::Pod(1), At::Pod(2), At::Pod(3)];
    let mut kernel = Kernel::new(&elsewhere(everywhere(&here)));
    for v6 in FAMILIES {
        for source in 1..100 {
            for packet in both(v6, source) {
                let client = packet.clone().link(CLIENT, HOST).ttl(64);
                let (verdict, choice) = kernel.run_xdp(&client.frame());
                assert_eq!(verdict, Verdict::Pass);
                let (verdict, mut out) = kernel.run_xdp(&packet.frame());
                assert_eq!(verdict, Verdict::Pass);
                // But for where it came from, it is the same.
                out[6..12].copy_from_slice(&CLIENT.0);
                assert_eq!(out, choice);
            }
        }
    }
}

#[test]
fn another_here_serves_if_the_tables_choice_is_elsewhere() {
    let here = [At::Pod(1), At::Pod(2)];
    let mixed = [At::Peer, At::On("third", 8), At::On("third", 9), here[0], here[1]];
    let mut desired = elsewhere(everywhere(&mixed));
    let third = node(false, Mac([2, 0, 0, 0, 0, 3]), [HOST4.into(), HOST6.into()]);
    desired.nodes.insert("third".to_owned(), third);
    let mut kernel = Kernel::new(&desired);
    for v6 in FAMILIES {
        let mut counts = [0; 2];
        for source in 1..=400 {
            let mut serves = |packet: &Packet| {
                let (verdict, out) = kernel.run_xdp(&packet.frame());
                assert_eq!(verdict, Verdict::Pass);
                let at = here.iter().position(|at| delivered(packet, *at) == out);
                at.expect("a backend here")
            };
            let [tcp, udp] = both(v6, source);
            let (at, other) = (serves(&tcp), serves(&udp));
            counts[at] += 1;
            counts[other] += 1;
            let ack = answered(&mut kernel, &tcp, here[at]);
            kernel.xdp(&ack.frame()).passed(&delivered(&ack, here[at]), WORD);
        }
        // All of them share what the table would have sent elsewhere.
        assert!(counts.iter().all(|count| *count > 300), "{counts:?}");
    }
}

#[test]
fn backends_without_a_share_do_not_serve() {
    let mut frontends = everywhere(&[At::Peer, At::Pod(1), At::Pod(2)]);
    for (port, frontend) in &mut frontends {
        let none = At::Pod(1).address(port.0.is_ipv6());
        frontend.backends.get_mut(&none).expect("backend").weight = 0;
    }
    let mut kernel = Kernel::new(&elsewhere(frontends));
    for packet in (1..100).flat_map(|source| both(false, source)) {
        kernel.xdp(&packet.frame()).passed(&delivered(&packet, At::Pod(2)), WORD);
    }
}

#[test]
fn unknown_vip_or_frontend_is_dropped_and_never_passed_up() {
    for desired in [held, elsewhere, nowhere] {
        let mut kernel = Kernel::owning(&desired(everywhere(&[At::Pod(1)])));
        for v6 in FAMILIES {
            for packet in [
                Packet::tcp(v6, (SOURCE, SSH), SYN, b""),
                Packet::tcp(v6, (SOURCE, SSH), ACK, b"hello"),
                Packet::tcp(v6, (SOURCE, SSH), RST, b""),
                Packet::udp(v6, (SOURCE, SSH), b"hello"),
                Packet::echo(v6, b"hello"),
                Packet::other(v6, GRE, &[0; 20]),
            ] {
                kernel.xdp(&marked(packet).frame()).dropped(&[Reason::UnknownFromAgent]);
            }
        }
    }
}

#[test]
fn mark_is_not_believed_from_others() {
    // Without the agent's word the packet is a client's: forwarded by the table.
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[At::On("third", 9)])));
    let third = Mac([2, 0, 0, 0, 0, 3]);
    let mut desired: DataPlane = elsewhere(everywhere(&[At::On("third", 9)]));
    let addresses = [
        std::net::Ipv4Addr::new(10, 0, 0, 3).into(),
        std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3).into(),
    ];
    desired.nodes.insert("third".to_owned(), node(false, third, addresses));
    desired.nodes.get_mut("peer").expect("peer").addresses = vec![PEER4.into(), PEER6.into()];
    kernel.apply(&desired);
    for v6 in FAMILIES {
        for packet in both(v6, SOURCE) {
            let forwarded = |packet: &Packet| {
                let mark = if MARKS.contains(&packet.ttl) { LAST } else { 240 };
                packet.clone().ttl(mark).link(HOST, third).frame()
            };
            for client in [
                // An unknown sender; this host's own address; a value outside the range.
                packet.clone().link(STRANGER, HOST),
                packet.clone().link(HOST, HOST),
                packet.clone().ttl(239),
                packet.clone().ttl(248),
                packet.clone().ttl(255),
                packet.clone().ttl(64),
                // The agent's host itself is the client.
                packet.clone().between(peer(v6), vip(v6)),
            ] {
                kernel.xdp(&client.frame()).transmitted(&forwarded(&client), &[]);
            }
            // What is believed goes where this host thinks it is served, then ends.
            let onward = packet.clone().ttl(241).link(HOST, third).frame();
            kernel.xdp(&packet.frame()).transmitted(&onward, &[Reason::SecondChance]);
            assert_ne!(kernel.run_xdp(&packet.ttl(LAST).frame()).0, Verdict::Transmit);
        }
    }
}

#[test]
fn the_last_mark_is_believed_from_anybody_but_by_the_owner() {
    let desired = elsewhere(everywhere(&[At::Peer]));
    let (mut owner, mut other) = (Kernel::owning(&desired), Kernel::new(&desired));
    for v6 in FAMILIES {
        for packet in both(v6, SOURCE) {
            for client in [packet.clone().link(STRANGER, HOST), packet.between(peer(v6), vip(v6))] {
                let client = client.ttl(LAST);
                let forwarded = client.clone().link(HOST, PEER).frame();
                if client.source != peer(v6) {
                    owner.xdp(&client.frame()).transmitted(&forwarded, &[]);
                }
                let outcome = other.xdp(&client.frame());
                assert_ne!(outcome.verdict, Verdict::Transmit, "{:?}", outcome.counted);
            }
        }
    }
}

#[test]
fn client_on_an_agents_host_keeps_its_ttl() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        for packet in both(v6, SOURCE) {
            let packet = packet.between(peer(v6), vip(v6));
            let target = At::Pod(1).address(v6);
            let expected = packet.clone().between(peer(v6), target.ip()).ports(SOURCE, TARGET);
            kernel.xdp(&packet.frame()).passed(&expected.frame(), &[]);
        }
    }
}

#[test]
fn agents_are_known_by_the_address_they_have_now() {
    const NEW: Mac = Mac([2, 0, 0, 0, 0, 0x77]);
    let backends = everywhere(&[At::Pod(1)]);
    let mut kernel = Kernel::new(&elsewhere(backends.clone()));
    let mut moved = elsewhere(backends.clone());
    moved.nodes.insert("peer".to_owned(), node(false, NEW, [PEER4.into(), PEER6.into()]));
    kernel.apply(&moved);
    for v6 in FAMILIES {
        let packet = syn(v6, SOURCE).link(NEW, HOST);
        kernel.xdp(&packet.frame()).passed(&delivered(&packet, At::Pod(1)), WORD);
        let old = syn(v6, SOURCE);
        assert!(kernel.xdp(&old.frame()).counted.is_empty());
    }
    moved.nodes.remove("peer");
    kernel.apply(&moved);
    let gone = syn(false, SOURCE).link(NEW, HOST);
    assert!(kernel.xdp(&gone.frame()).counted.is_empty());
}

/// The segment as it goes up to the port that refuses.
fn refused(packet: &Packet) -> Vec<u8> {
    let v6 = packet.source.is_ipv6();
    packet.clone().between(packet.source, host(v6)).ports(SOURCE, CLOSED).ttl(64).frame()
}

/// The kernel's RST as it leaves that port, and as it reaches the client.
fn kernels_rst(request: &Packet) -> (Packet, Packet) {
    let v6 = request.source.is_ipv6();
    let rst = Packet::tcp(v6, (0, 0), RST, b"").link(HOST, CLIENT).ttl(64);
    let from = |ip, port| rst.clone().between(ip, request.source).ports(port, SOURCE);
    (from(host(v6), CLOSED), from(vip(v6), request.ports.1))
}

#[test]
fn connection_nobody_knows_is_refused_by_the_kernel() {
    for desired in [held, elsewhere] {
        for (backends, reasons) in [
            (vec![At::Pod(1)], [Reason::NoBackendReset, Reason::NoFlowReset]),
            (vec![At::Peer], [Reason::NoBackendReset, Reason::NoFlowReset]),
            (vec![], [Reason::NoBackendReset, Reason::NoFlowReset]),
        ] {
            let mut kernel = Kernel::new(&desired(everywhere(&backends)));
            for v6 in FAMILIES {
                let (request, [no_backend, no_flow]) = (ack(v6, SOURCE), reasons);
                kernel.xdp(&request.frame()).passed(&refused(&request), &[no_flow]);
                let (leaves, arrives) = kernels_rst(&request);
                kernel.egress(&leaves.frame()).passed(&arrives.frame(), &[]);
                // A new connection finds a backend here or none.
                if backends != [At::Pod(1)] {
                    let request = syn(v6, SOURCE);
                    kernel.xdp(&request.frame()).passed(&refused(&request), &[no_backend]);
                    let udp = marked(Packet::udp(v6, (SOURCE, PORT), b""));
                    kernel.xdp(&udp.frame()).dropped(&[Reason::Unanswerable]);
                }
            }
        }
    }
}

#[test]
fn without_a_port_that_refuses_the_segment_is_dropped() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[At::Pod(1)])));
    let desired = elsewhere(everywhere(&[At::Pod(1)]));
    kernel.apply_closed(&desired, 0);
    for v6 in FAMILIES {
        kernel.xdp(&ack(v6, SOURCE).frame()).dropped(&[Reason::Unanswerable]);
    }
    // Nor where this host has no address of the family.
    let mut without = desired;
    without.nodes.get_mut("host").expect("host").addresses = vec![HOST4.into()];
    kernel.apply(&without);
    kernel.xdp(&ack(true, SOURCE).frame()).dropped(&[Reason::Unanswerable]);
    let request = ack(false, SOURCE);
    kernel.xdp(&request.frame()).passed(&refused(&request), &[Reason::NoFlowReset]);
}

#[test]
fn replies_to_what_an_agent_sent_come_from_the_vip() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        for request in both(v6, SOURCE) {
            kernel.run_xdp(&request.frame());
            let at = At::Pod(1).address(v6);
            let reply = request.clone().link(HOST, CLIENT).ttl(64);
            let from = |ip, port| reply.clone().between(ip, request.source).ports(port, SOURCE);
            let expected = from(vip(v6), PORT).frame();
            kernel.egress(&from(at.ip(), at.port()).frame()).passed(&expected, &[]);
        }
    }
}

//! Address translation: to hosts without agent, and to backends on their client's own host.

use kube_vip::plan::DataPlane;
use kube_vip::view::Mac;
use kube_vip_common::frontend::Protocol;
use kube_vip_common::nat::idle;
use kube_vip_common::stats::{Reason, Traffic};

use super::cluster::*;
use super::frames::*;
use super::kernel::*;

pub(super) const FAMILIES: [bool; 2] = [false, true];
pub(super) const SOURCE: u16 = 40000;
pub(super) const SERVER: At = At::Plain(9);
pub(super) const MARK: u8 = 240;

/// This host owns the VIPs, the servers are these.
pub(super) fn owner(backends: &[At]) -> DataPlane {
    held(everywhere(backends))
}

pub(super) fn kernel() -> Kernel {
    let mut kernel = Kernel::owning(&owner(&[SERVER]));
    kernel.set_clock(1000);
    kernel
}

pub(super) fn tcp_from(v6: bool, source: u16, flags: u8, data: &[u8]) -> Packet {
    Packet::tcp(v6, (source, PORT), flags, data)
}

/// The client's packet on its way to the server, from that port of the VIP.
pub(super) fn there(packet: &Packet, port: u16) -> Packet {
    let v6 = packet.source.is_ipv6();
    let server = SERVER.address(v6);
    let packet = packet.clone().link(HOST, PLAIN).between(vip(v6), server.ip());
    packet.ports(port, server.port()).ttl(63)
}

/// What the server sends to that port of the VIP.
pub(super) fn answer(packet: Packet, port: u16) -> Packet {
    let v6 = packet.source.is_ipv6();
    let server = SERVER.address(v6);
    packet.link(PLAIN, HOST).between(server.ip(), vip(v6)).ports(server.port(), port)
}

/// The same on its way to the client.
pub(super) fn back(answer: &Packet, source: u16) -> Packet {
    let v6 = answer.source.is_ipv6();
    let packet = answer.clone().link(HOST, CLIENT).between(vip(v6), client(v6));
    packet.ports(PORT, source).ttl(63)
}

/// Opens a TCP connection from that port; the port it has at the server.
#[track_caller]
pub(super) fn open(kernel: &mut Kernel, v6: bool, source: u16) -> u16 {
    let syn = tcp_from(v6, source, SYN, b"");
    let (verdict, out) = kernel.run_xdp(&syn.frame());
    assert_eq!(verdict, Verdict::Transmit);
    let at = if v6 { 54 } else { 34 };
    let port = u16::from_be_bytes([out[at], out[at + 1]]);
    assert_eq!(out, there(&syn, port).frame());
    port
}

/// The rest of the handshake.
#[track_caller]
fn establish(kernel: &mut Kernel, v6: bool, source: u16, port: u16) {
    let syn_ack = answer(tcp_from(v6, source, SYN | ACK, b""), port);
    kernel.xdp(&syn_ack.frame()).transmitted(&back(&syn_ack, source).frame(), &[]);
    let ack = tcp_from(v6, source, ACK, b"");
    kernel.xdp(&ack.frame()).transmitted(&there(&ack, port).frame(), &[]);
}

/// Whether a connection from that port is translated as before.
fn goes_on(kernel: &mut Kernel, v6: bool, source: u16, port: u16) -> bool {
    let data = tcp_from(v6, source, ACK, b"more");
    kernel.run_xdp(&data.frame()) == (Verdict::Transmit, there(&data, port).frame())
}

#[test]
fn tcp_both_ways() {
    let mut kernel = kernel();
    for v6 in FAMILIES {
        let there_and_back = [
            (false, SYN, &b""[..]),
            (true, SYN | ACK, b""),
            (false, ACK, b""),
            (false, ACK, b"odd"),
            (true, ACK, &[0xff; 1400]),
            (true, FIN | ACK, b""),
            (false, ACK, &[0xab; 1399]),
            (false, FIN | ACK, b"x"),
            (true, ACK, b""),
            (true, RST, b""),
        ];
        for (reply, flags, data) in there_and_back {
            let packet = tcp_from(v6, SOURCE, flags, data);
            let (packet, expected) = if reply {
                let packet = answer(packet, SOURCE);
                (packet.clone(), back(&packet, SOURCE))
            } else {
                (packet.clone(), there(&packet, SOURCE))
            };
            kernel.xdp(&packet.frame()).transmitted(&expected.frame(), &[]);
        }
        let traffic = kernel.backend(Protocol::Tcp, SERVER.address(v6));
        assert_eq!((traffic.sent.packets, traffic.replies.packets), (5, 5));
    }
}

#[test]
fn udp_both_ways() {
    let mut kernel = kernel();
    for v6 in FAMILIES {
        let mut bytes = 0;
        for (n, data) in [&b""[..], b"x", &[0xff; 1400]].into_iter().enumerate() {
            let query = Packet::udp(v6, (SOURCE, PORT), data);
            bytes += query.frame().len() as u64;
            kernel.xdp(&query.frame()).transmitted(&there(&query, SOURCE).frame(), &[]);
            let reply = answer(Packet::udp(v6, (0, 0), data), SOURCE);
            kernel.xdp(&reply.frame()).transmitted(&back(&reply, SOURCE).frame(), &[]);
            let sent = Traffic { packets: n as u64 + 1, bytes };
            assert_eq!(kernel.backend(Protocol::Udp, SERVER.address(v6)).sent, sent);
        }
    }
}

#[test]
fn checksums_that_come_out_as_zero_or_are_not_there() {
    let mut kernel = kernel();
    for v6 in FAMILIES {
        // Every sum there is, in steps that meet each residue of the two last bytes.
        for word in (0..=u16::MAX).step_by(if v6 { 257 } else { 85 }) {
            let query = Packet::udp(v6, (SOURCE, PORT), &word.to_be_bytes());
            let out = kernel.run_xdp(&query.frame());
            assert_eq!(out, (Verdict::Transmit, there(&query, SOURCE).frame()), "{word}");
        }
    }
    let query = Packet::new(false, Segment::Udp { checked: false }, (SOURCE, PORT), b"x");
    kernel.xdp(&query.frame()).transmitted(&there(&query, SOURCE).frame(), &[]);
}

#[test]
fn ip_options_are_kept() {
    let mut kernel = kernel();
    for words in 1..=10 {
        let syn = tcp_from(false, SOURCE, SYN, b"").options(&vec![1; words * 4]);
        kernel.xdp(&syn.frame()).transmitted(&there(&syn, SOURCE).frame(), &[]);
        let reply = answer(tcp_from(false, SOURCE, SYN | ACK, b""), SOURCE);
        let reply = reply.options(&vec![1; words * 4]);
        kernel.xdp(&reply.frame()).transmitted(&back(&reply, SOURCE).frame(), &[]);
    }
}

#[test]
fn ttl_is_decremented_and_ends_at_one() {
    let mut kernel = kernel();
    for v6 in FAMILIES {
        // New flows and known ones.
        for _ in 0..2 {
            for ttl in [0, 1] {
                let syn = tcp_from(v6, SOURCE, SYN, b"").ttl(ttl);
                kernel.xdp(&syn.frame()).dropped(&[Reason::NatTtlExceeded]);
            }
            for (ttl, expected) in
                [(2, 1), (64, 63), (239, 238), (240, 64), (247, 64), (248, 64), (255, 254)]
            {
                let syn = tcp_from(v6, SOURCE, SYN, b"").ttl(ttl);
                let expected = there(&syn, SOURCE).ttl(expected);
                kernel.xdp(&syn.frame()).transmitted(&expected.frame(), &[]);
            }
            let reply = answer(tcp_from(v6, SOURCE, SYN | ACK, b""), SOURCE);
            kernel.xdp(&reply.clone().ttl(1).frame()).dropped(&[Reason::NatTtlExceeded]);
            let expected = back(&reply, SOURCE).ttl(1);
            kernel.xdp(&reply.ttl(2).frame()).transmitted(&expected.frame(), &[]);
        }
    }
}

#[test]
fn what_is_used_does_not_become_idle() {
    let mut kernel = kernel();
    for v6 in FAMILIES {
        kernel.set_clock(1000);
        let port = open(&mut kernel, v6, SOURCE);
        let query = Packet::udp(v6, (SOURCE, PORT), b"").frame();
        assert_eq!(kernel.run_xdp(&query).0, Verdict::Transmit);
        for turn in 1..10 {
            kernel.set_clock(1000 + turn * idle::UDP_UNANSWERED);
            if turn % 2 == 0 {
                let reply = answer(Packet::udp(v6, (0, 0), b""), SOURCE);
                kernel.xdp(&reply.frame()).transmitted(&back(&reply, SOURCE).frame(), &[]);
            } else {
                assert_eq!(kernel.run_xdp(&query).0, Verdict::Transmit);
            }
            let syn = tcp_from(v6, SOURCE, SYN, b"");
            kernel.xdp(&syn.frame()).transmitted(&there(&syn, port).frame(), &[]);
        }
    }
}

#[test]
fn a_new_syn_begins_anew_only_where_the_old_connection_has_ended() {
    let mut kernel = kernel();
    let fins = |kernel: &mut Kernel, v6, port| {
        let fin = tcp_from(v6, SOURCE, FIN | ACK, b"");
        kernel.run_xdp(&fin.frame());
        kernel.run_xdp(&answer(fin, port).frame());
    };
    for v6 in FAMILIES {
        kernel.apply(&owner(&[SERVER]));
        let port = open(&mut kernel, v6, SOURCE);
        establish(&mut kernel, v6, SOURCE, port);
        // The table has another server now: a connection that lives stays.
        kernel.apply(&owner(&[At::Plain(10)]));
        let syn = tcp_from(v6, SOURCE, SYN, b"");
        assert!(goes_on(&mut kernel, v6, SOURCE, port));
        fins(&mut kernel, v6, port);
        let new = there(&syn, SOURCE).between(vip(v6), At::Plain(10).address(v6).ip());
        kernel.xdp(&syn.frame()).transmitted(&new.frame(), &[]);
        // The old server's last words are the kernel's business.
        let late = answer(tcp_from(v6, SOURCE, ACK, b""), port).frame();
        kernel.xdp(&late).passed(&late, &[Reason::PassedUp]);
    }
}

#[test]
fn connections_stay_with_a_server_that_was_removed() {
    let mut kernel = kernel();
    for v6 in FAMILIES {
        kernel.apply(&owner(&[SERVER]));
        let port = open(&mut kernel, v6, SOURCE);
        establish(&mut kernel, v6, SOURCE, port);
        let query = Packet::udp(v6, (SOURCE, PORT), b"");
        kernel.xdp(&query.frame()).transmitted(&there(&query, SOURCE).frame(), &[]);

        kernel.apply(&owner(&[At::Plain(10)]));
        assert!(goes_on(&mut kernel, v6, SOURCE, port));
        // UDP has no end of its own.
        let moved = there(&query, SOURCE).between(vip(v6), At::Plain(10).address(v6).ip());
        kernel.xdp(&query.frame()).transmitted(&moved.frame(), &[]);
    }
}

#[test]
fn udp_goes_by_the_table_again_once_it_was_idle() {
    let mut kernel = kernel();
    for v6 in FAMILIES {
        kernel.set_clock(1000);
        kernel.apply(&owner(&[SERVER]));
        let query = Packet::udp(v6, (SOURCE, PORT), b"");
        kernel.xdp(&query.frame()).transmitted(&there(&query, SOURCE).frame(), &[]);
        // The server stays, but without a share.
        let mut desired = owner(&[SERVER, At::Plain(10)]);
        for frontend in desired.frontends.values_mut() {
            let v6 = frontend.backends.keys().any(std::net::SocketAddr::is_ipv6);
            frontend.backends.get_mut(&SERVER.address(v6)).expect("backend").weight = 0;
        }
        kernel.apply(&desired);
        kernel.xdp(&query.frame()).transmitted(&there(&query, SOURCE).frame(), &[]);
        kernel.set_clock(1001 + idle::UDP_UNANSWERED);
        let moved = there(&query, SOURCE).between(vip(v6), At::Plain(10).address(v6).ip());
        kernel.xdp(&query.frame()).transmitted(&moved.frame(), &[]);
    }
}

#[test]
fn other_hosts_hand_their_packets_to_the_owner() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[SERVER])));
    for v6 in FAMILIES {
        for packet in [tcp_from(v6, SOURCE, SYN, b""), Packet::udp(v6, (SOURCE, PORT), b"x")] {
            let expected = packet.clone().ttl(MARK).link(HOST, PEER);
            kernel.xdp(&packet.frame()).transmitted(&expected.frame(), &[]);
            // From an agent it is dropped, or two that each take the other for the owner would
            // send it to and fro.
            let handed = packet.clone().link(PEER, HOST).ttl(MARK);
            kernel.xdp(&handed.frame()).dropped(&[Reason::NatNotOwner]);
            let flooded = packet.link(CLIENT, STRANGER).frame();
            kernel.xdp(&flooded).untouched(&flooded);
        }
        let ack = tcp_from(v6, SOURCE, ACK, b"").frame();
        assert!(kernel.xdp(&ack).counted.contains_key(&Reason::NoFlowReset));
    }
    let mut kernel = Kernel::new(&nowhere(everywhere(&[SERVER])));
    for v6 in FAMILIES {
        kernel.xdp(&tcp_from(v6, SOURCE, SYN, b"").frame()).dropped(&[Reason::NatNoOwner]);
    }
}

#[test]
fn owner_takes_over_what_it_is_handed() {
    let mut kernel = kernel();
    for v6 in FAMILIES {
        let handed = |packet: Packet| packet.link(PEER, HOST).ttl(MARK);
        let syn = tcp_from(v6, SOURCE, SYN, b"");
        let translated = there(&syn, SOURCE).ttl(64);
        kernel.xdp(&handed(syn.clone()).frame()).transmitted(&translated.frame(), &[]);
        // Where the client is on the link is only known once it has spoken itself.
        let syn_ack = answer(tcp_from(v6, SOURCE, SYN | ACK, b""), SOURCE);
        kernel.xdp(&syn_ack.frame()).dropped(&[Reason::NatClientUnknown]);
        kernel.set_clock(1001);
        kernel.xdp(&syn.frame()).transmitted(&there(&syn, SOURCE).frame(), &[]);
        kernel.xdp(&syn_ack.frame()).transmitted(&back(&syn_ack, SOURCE).frame(), &[]);
        kernel.set_clock(1002);
        let ack = tcp_from(v6, SOURCE, ACK, b"");
        let translated = there(&ack, SOURCE).ttl(64);
        kernel.xdp(&handed(ack.clone()).frame()).transmitted(&translated.frame(), &[]);
        kernel.xdp(&syn_ack.frame()).transmitted(&back(&syn_ack, SOURCE).frame(), &[]);
    }
}

#[test]
fn client_and_server_that_move_on_the_link_are_followed() {
    const NEW: Mac = Mac([2, 0, 0, 0, 0, 0x77]);
    let mut kernel = kernel();
    for v6 in FAMILIES {
        kernel.set_clock(1000);
        kernel.apply(&owner(&[SERVER]));
        let port = open(&mut kernel, v6, SOURCE);
        let mut desired = owner(&[SERVER]);
        desired.hops.insert(PLAIN_HOP.to_owned(), plain_hop(NEW, IFINDEX));
        kernel.apply(&desired);
        kernel.set_clock(1001);
        let syn = tcp_from(v6, SOURCE, SYN, b"").link(STRANGER, HOST);
        kernel.run_xdp(&syn.frame());
        kernel.xdp(&syn.frame()).transmitted(&there(&syn, port).link(HOST, NEW).frame(), &[]);
        let syn_ack = answer(tcp_from(v6, SOURCE, SYN | ACK, b""), port);
        let expected = back(&syn_ack, SOURCE).link(HOST, STRANGER);
        kernel.xdp(&syn_ack.frame()).transmitted(&expected.frame(), &[]);
    }
}

#[test]
fn flooded_frames_are_left_alone() {
    let mut kernel = kernel();
    for v6 in FAMILIES {
        for _ in 0..2 {
            let flooded = tcp_from(v6, SOURCE, SYN, b"").link(CLIENT, STRANGER).frame();
            kernel.xdp(&flooded).untouched(&flooded);
            open(&mut kernel, v6, SOURCE);
            let reply = answer(tcp_from(v6, SOURCE, SYN | ACK, b""), SOURCE);
            let flooded = reply.link(PLAIN, STRANGER).frame();
            kernel.xdp(&flooded).passed(&flooded, &[]);
        }
    }
}

#[test]
fn server_on_another_interface() {
    let mut desired = owner(&[SERVER]);
    desired.hops.insert(PLAIN_HOP.to_owned(), plain_hop(PLAIN, IFINDEX + 1));
    let mut kernel = Kernel::owning(&desired);
    for v6 in FAMILIES {
        for flags in [SYN, ACK] {
            let packet = tcp_from(v6, SOURCE, flags, b"");
            let expected = there(&packet, SOURCE).frame();
            kernel.xdp(&packet.frame()).is(Verdict::Redirect, &expected, &[]);
        }
    }
}

#[test]
fn middle_of_a_connection_nobody_knows() {
    let mut kernel = kernel();
    for v6 in FAMILIES {
        for flags in [ACK, FIN | ACK, SYN | ACK] {
            let packet = tcp_from(v6, SOURCE, flags, b"").frame();
            assert_eq!(kernel.xdp(&packet).counted, [(Reason::NoFlowReset, 1)].into());
        }
        let reply = answer(tcp_from(v6, SOURCE, ACK, b""), SOURCE).frame();
        kernel.xdp(&reply).passed(&reply, &[Reason::PassedUp]);
    }
}

#[test]
fn replies_are_matched_by_the_whole_tuple() {
    let mut kernel = kernel();
    for v6 in FAMILIES {
        let port = open(&mut kernel, v6, SOURCE);
        let reply = answer(tcp_from(v6, SOURCE, SYN | ACK, b""), port);
        let server = SERVER.address(v6);
        for other in [
            reply.clone().ports(server.port() + 1, port),
            reply.clone().ports(server.port(), port + 1),
            reply.clone().between(At::Plain(10).address(v6).ip(), vip(v6)),
            answer(Packet::udp(v6, (0, 0), b""), port),
        ] {
            let frame = other.frame();
            kernel.xdp(&frame).passed(&frame, &[Reason::PassedUp]);
        }
        kernel.xdp(&reply.frame()).transmitted(&back(&reply, SOURCE).frame(), &[]);
    }
}

#[test]
fn a_flow_that_began_translated_stays_so() {
    let mut kernel = kernel();
    for v6 in FAMILIES {
        kernel.apply(&owner(&[SERVER]));
        let port = open(&mut kernel, v6, SOURCE);
        establish(&mut kernel, v6, SOURCE, port);
        // The slot leads to a peer now, which sends on what it does not know; and to nobody.
        for backends in [&[At::Peer][..], &[At::Pod(1)], &[]] {
            kernel.apply(&owner(backends));
            let data = tcp_from(v6, SOURCE, ACK, b"more");
            let returned = data.clone().link(PEER, HOST).ttl(MARK + 1);
            let expected = there(&data, port).ttl(64);
            kernel.xdp(&returned.frame()).transmitted(&expected.frame(), &[]);
            if backends != [At::Peer] {
                assert!(goes_on(&mut kernel, v6, SOURCE, port));
            }
            let reply = answer(tcp_from(v6, SOURCE, ACK, b"data"), port);
            kernel.xdp(&reply.frame()).transmitted(&back(&reply, SOURCE).frame(), &[]);
        }
    }
}

//! ICMP errors about translated flows: each end hears them from the VIP, about what it sent itself.

use std::net::IpAddr;

use kube_vip_common::stats::Reason;

use super::cluster::*;
use super::frames::*;
use super::nat::{FAMILIES, SERVER, SOURCE, answer, back, kernel, tcp_from, there};

/// An error of that type about a packet, quoting as much of it as there must be.
fn error(about: &Packet, kind: u8, word: [u8; 4], from: IpAddr, to: IpAddr) -> Packet {
    let v6 = from.is_ipv6();
    let mut quoted = about.network();
    quoted.truncate(if v6 { 48 } else { 28 });
    Packet::icmp(v6, kind, 0, &[&word[..], &quoted].concat()).between(from, to)
}

/// Types that say that a packet is too big, and that its TTL was used up.
fn kinds(v6: bool) -> [(u8, [u8; 4]); 2] {
    if v6 { [(2, [0, 0, 5, 0]), (3, [0; 4])] } else { [(3, [0, 0, 5, 0]), (11, [0; 4])] }
}

fn router(v6: bool) -> IpAddr {
    if v6 { "fd00::254".parse().expect("v6") } else { "10.0.0.254".parse().expect("v4") }
}

#[test]
fn errors_about_requests_reach_the_client_as_from_the_vip() {
    let mut kernel = kernel();
    for v6 in FAMILIES {
        let syn = tcp_from(v6, SOURCE, SYN, b"");
        kernel.run_xdp(&syn.frame());
        let query = Packet::udp(v6, (SOURCE, PORT), b"whole");
        kernel.run_xdp(&query.frame());
        for (kind, word) in kinds(v6) {
            for sent in [&syn, &query] {
                for from in [router(v6), SERVER.address(v6).ip()] {
                    let about = there(sent, SOURCE);
                    let arrives = error(&about, kind, word, from, vip(v6)).link(PLAIN, HOST);
                    // The client sees the packet that it sent, as far as it had come.
                    let about = sent.clone().ttl(63);
                    let expected = error(&about, kind, word, vip(v6), client(v6));
                    let expected = expected.link(HOST, CLIENT).ttl(63);
                    kernel.xdp(&arrives.frame()).transmitted(&expected.frame(), &[]);
                }
            }
        }
    }
}

#[test]
fn errors_about_replies_reach_the_server_as_from_the_vip() {
    let mut kernel = kernel();
    for v6 in FAMILIES {
        let query = Packet::udp(v6, (SOURCE, PORT), b"whole");
        kernel.run_xdp(&query.frame());
        let reply = answer(Packet::udp(v6, (0, 0), &[7; 1400]), SOURCE);
        let seen = back(&reply, SOURCE);
        kernel.xdp(&reply.frame()).transmitted(&seen.frame(), &[]);
        for (kind, word) in kinds(v6) {
            for from in [router(v6), client(v6)] {
                let arrives = error(&seen, kind, word, from, vip(v6)).link(CLIENT, HOST);
                let about = reply.clone().ttl(63);
                let expected = error(&about, kind, word, vip(v6), SERVER.address(v6).ip());
                let expected = expected.link(HOST, PLAIN).ttl(63);
                kernel.xdp(&arrives.frame()).transmitted(&expected.frame(), &[]);
            }
        }
    }
}

#[test]
fn errors_about_translated_flows_end_with_their_ttl() {
    let mut kernel = kernel();
    for v6 in FAMILIES {
        let query = Packet::udp(v6, (SOURCE, PORT), b"whole");
        kernel.run_xdp(&query.frame());
        let (kind, word) = kinds(v6)[0];
        let arrives = error(&there(&query, SOURCE), kind, word, router(v6), vip(v6));
        let frame = arrives.link(PLAIN, HOST).ttl(1).frame();
        kernel.xdp(&frame).dropped(&[Reason::NatTtlExceeded]);
    }
}

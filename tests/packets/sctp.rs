//! SCTP: forwarded and delivered with its port as it is; the checksum covers no addresses.

use kube_vip_common::frontend::Protocol;
use kube_vip_common::stats::Reason;

use super::cluster::*;
use super::frames::*;
use super::kernel::*;

const FAMILIES: [bool; 2] = [false, true];
const SOURCE: u16 = 40000;
const SCTP: u8 = 132;

/// Types of chunks (RFC 9260 §3.2).
const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;

/// A packet with one chunk. The checksum is none, so a change of it would show.
fn sctp(v6: bool, (source, destination): (u16, u16), chunk: u8) -> Packet {
    let mut data = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    data.extend([1, 2, 3, 4, 0xc0, 0xff, 0xee, 0x11, chunk, 0, 0, 20]);
    data.extend([0x77; 16]);
    Packet::other(v6, SCTP, &data)
}

fn frontends(backends: &[At]) -> Frontends {
    let one = |v6| ((vip(v6), TARGET, Protocol::Sctp), frontend(v6, backends));
    FAMILIES.map(one).into_iter().collect()
}

#[test]
fn an_init_opens_and_the_rest_follows() {
    let mut kernel = Kernel::owning(&held(frontends(&[At::Pod(1)])));
    for v6 in FAMILIES {
        let at = At::Pod(1).address(v6);
        let ports = (SOURCE, TARGET);
        let stray = sctp(v6, ports, DATA).frame();
        kernel.xdp(&stray).dropped(&[Reason::Unanswerable]);
        for chunk in [INIT, DATA, ABORT] {
            let packet = sctp(v6, ports, chunk);
            let out = packet.clone().between(client(v6), at.ip());
            kernel.xdp(&packet.frame()).passed(&out.frame(), &[]);
        }
        let answer = sctp(v6, (TARGET, SOURCE), INIT_ACK).between(at.ip(), client(v6));
        let expected = answer.clone().between(vip(v6), client(v6));
        kernel.egress(&answer.frame()).passed(&expected.frame(), &[]);
        let other = sctp(v6, (TARGET, SOURCE + 1), DATA).between(at.ip(), client(v6)).frame();
        kernel.egress(&other).untouched(&other);
    }
}

#[test]
fn associations_stay_where_they_began() {
    let mut kernel = Kernel::owning(&held(frontends(&[At::Pod(1)])));
    for v6 in FAMILIES {
        kernel.apply(&held(frontends(&[At::Pod(1)])));
        kernel.run_xdp(&sctp(v6, (SOURCE, TARGET), INIT).frame());
        kernel.apply(&held(frontends(&[At::Pod(2)])));
        let packet = sctp(v6, (SOURCE, TARGET), DATA);
        let out = packet.clone().between(client(v6), At::Pod(1).address(v6).ip());
        kernel.xdp(&packet.frame()).passed(&out.frame(), &[]);
        let packet = sctp(v6, (SOURCE, TARGET), INIT);
        let out = packet.clone().between(client(v6), At::Pod(2).address(v6).ip());
        kernel.xdp(&packet.frame()).passed(&out.frame(), &[]);
    }
}

#[test]
fn forwarded_to_a_peer_and_delivered_there() {
    let mut owner = Kernel::new(&held(frontends(&[At::Peer])));
    let mut other = Kernel::new(&elsewhere(frontends(&[At::Pod(1)])));
    for v6 in FAMILIES {
        for chunk in [INIT, DATA] {
            let packet = sctp(v6, (SOURCE, TARGET), chunk);
            let out = packet.clone().ttl(240).link(HOST, PEER);
            owner.xdp(&packet.frame()).transmitted(&out.frame(), &[]);
            let arrives = packet.link(PEER, HOST).ttl(240);
            let out = arrives.clone().between(client(v6), At::Pod(1).address(v6).ip()).ttl(64);
            other.xdp(&arrives.frame()).passed(&out.frame(), &[Reason::DeliveredForPeer]);
        }
    }
}

#[test]
fn without_a_backend_unreachable() {
    let mut kernel = Kernel::new(&elsewhere(frontends(&[])));
    for v6 in FAMILIES {
        let outcome = kernel.xdp(&sctp(v6, (SOURCE, TARGET), INIT).frame());
        assert_eq!(outcome.verdict, Verdict::Transmit);
        assert!(outcome.counted.contains_key(&Reason::NoBackendUnreachable));
    }
}

#[test]
fn cut_short_it_is_no_frontends() {
    let mut kernel = Kernel::owning(&held(frontends(&[At::Pod(1)])));
    for v6 in FAMILIES {
        let frame = sctp(v6, (SOURCE, TARGET), INIT).frame();
        let short = &frame[..if v6 { 54 + 11 } else { 34 + 11 }];
        kernel.xdp(short).passed(short, &[Reason::PassedUp]);
    }
}

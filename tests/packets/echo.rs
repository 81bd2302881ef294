//! Echo requests to a VIP (RFC 792, RFC 4443 §4.1).

use kube_vip_common::stats::Reason;

use super::cluster::*;
use super::frames::*;
use super::kernel::*;

const FAMILIES: [bool; 2] = [false, true];

fn request(v6: bool, length: usize) -> Packet {
    let data: Vec<u8> = (0..length).map(|n| n as u8).collect();
    Packet::echo(v6, &data).ttl(3)
}

/// The request turned round, with everything it carries.
fn reply(request: &Packet, v6: bool) -> Packet {
    let segment = Segment::Icmp { kind: if v6 { 129 } else { 0 }, code: 0 };
    Packet { segment, ..request.clone() }
        .between(request.destination, request.source)
        .link(request.to, request.from)
        .ttl(64)
}

#[test]
fn owner_answers() {
    let mut kernel = Kernel::owning(&held(Frontends::new()));
    for v6 in FAMILIES {
        for length in [0, 1, 7, 56, 57, 1400, 1472] {
            let request = request(v6, length);
            let answer = reply(&request, v6).frame();
            kernel.xdp(&request.frame()).transmitted(&answer, &[Reason::EchoAnswered]);
        }
    }
}

#[test]
fn answer_keeps_options_and_padding() {
    let mut kernel = Kernel::owning(&held(Frontends::new()));
    // Record route (RFC 791 §3.1) with one empty place.
    let request = request(false, 5).options(&[7, 7, 4, 0, 0, 0, 0, 0]);
    let answer = reply(&request, false).frame();
    kernel.xdp(&request.frame()).transmitted(&answer, &[Reason::EchoAnswered]);
    let padding = vec![0xab; 13];
    let padded = [request.frame(), padding.clone()].concat();
    kernel.xdp(&padded).transmitted(&[answer, padding].concat(), &[Reason::EchoAnswered]);
}

#[test]
fn wrong_checksum_stays_wrong() {
    let mut kernel = Kernel::owning(&held(Frontends::new()));
    for (v6, check) in [(false, 36), (true, 56)] {
        let request = request(v6, 8);
        let (mut frame, mut answer) = (request.frame(), reply(&request, v6).frame());
        frame[check] ^= 0x55;
        let right = answer[check..check + 2].to_vec();
        let outcome = kernel.xdp(&frame);
        assert_eq!(outcome.verdict, Verdict::Transmit);
        assert_ne!(outcome.frame[check..check + 2], right);
        answer[check..check + 2].copy_from_slice(&outcome.frame[check..check + 2]);
        assert_eq!(outcome.frame, answer);
    }
}

#[test]
fn nobody_but_the_owner_answers() {
    for desired in [held, elsewhere, nowhere].map(|state| state(Frontends::new())) {
        let mut kernel = Kernel::new(&desired);
        for v6 in FAMILIES {
            kernel.xdp(&request(v6, 56).frame()).dropped(&[Reason::EchoSwallowed]);
        }
        kernel.let_lease_expire();
        for v6 in FAMILIES {
            kernel.xdp(&request(v6, 56).frame()).dropped(&[Reason::EchoSwallowed]);
        }
    }
}

#[test]
fn frames_to_many_are_not_answered() {
    let mut kernel = Kernel::owning(&held(Frontends::new()));
    for v6 in FAMILIES {
        for to in [BROADCAST, kube_vip::view::Mac([0x33, 0x33, 0, 0, 0, 1])] {
            let frame = request(v6, 56).link(CLIENT, to).frame();
            kernel.xdp(&frame).dropped(&[Reason::EchoSwallowed]);
        }
    }
}

#[test]
fn other_control_messages_are_no_echo() {
    let mut kernel = Kernel::owning(&held(Frontends::new()));
    for v6 in FAMILIES {
        // Replies, a code that requests do not have, an error; cut short before the checksum.
        let (echo, reply) = if v6 { (128, 129) } else { (8, 0) };
        let unreachable = if v6 { 1 } else { 3 };
        for (kind, code) in [(reply, 0), (echo, 1), (unreachable, 1)] {
            let frame = Packet::icmp(v6, kind, code, &[0; 12]).frame();
            kernel.xdp(&frame).passed(&frame, &[Reason::PassedUp]);
        }
        let frame = request(v6, 0).frame();
        for cut in [5, 6, 7, 8] {
            let short = &frame[..frame.len() - cut];
            kernel.xdp(short).passed(short, &[Reason::PassedUp]);
        }
    }
}

#[test]
fn own_addresses_are_the_kernels() {
    let mut kernel = Kernel::owning(&own_addresses(Frontends::new()));
    for v6 in FAMILIES {
        let frame = request(v6, 56).frame();
        kernel.xdp(&frame).untouched(&frame);
    }
}

//! Frames larger than a page, of which a program sees only the beginning (`xdp.frags`).

use kube_vip_common::frontend::Protocol;
use kube_vip_common::stats::Reason;

use super::cluster::*;
use super::frames::*;
use super::kernel::*;

const FAMILIES: [bool; 2] = [false, true];
const SOURCE: u16 = 40000;

/// As they fit an MTU of 9000, and a little more than a page.
const SIZES: [usize; 3] = [8900, 4200, 3900];

fn packets(v6: bool) -> Vec<Packet> {
    SIZES
        .into_iter()
        .flat_map(|size| {
            let data: Vec<u8> = (0..size).map(|n| (n % 253) as u8).collect();
            [
                Packet::tcp(v6, (SOURCE, PORT), SYN, &data),
                Packet::tcp(v6, (SOURCE, PORT), ACK, &data),
                Packet::udp(v6, (SOURCE, PORT), &data),
            ]
        })
        .collect()
}

#[test]
fn delivered_and_forwarded_whole() {
    let mut here = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    let mut there = Kernel::owning(&held(everywhere(&[At::Peer])));
    for packet in FAMILIES.into_iter().flat_map(packets) {
        let target = At::Pod(1).address(packet.source.is_ipv6());
        let out = packet.clone().between(packet.source, target.ip()).ports(SOURCE, TARGET);
        here.xdp(&packet.frame()).passed(&out.frame(), &[]);
        let out = packet.clone().ttl(240).link(HOST, PEER);
        there.xdp(&packet.frame()).transmitted(&out.frame(), &[]);
    }
}

#[test]
fn all_of_their_bytes_are_counted() {
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        let packet = Packet::udp(v6, (SOURCE, PORT), &[7; 8900]);
        kernel.run_xdp(&packet.frame());
        let bytes = packet.frame().len() as u64;
        assert_eq!(kernel.frontend(&udp(v6)).bytes, bytes);
        let sent = kernel.backend(Protocol::Udp, At::Pod(1).address(v6)).sent;
        assert_eq!(sent.bytes, bytes);
    }
}

#[test]
fn refused_in_one_small_frame() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[])));
    for packet in FAMILIES.into_iter().flat_map(packets) {
        // An answer depends on the length only where there is no number to acknowledge.
        let small = Packet { data: packet.data[..100].to_vec(), ..packet.clone() };
        let (outcome, expected) = (kernel.xdp(&packet.frame()), kernel.xdp(&small.frame()));
        assert_eq!((outcome.verdict, &outcome.counted), (Verdict::Transmit, &expected.counted));
        assert_eq!(outcome.frame.len(), expected.frame.len());
    }
}

#[test]
fn packets_shorter_than_they_say_are_not_answered() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[])));
    for v6 in FAMILIES {
        let frame = Packet::udp(v6, (SOURCE, PORT), &[7; 1000]).frame();
        kernel.xdp(&frame[..900]).dropped(&[Reason::Unanswerable]);
    }
}

#[test]
fn tags_come_off_and_on() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[At::Peer])));
    let tag = |frame: &[u8]| [&frame[..12], &[0x81, 0, 0, 9], &frame[12..]].concat();
    for v6 in FAMILIES {
        let packet = Packet::udp(v6, (SOURCE, PORT), &[7; 8900]);
        let out = packet.clone().ttl(240).link(HOST, PEER);
        kernel.xdp(&tag(&packet.frame())).transmitted(&tag(&out.frame()), &[]);
    }
}

#[test]
fn older_kernels_get_the_program_without_them() {
    let loaded = kube_vip::dataplane::Object::load_without_frags(&LIMITS, None);
    let mut loaded = loaded.expect("programs load (root needed)");
    let program = loaded.xdp().expect("program");
    let frame = Packet::udp(false, (SOURCE, PORT), b"hello").frame();
    let options = aya::programs::TestRunOptions { data_in: Some(&frame), ..Default::default() };
    let result = aya::programs::TestRun::test_run(&*program, options).expect("test run");
    assert_eq!(result.return_value, 2);
}

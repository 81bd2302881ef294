//! SYN-ACKs tell the client of no larger segments than fit into tunnels.

use kube_vip::plan::Mss;

use super::cluster::*;
use super::frames::*;
use super::kernel::*;

const FAMILIES: [bool; 2] = [false, true];
const SOURCE: u16 = 40000;
const LIMIT: Mss = Mss { v4: 1340, v6: 1300 };

fn limited() -> Kernel {
    let mut desired = held(everywhere(&[At::Pod(1)]));
    desired.mss = LIMIT;
    Kernel::owning(&desired)
}

/// A backend's segment with these options.
fn answer(v6: bool, flags: u8, options: &[u8]) -> Packet {
    let target = At::Pod(1).address(v6);
    let segment = Segment::Tcp {
        flags,
        sequence: 7,
        acknowledgement: 1,
        window: 100,
        options: options.to_vec(),
    };
    Packet::new(v6, segment, (target.port(), SOURCE), b"")
        .between(target.ip(), client(v6))
        .link(HOST, CLIENT)
}

/// What becomes of these options when they leave.
fn leaves(kernel: &mut Kernel, v6: bool, flags: u8, options: &[u8], expected: &[u8]) {
    kernel.run_xdp(&Packet::tcp(v6, (SOURCE, PORT), SYN, b"").frame());
    let sent = answer(v6, flags, options);
    let expected = answer(v6, flags, expected).between(vip(v6), client(v6)).ports(PORT, SOURCE);
    kernel.egress(&sent.frame()).passed(&expected.frame(), &[]);
}

fn mss(size: u16) -> [u8; 4] {
    let [high, low] = size.to_be_bytes();
    [2, 4, high, low]
}

fn limit(v6: bool) -> u16 {
    if v6 { LIMIT.v6 } else { LIMIT.v4 }
}

#[test]
fn a_larger_mss_is_brought_down() {
    let mut kernel = limited();
    for v6 in FAMILIES {
        for told in [1460, 1341, 8960, 65495, u16::MAX] {
            let changed = mss(limit(v6).min(told));
            leaves(&mut kernel, v6, SYN | ACK, &mss(told), &changed);
        }
    }
}

#[test]
fn wherever_it_stands_among_the_options() {
    let mut kernel = limited();
    for v6 in FAMILIES {
        let rest = [1, 3, 3, 7, 4, 2, 1, 1];
        let timestamps = [8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];
        // Behind one option without content it begins at an odd byte.
        for before in [&[][..], &[1], &[1, 1], &[1, 1, 1], &[4, 2], &[3, 3, 9], &timestamps] {
            let with = |size| {
                let mut options = [before, &mss(size), &rest].concat();
                options.resize(options.len().next_multiple_of(4), 0);
                options
            };
            leaves(&mut kernel, v6, SYN | ACK, &with(1460), &with(limit(v6)));
        }
    }
}

#[test]
fn what_is_small_enough_or_says_nothing_stays() {
    let mut kernel = limited();
    for v6 in FAMILIES {
        for options in [&mss(limit(v6))[..], &mss(536), &mss(0), &[], &[4, 2, 1, 1]] {
            leaves(&mut kernel, v6, SYN | ACK, options, options);
        }
        // Behind the end of the options, in an option that lies about its length, in a plain ACK.
        let ended = [&[0, 0, 0, 0][..], &mss(1460)].concat();
        leaves(&mut kernel, v6, SYN | ACK, &ended, &ended);
        leaves(&mut kernel, v6, SYN | ACK, &[3, 0, 2, 4], &[3, 0, 2, 4]);
        leaves(&mut kernel, v6, ACK, &mss(1460), &mss(1460));
    }
}

#[test]
fn without_a_limit_nothing_changes() {
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        leaves(&mut kernel, v6, SYN | ACK, &mss(8960), &mss(8960));
    }
}

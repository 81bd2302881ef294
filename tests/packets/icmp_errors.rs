//! ICMP errors about what backends send reach them, and those about what was delivered to them reach
//! the client; each sees the packet as it sent it.

use kube_vip_common::frontend::Protocol;
use kube_vip_common::stats::Reason;

use super::cluster::*;
use super::frames::*;
use super::kernel::*;

const FAMILIES: [bool; 2] = [false, true];
const SOURCE: u16 = 40000;

/// A router on the way to the client.
fn router(v6: bool) -> std::net::IpAddr {
    if v6 { "fd00::254".parse().expect("v6") } else { "10.0.0.254".parse().expect("v4") }
}

/// Types of errors, with what they have in the second word.
fn kinds(v6: bool) -> Vec<(u8, u8, [u8; 4])> {
    if v6 {
        vec![(2, 0, [0, 0, 5, 0]), (1, 4, [0; 4]), (3, 0, [0; 4]), (4, 1, [0, 0, 0, 40])]
    } else {
        vec![(3, 4, [0, 0, 5, 0]), (3, 3, [0; 4]), (11, 0, [0; 4]), (12, 0, [9, 0, 0, 0])]
    }
}

/// An error of that kind about a packet, quoting so much of it.
fn error(
    about: &Packet,
    (kind, code, word): (u8, u8, [u8; 4]),
    quoted: usize,
    ends: (std::net::IpAddr, std::net::IpAddr),
) -> Packet {
    let mut packet = about.network();
    packet.truncate(quoted);
    let v6 = about.source.is_ipv6();
    Packet::icmp(v6, kind, code, &[&word[..], &packet].concat()).between(ends.0, ends.1)
}

/// What a backend sends, and the same as it is on its way from the VIP.
fn replies(v6: bool, at: At) -> Vec<(Packet, Packet)> {
    let target = at.address(v6);
    [
        Packet::udp(v6, (TARGET, SOURCE), &[0x33; 1200]),
        Packet::new(v6, Segment::Udp { checked: v6 }, (TARGET, SOURCE), b"short"),
        Packet::tcp(v6, (TARGET, SOURCE), ACK, &[0x44; 1400]),
    ]
    .into_iter()
    .map(|sent| {
        let sent = sent.between(target.ip(), client(v6)).link(HOST, CLIENT);
        let seen = sent.clone().between(vip(v6), client(v6)).ports(PORT, SOURCE);
        (sent, seen)
    })
    .collect()
}

fn open(kernel: &mut Kernel, v6: bool) {
    kernel.run_xdp(&Packet::tcp(v6, (SOURCE, PORT), SYN, b"").frame());
    kernel.run_xdp(&Packet::udp(v6, (SOURCE, PORT), b"").frame());
}

/// Bytes of header and the eight behind it: what every error quotes.
fn least(v6: bool) -> usize {
    if v6 { 48 } else { 28 }
}

/// The quoted checksum of TCP is beyond what must be quoted, and stays as it was sent.
fn with_tcp_check_of(mut error: Vec<u8>, seen: &Packet, v6: bool) -> Vec<u8> {
    let at = if v6 { 54 + 8 + 40 + 16 } else { 34 + 8 + 20 + 16 };
    if seen.protocol() == TCP && error.len() >= at + 2 {
        let transport = seen.transport();
        let (old, new) = ([error[at], error[at + 1]], [transport[16], transport[17]]);
        error[at..at + 2].copy_from_slice(&new);
        // The message's own checksum covers it.
        let check = if v6 { 54 + 2 } else { 34 + 2 };
        let word = |bytes: [u8; 2]| u32::from(u16::from_be_bytes(bytes));
        let mut sum = word([!error[check], !error[check + 1]]) + word(new) + (0xffff - word(old));
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        error[check..check + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
    error
}

#[test]
fn errors_from_the_way_reach_the_backend() {
    for at in [At::Host, At::Pod(1)] {
        let mut kernel = Kernel::owning(&held(everywhere(&[at])));
        for v6 in FAMILIES {
            open(&mut kernel, v6);
            for ((sent, seen), kind) in replies(v6, at)
                .into_iter()
                .flat_map(|r| kinds(v6).into_iter().map(move |k| (r.clone(), k)))
            {
                for quoted in [least(v6), 200, 500] {
                    let arrives = error(&seen, kind, quoted, (router(v6), vip(v6)));
                    let expected = error(&sent, kind, quoted, (router(v6), sent.source));
                    let expected = with_tcp_check_of(expected.frame(), &seen, v6);
                    kernel.xdp(&arrives.frame()).passed(&expected, &[]);
                }
            }
        }
    }
}

#[test]
fn errors_are_forwarded_like_the_flow() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[At::Peer])));
    for v6 in FAMILIES {
        for (_, seen) in replies(v6, At::Peer) {
            let arrives = error(&seen, kinds(v6)[0], 200, (router(v6), vip(v6)));
            let expected = arrives.clone().ttl(240).link(HOST, PEER);
            kernel.xdp(&arrives.frame()).transmitted(&expected.frame(), &[]);
        }
    }
    // Over several hosts to the one that the client's packets go to.
    let third = node(false, STRANGER, [HOST4.into(), HOST6.into()]);
    let mut desired = elsewhere(everywhere(&[At::Peer, At::On("third", 9), At::Pod(1)]));
    desired.nodes.insert("third".to_owned(), third);
    let mut kernel = Kernel::new(&desired);
    for v6 in FAMILIES {
        for source in 1..200 {
            let request = Packet::udp(v6, (source, PORT), b"");
            let (verdict, out) = kernel.run_xdp(&request.frame());
            let reply = Packet::udp(v6, (PORT, source), b"").between(vip(v6), client(v6));
            let arrives = error(&reply, kinds(v6)[1], 200, (router(v6), vip(v6)));
            let (other_verdict, other) = kernel.run_xdp(&arrives.frame());
            assert_eq!((verdict, &out[..12]), (other_verdict, &other[..12]));
        }
    }
}

#[test]
fn an_agents_errors_are_delivered_with_an_ordinary_ttl() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        open(&mut kernel, v6);
        let (sent, seen) = replies(v6, At::Pod(1)).remove(0);
        let arrives =
            error(&seen, kinds(v6)[0], 200, (router(v6), vip(v6))).link(PEER, HOST).ttl(240);
        let expected = error(&sent, kinds(v6)[0], 200, (router(v6), sent.source)).link(PEER, HOST);
        kernel.xdp(&arrives.frame()).passed(&expected.frame(), &[Reason::DeliveredForPeer]);
    }
}

#[test]
fn errors_about_unknown_flows_are_dropped() {
    for desired in [held, elsewhere] {
        let mut kernel = Kernel::owning(&desired(everywhere(&[At::Pod(1)])));
        for v6 in FAMILIES {
            for (_, seen) in replies(v6, At::Pod(1)) {
                let frame = error(&seen, kinds(v6)[0], 200, (router(v6), vip(v6))).frame();
                kernel.xdp(&frame).dropped(&[Reason::ErrorUnmatched]);
            }
        }
    }
    // On a host's own address the kernel may have sent it.
    let mut frontends = everywhere(&[At::Pod(1)]);
    frontends.values_mut().for_each(|frontend| frontend.host_address = true);
    let mut kernel = Kernel::new(&own_addresses(frontends));
    for v6 in FAMILIES {
        let (_, seen) = replies(v6, At::Pod(1)).remove(2);
        let frame = error(&seen, kinds(v6)[0], 200, (router(v6), vip(v6))).frame();
        kernel.xdp(&frame).untouched(&frame);
    }
}

#[test]
fn errors_about_other_things_are_the_kernels() {
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        open(&mut kernel, v6);
        let (_, seen) = replies(v6, At::Pod(1)).remove(0);
        let to_vip = (router(v6), vip(v6));
        let others = [
            // About another port, another source, another protocol, not enough of it.
            error(&seen.clone().ports(SSH, SOURCE), kinds(v6)[0], 200, to_vip),
            error(&seen.clone().between(host(v6), client(v6)), kinds(v6)[0], 200, to_vip),
            error(
                &Packet::other(v6, GRE, &[0; 20]).between(vip(v6), client(v6)),
                kinds(v6)[0],
                200,
                to_vip,
            ),
            error(&seen, kinds(v6)[0], least(v6) - 1, to_vip),
            // Nothing that quotes.
            Packet::icmp(v6, if v6 { 129 } else { 0 }, 0, &seen.network()),
        ];
        for packet in others {
            kernel.xdp(&packet.frame()).passed(&packet.frame(), &[Reason::PassedUp]);
        }
    }
}

#[test]
fn errors_about_delivered_packets_come_from_the_vip() {
    for at in [At::Host, At::Pod(1)] {
        let mut kernel = Kernel::owning(&held(everywhere(&[at])));
        for v6 in FAMILIES {
            open(&mut kernel, v6);
            let target = at.address(v6);
            for request in [
                Packet::udp(v6, (SOURCE, PORT), &[0x33; 1200]),
                Packet::new(v6, Segment::Udp { checked: v6 }, (SOURCE, PORT), b"short"),
                Packet::tcp(v6, (SOURCE, PORT), ACK, &[0x44; 1400]),
            ] {
                let delivered =
                    request.clone().between(client(v6), target.ip()).ports(SOURCE, target.port());
                // The backend's host says it in its own name or in the backend's.
                for (kind, from) in kinds(v6)
                    .into_iter()
                    .flat_map(|kind| [host(v6), target.ip()].map(|ip| (kind, ip)))
                {
                    for quoted in [least(v6), 548] {
                        let leaves = error(&delivered, kind, quoted, (from, client(v6)));
                        let expected = error(&request, kind, quoted, (vip(v6), client(v6)));
                        let expected = with_tcp_check_of(expected.frame(), &delivered, v6);
                        kernel.egress(&leaves.frame()).passed(&expected, &[]);
                    }
                }
            }
        }
    }
}

#[test]
fn other_errors_leave_as_they_are() {
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        open(&mut kernel, v6);
        let target = At::Pod(1).address(v6);
        let direct =
            Packet::udp(v6, (SOURCE + 1, TARGET), b"direct").between(client(v6), target.ip());
        let ends = (target.ip(), client(v6));
        let known = direct.clone().ports(SOURCE, TARGET);
        for packet in [
            error(&direct, kinds(v6)[0], 200, ends),
            error(&known, kinds(v6)[0], least(v6) - 1, ends),
            error(&known.clone().ports(SOURCE, TARGET + 1), kinds(v6)[0], 200, ends),
            Packet::icmp(v6, if v6 { 129 } else { 0 }, 0, &known.network()).between(ends.0, ends.1),
        ] {
            kernel.egress(&packet.frame()).untouched(&packet.frame());
        }
    }
    assert_eq!(kernel.backend(Protocol::Udp, At::Pod(1).address(false)).replies.packets, 0);
}

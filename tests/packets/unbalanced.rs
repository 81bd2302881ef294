//! To a VIP, but no frontend's: up where it is held, refused everywhere else.

use kube_vip_common::stats::Reason;

use super::cluster::*;
use super::frames::*;
use super::kernel::*;

const FAMILIES: [bool; 2] = [false, true];

/// Packets as they come for other ports and protocols of a host.
fn others(v6: bool) -> Vec<Vec<u8>> {
    let unreachable = if v6 { (1, 4) } else { (3, 3) };
    let ssh = |flags, data: &[u8]| Packet::tcp(v6, (40000, SSH), flags, data).frame();
    let mut frames = vec![
        ssh(SYN, b""),
        ssh(ACK, b"hello"),
        ssh(FIN | ACK, b""),
        ssh(RST, b""),
        Packet::udp(v6, (40000, SSH), b"hello").frame(),
        Packet::icmp(v6, unreachable.0, unreachable.1, &[0; 40]).frame(),
        Packet::other(v6, GRE, &[0; 20]).frame(),
        // Headers cut short.
        ssh(SYN, b"")[..if v6 { 60 } else { 40 }].to_vec(),
    ];
    frames.extend(fragments(v6, SSH));
    frames
}

/// First and later fragments of TCP and UDP to that port.
fn fragments(v6: bool, port: u16) -> Vec<Vec<u8>> {
    let tcp = Packet::tcp(v6, (40000, port), ACK, &[1; 64]);
    let udp = Packet::udp(v6, (40000, port), &[1; 64]);
    let cut = |packet: Packet| match v6 {
        false => [MF, MF | 8, 8].map(|place| packet.clone().fragment(place).frame()),
        // The offset is in the upper 13 bits (RFC 8200 §4.5).
        true => [1, 64 | 1, 64].map(|place| packet.fragment6(place)),
    };
    [cut(tcp), cut(udp)].into_iter().flatten().collect()
}

#[test]
fn owner_passes_up_what_has_no_frontend() {
    for owned in [true, false] {
        let desired = held(everywhere(&[At::Pod(1)]));
        let mut kernel = if owned { Kernel::owning(&desired) } else { Kernel::new(&desired) };
        for frame in FAMILIES.into_iter().flat_map(others) {
            let outcome = kernel.xdp(&frame);
            let followed = outcome.counted.contains_key(&Reason::FragmentFollowed);
            let reason = if followed { Reason::FragmentFollowed } else { Reason::PassedUp };
            outcome.passed(&frame, &[reason]);
        }
        // The frontend is TCP's and UDP's; its port means nothing to others.
        let other = Packet::other(false, 132, &[0x9c, 0x40, 0, 80, 0, 0, 0, 0]).frame();
        kernel.xdp(&other).passed(&other, &[Reason::PassedUp]);
    }
}

#[test]
fn fragments_end_where_the_vip_is_not_held() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        for (n, frame) in fragments(v6, SSH).iter().enumerate() {
            let outcome = kernel.xdp(frame);
            match n {
                // A segment whose end is elsewhere is not answered; a datagram is.
                0 => outcome.dropped(&[Reason::Unanswerable]),
                3 => assert_eq!(outcome.verdict, Verdict::Transmit),
                _ => outcome.dropped(&[Reason::Fragment]),
            }
        }
    }
}

#[test]
fn flooded_frames_are_for_their_receiver_to_answer() {
    // Else a bystander would reset a connection between others.
    for desired in [held, elsewhere, nowhere, own_addresses] {
        for backends in [vec![], vec![At::Pod(1)]] {
            let mut kernel = Kernel::owning(&desired(everywhere(&backends)));
            for v6 in FAMILIES {
                let mut packets = vec![
                    Packet::tcp(v6, (40000, SSH), SYN, b""),
                    Packet::tcp(v6, (40000, SSH), ACK, b""),
                    Packet::tcp(v6, (40000, PORT), ACK, b""),
                    Packet::udp(v6, (40000, SSH), b"hello"),
                    Packet::echo(v6, b"hello"),
                    Packet::other(v6, GRE, &[0; 20]),
                ];
                if backends.is_empty() {
                    packets.push(Packet::udp(v6, (40000, PORT), b"hello"));
                }
                for packet in packets {
                    for from in [CLIENT, PEER] {
                        let frame = packet.clone().link(from, STRANGER).ttl(240).frame();
                        kernel.xdp(&frame).untouched(&frame);
                    }
                }
            }
        }
    }
}

#[test]
fn malformed_ends_where_the_vip_is_not_held() {
    let mut kernel = Kernel::new(&elsewhere(Frontends::new()));
    let mut header_of_four_words = Packet::tcp(false, (40000, SSH), SYN, b"").frame();
    header_of_four_words[14] = 0x44;
    let fragment_header_cut_short = &Packet::tcp(true, (40000, SSH), SYN, b"").fragment6(1)[..60];
    for frame in [&header_of_four_words, fragment_header_cut_short] {
        kernel.xdp(frame).dropped(&[Reason::Malformed]);
    }
}

#[test]
fn control_messages_end_where_the_vip_is_not_held() {
    // RFC 1122 §3.2.2, RFC 4443 §2.4(e): no error answers an error, nor what might be one.
    let mut kernel = Kernel::new(&elsewhere(Frontends::new()));
    for v6 in FAMILIES {
        for kind in [1, 3, 11, 12, 129] {
            let frame = Packet::icmp(v6, kind, 0, &[0; 40]).frame();
            kernel.xdp(&frame).dropped(&[Reason::Unanswerable]);
        }
    }
}

#[test]
fn own_addresses_pass_what_has_no_frontend() {
    let mut kernel = Kernel::new(&own_addresses(everywhere(&[At::Pod(1)])));
    for frame in FAMILIES.into_iter().flat_map(others) {
        kernel.xdp(&frame).untouched(&frame);
    }
}

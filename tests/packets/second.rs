//! Second chance: a connection that is not known here is looked for where its slot led before.

use kube_vip::plan::DataPlane;
use kube_vip::view::Mac;
use kube_vip_common::stats::Reason;

use super::cluster::*;
use super::frames::*;
use super::halfopen::establish;
use super::kernel::*;

const FAMILIES: [bool; 2] = [false, true];
const SOURCE: u16 = 40000;
const THIRD: Mac = Mac([2, 0, 0, 0, 0, 3]);
const FIRST: u8 = 240;
/// After which nobody follows.
const LAST: u8 = 4;

/// All slots lead there; the host, the peer and a third host take part.
fn all_at(at: At) -> DataPlane {
    let mut desired = elsewhere(everywhere(&[at]));
    let addresses = [[10, 0, 0, 33].into(), std::net::Ipv6Addr::from(0xfd_u128 << 120 | 33).into()];
    desired.nodes.insert("third".to_owned(), node(false, THIRD, addresses));
    desired
}

const HERE: At = At::Pod(1);
const THERE: At = At::On("third", 9);

fn segment(v6: bool) -> Packet {
    Packet::tcp(v6, (SOURCE, PORT), ACK, b"hello")
}

fn from(packet: Packet, mac: Mac, position: u8) -> Packet {
    packet.link(mac, HOST).ttl(FIRST + position)
}

fn sent(packet: Packet, to: Mac, position: u8) -> Vec<u8> {
    packet.link(HOST, to).ttl(FIRST + position).frame()
}

const CHANCE: &[Reason] = &[Reason::SecondChance];

#[test]
fn hosts_before_are_tried_in_turn_and_then_it_is_refused() {
    let mut kernel = Kernel::new(&all_at(At::Peer));
    kernel.apply(&all_at(THERE));
    kernel.apply(&all_at(HERE));
    for v6 in FAMILIES {
        let packet = segment(v6);
        // The next in the order of names; a client's packet begins where a forwarded one does.
        kernel.xdp(&packet.frame()).transmitted(&sent(packet.clone(), PEER, 1), CHANCE);
        // Not back to where it comes from.
        for position in 0..LAST {
            for (from_whom, to) in [(PEER, THIRD), (THIRD, PEER)] {
                let forwarded = from(packet.clone(), from_whom, position);
                let expected = sent(packet.clone(), to, position + 1);
                kernel.xdp(&forwarded.frame()).transmitted(&expected, CHANCE);
            }
        }
        for position in LAST..8 {
            let outcome = kernel.xdp(&from(packet.clone(), PEER, position).frame());
            assert_eq!(outcome.verdict, Verdict::Pass, "to the port that refuses");
            assert_eq!(outcome.counted, [(Reason::NoFlowReset, 1)].into());
        }
    }
}

#[test]
fn what_is_known_stays() {
    let mut kernel = Kernel::new(&all_at(At::Peer));
    kernel.apply(&all_at(HERE));
    for v6 in FAMILIES {
        establish(&mut kernel, v6, HERE);
        let packet = segment(v6);
        let target = HERE.address(v6);
        let got = packet.clone().between(client(v6), target.ip()).ports(SOURCE, TARGET);
        kernel.xdp(&packet.frame()).passed(&got.frame(), &[]);
    }
}

#[test]
fn a_host_that_has_lost_the_slot_keeps_its_flows_and_sends_strangers_on() {
    let mut kernel = Kernel::new(&all_at(HERE));
    for v6 in FAMILIES {
        establish(&mut kernel, v6, HERE);
    }
    kernel.apply(&all_at(THERE));
    for v6 in FAMILIES {
        let (known, packet) = (segment(v6), segment(v6).ports(SOURCE + 1, PORT));
        let target = HERE.address(v6);
        let got = known.clone().between(client(v6), target.ip()).ports(SOURCE, TARGET);
        // Straight from the client, and from a host that has an older table.
        kernel.xdp(&known.frame()).passed(&got.frame(), &[]);
        let forwarded = from(known, PEER, 0);
        let ordinary = got.link(PEER, HOST).ttl(64).frame();
        kernel.xdp(&forwarded.frame()).passed(&ordinary, &[Reason::DeliveredForPeer]);
        // Others go to the table's host: plainly, or on a detour.
        kernel.xdp(&packet.frame()).transmitted(&sent(packet.clone(), THIRD, 0), &[]);
        let forwarded = from(packet.clone(), PEER, 0);
        kernel.xdp(&forwarded.frame()).transmitted(&sent(packet, THIRD, 1), CHANCE);
    }
}

#[test]
fn while_tables_settle_nobody_is_reset() {
    let mut kernel = Kernel::new(&all_at(At::Peer));
    kernel.apply(&all_at(HERE));
    for v6 in FAMILIES {
        let packet = from(segment(v6), PEER, LAST).frame();
        let outcome = kernel.xdp(&packet);
        assert_eq!(outcome.counted, [(Reason::NoFlowReset, 1)].into(), "by a clock that is slow");
    }
    kernel.wind_clock();
    for v6 in FAMILIES {
        for packet in [from(segment(v6), PEER, LAST), from(segment(v6), PEER, 0)] {
            kernel.xdp(&packet.frame()).dropped(&[Reason::Unsettled]);
        }
        // What begins is none of that.
        let syn = Packet::tcp(v6, (SOURCE, PORT), SYN, b"");
        assert_eq!(kernel.run_xdp(&syn.frame()).0, Verdict::Pass);
    }
}

#[test]
fn hosts_that_are_gone_are_forgotten() {
    let mut kernel = Kernel::new(&all_at(THERE));
    kernel.apply(&all_at(At::Peer));
    kernel.apply(&all_at(HERE));
    let mut without = all_at(HERE);
    without.nodes.remove("third");
    kernel.apply(&without);
    for v6 in FAMILIES {
        let packet = segment(v6);
        kernel.xdp(&packet.frame()).transmitted(&sent(packet.clone(), PEER, 1), CHANCE);
        let outcome = kernel.xdp(&from(packet, PEER, 2).frame());
        assert_eq!(outcome.counted, [(Reason::NoFlowReset, 1)].into());
    }
}

#[test]
fn without_history_the_table_of_the_others_is_what_was_before() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[At::Peer, HERE])));
    for v6 in FAMILIES {
        let mut counts = [0; 2];
        for source in 1..=200 {
            let packet = segment(v6).ports(source, PORT);
            let outcome = kernel.xdp(&packet.frame());
            assert_eq!(outcome.verdict, Verdict::Transmit);
            // The peer's slots always were the peer's.
            let ours = outcome.counted == [(Reason::SecondChance, 1)].into();
            let position = if ours { 1 } else { 0 };
            assert_eq!(outcome.frame, sent(packet, PEER, position));
            counts[usize::from(ours)] += 1;
        }
        assert!(counts.iter().all(|count| *count > 50), "{counts:?}");
    }
}

#[test]
fn frames_flooded_by_a_switch_are_left_to_their_receiver() {
    let mut kernel = Kernel::new(&all_at(THERE));
    kernel.apply(&all_at(HERE));
    for v6 in FAMILIES {
        let flooded = segment(v6).link(CLIENT, PEER).frame();
        kernel.xdp(&flooded).untouched(&flooded);
    }
}

#[test]
fn a_new_flow_goes_on_to_where_a_backend_is() {
    let mut kernel = Kernel::new(&all_at(THERE));
    for v6 in FAMILIES {
        let first = [Packet::tcp(v6, (SOURCE, PORT), SYN, b""), Packet::udp(v6, (SOURCE, PORT), b"")];
        for packet in first {
            // The peer's table has a backend here, this host's has not.
            let forwarded = from(packet.clone(), PEER, 0);
            kernel.xdp(&forwarded.frame()).transmitted(&sent(packet.clone(), THIRD, 1), CHANCE);
            // Not round and round.
            for (mac, position) in [(THIRD, 0), (PEER, LAST)] {
                let outcome = kernel.xdp(&from(packet.clone(), mac, position).frame());
                assert_ne!(outcome.verdict, Verdict::Transmit, "{:?}", outcome.counted);
            }
        }
    }
}

#[test]
fn the_record_of_what_has_ended_is_no_other_connections() {
    let mut kernel = Kernel::new(&all_at(HERE));
    for v6 in FAMILIES {
        let tcp = |flags| Packet::tcp(v6, (SOURCE, PORT), flags, b"");
        let target = HERE.address(v6);
        let got = |packet: &Packet| {
            let packet = packet.clone().between(client(v6), target.ip());
            packet.ports(SOURCE, TARGET).frame()
        };
        kernel.clock(1000);
        establish(&mut kernel, v6, HERE);
        kernel.apply(&all_at(THERE));
        kernel.xdp(&tcp(RST).frame()).passed(&got(&tcp(RST)), &[]);
        // A reset may be forged: the client goes on.
        kernel.clock(1002);
        kernel.xdp(&tcp(ACK).frame()).passed(&got(&tcp(ACK)), &[]);
        kernel.clock(1009);
        kernel.xdp(&tcp(ACK).frame()).passed(&got(&tcp(ACK)), &[]);
        kernel.xdp(&tcp(RST).frame()).passed(&got(&tcp(RST)), &[]);
        kernel.clock(1012);
        kernel.xdp(&tcp(ACK).frame()).transmitted(&sent(tcp(ACK), THIRD, 0), &[]);
        // Another one begins elsewhere.
        kernel.xdp(&tcp(SYN).frame()).transmitted(&sent(tcp(SYN), THIRD, 0), &[]);
        assert_eq!(kernel.flows(v6), (0, 0));
        kernel.apply(&all_at(HERE));
    }
}

//! What other hosts tell: connections that are elsewhere though their slot leads here, and what they
//! translated while they owned the VIP.

use std::net::SocketAddr;

use kube_vip::dataplane::{Flow, Key, Link, Put, Translation};
use kube_vip::plan::DataPlane;
use kube_vip::view::Mac;
use kube_vip_common::nat::{ESTABLISHED, REPLIED};
use kube_vip_common::stats::Reason;

use super::cluster::*;
use super::frames::*;
use super::kernel::*;
use super::nat::{FAMILIES, MARK, SERVER, SOURCE, answer, back, open, owner, tcp_from, there};

const THIRD: Mac = Mac([2, 0, 0, 0, 0, 3]);
/// After which nobody follows.
const LAST: u8 = 4;
const LED: &[Reason] = &[Reason::StrayLed];

/// All slots lead here, and always did; a third host takes part.
fn here() -> DataPlane {
    let mut desired = elsewhere(everywhere(&[At::Pod(1)]));
    let addresses = [[10, 0, 0, 33].into(), std::net::Ipv6Addr::from(0xfd_u128 << 120 | 33).into()];
    desired.nodes.insert("third".to_owned(), node(false, THIRD, addresses));
    desired
}

fn flow(v6: bool, source: u16) -> Flow {
    let client = SocketAddr::new(client(v6), source);
    Flow { client, vip: SocketAddr::new(vip(v6), PORT), protocol: TCP }
}

fn from(packet: &Packet, mac: Mac, position: u8) -> Vec<u8> {
    packet.clone().link(mac, HOST).ttl(MARK + position).frame()
}

fn sent(packet: &Packet, to: Mac, position: u8) -> Vec<u8> {
    packet.clone().link(HOST, to).ttl(MARK + position).frame()
}

fn refused(kernel: &mut Kernel, frame: &[u8]) {
    let outcome = kernel.xdp(frame);
    assert_eq!(outcome.counted, [(Reason::NoFlowReset, 1)].into());
}

#[test]
fn a_stray_goes_to_the_host_that_has_it() {
    let desired = here();
    let mut kernel = Kernel::new(&desired);
    let (records, third) = (kernel.records(), kernel.node(&desired, "third"));
    for v6 in FAMILIES {
        let packet = tcp_from(v6, SOURCE, ACK, b"hello");
        refused(&mut kernel, &packet.frame());
        records.put_strays(&[flow(v6, SOURCE)], third).unwrap();
        kernel.xdp(&packet.frame()).transmitted(&sent(&packet, THIRD, 1), LED);
        for position in 0..LAST {
            let expected = sent(&packet, THIRD, position + 1);
            kernel.xdp(&from(&packet, PEER, position)).transmitted(&expected, LED);
        }
        // Not once more, and not back to where it comes from.
        refused(&mut kernel, &from(&packet, PEER, LAST));
        refused(&mut kernel, &from(&packet, THIRD, 0));
        // It is that connection and no other.
        refused(&mut kernel, &tcp_from(v6, SOURCE + 1, ACK, b"hello").frame());
        // Who begins anew is not held to what was.
        let syn = tcp_from(v6, SOURCE, SYN, b"");
        assert_eq!(kernel.xdp(&syn.frame()).verdict, Verdict::Pass);
    }
}

#[test]
fn a_stray_of_a_host_that_is_gone_is_none() {
    let mut kernel = Kernel::new(&here());
    let records = kernel.records();
    for v6 in FAMILIES {
        let packet = tcp_from(v6, SOURCE, ACK, b"hello").frame();
        // No such host, nobody, this host, and numbers that are none.
        for node in [200, 0, 1, 256, u32::MAX] {
            records.put_strays(&[flow(v6, SOURCE)], node).unwrap();
            refused(&mut kernel, &packet);
        }
    }
}

#[test]
fn what_a_host_was_told_goes_before_what_it_remembers() {
    let before = elsewhere(everywhere(&[At::Peer]));
    let desired = here();
    let mut kernel = Kernel::new(&before);
    kernel.apply(&desired);
    let (records, third) = (kernel.records(), kernel.node(&desired, "third"));
    for v6 in FAMILIES {
        let packet = tcp_from(v6, SOURCE, ACK, b"hello");
        let by_memory = sent(&packet, PEER, 1);
        kernel.xdp(&packet.frame()).transmitted(&by_memory, &[Reason::SecondChance]);
        records.put_strays(&[flow(v6, SOURCE)], third).unwrap();
        kernel.xdp(&packet.frame()).transmitted(&sent(&packet, THIRD, 1), LED);
        // That one does not have it any more.
        let back = from(&packet, THIRD, 1);
        let on = sent(&packet, PEER, 2);
        kernel.xdp(&back).transmitted(&on, &[Reason::SecondChance]);
    }
}

/// A connection that the last owner translated.
fn translation(v6: bool, source: u16, port: u16) -> Translation {
    let link = |there| Some(Link { interface: IFINDEX, there, own: HOST });
    Translation {
        flow: flow(v6, source),
        port,
        server: SERVER.address(v6),
        backend: 1,
        state: REPLIED | ESTABLISHED,
        seen: 900,
        to_client: link(CLIENT),
        to_server: link(PLAIN),
    }
}

fn owning(desired: &DataPlane) -> Kernel {
    let mut kernel = Kernel::owning(desired);
    kernel.set_clock(1000);
    kernel
}

#[test]
fn what_another_host_translated_goes_on_here() {
    for first_is_reply in [false, true] {
        let mut kernel = owning(&owner(&[SERVER]));
        let records = kernel.records();
        for v6 in FAMILIES {
            let port = 50000;
            let told = translation(v6, SOURCE, port);
            assert_eq!(records.put_translation(&told, true).unwrap(), Put::Written);
            let data = tcp_from(v6, SOURCE, ACK, b"more");
            let reply = answer(tcp_from(v6, SOURCE, ACK, b"and more"), port);
            let ways = [
                (data.frame(), there(&data, port).frame()),
                (reply.frame(), back(&reply, SOURCE).frame()),
            ];
            let order = if first_is_reply { [1, 0, 1] } else { [0, 1, 0] };
            for way in order {
                kernel.xdp(&ways[way].0).transmitted(&ways[way].1, &[]);
            }
            let key = key_of(v6, SOURCE);
            let known = records.translation(&key).unwrap().expect("both directions");
            assert_eq!((known.seen, known.state), (1000, told.state));
        }
    }
}

#[test]
fn a_client_that_only_listens_is_found_again_when_it_speaks() {
    let mut kernel = owning(&owner(&[SERVER]));
    let records = kernel.records();
    for v6 in FAMILIES {
        let unknown = Translation { to_client: None, ..translation(v6, SOURCE, 50000) };
        records.put_translation(&unknown, true).unwrap();
        let reply = answer(tcp_from(v6, SOURCE, ACK, b"and more"), 50000);
        kernel.xdp(&reply.frame()).dropped(&[Reason::NatClientUnknown]);
        let data = tcp_from(v6, SOURCE, ACK, b"");
        kernel.xdp(&data.frame()).transmitted(&there(&data, 50000).frame(), &[]);
        kernel.xdp(&reply.frame()).transmitted(&back(&reply, SOURCE).frame(), &[]);
    }
}

#[test]
fn a_port_that_another_hosts_connection_has_is_taken() {
    let mut kernel = owning(&owner(&[SERVER]));
    let records = kernel.records();
    for v6 in FAMILIES {
        records.put_translation(&translation(v6, SOURCE, SOURCE + 1), true).unwrap();
        assert_ne!(open(&mut kernel, v6, SOURCE + 1), SOURCE + 1, "it would have been the first");
        let data = tcp_from(v6, SOURCE, ACK, b"more");
        kernel.xdp(&data.frame()).transmitted(&there(&data, SOURCE + 1).frame(), &[]);
    }
}

#[test]
fn an_owners_own_connections_are_not_written_over() {
    let mut kernel = owning(&owner(&[SERVER]));
    let records = kernel.records();
    for v6 in FAMILIES {
        let port = open(&mut kernel, v6, SOURCE);
        let own = records.translation(&key_of(v6, SOURCE)).unwrap();
        // Its port, told of somebody else; and itself, with another port.
        for other in [translation(v6, SOURCE + 7, port), translation(v6, SOURCE, port + 1)] {
            assert_eq!(records.put_translation(&other, true).unwrap(), Put::Kept);
        }
        assert_eq!(records.translation(&key_of(v6, SOURCE)).unwrap(), own);
        assert_eq!(records.translation(&key_of(v6, SOURCE + 7)).unwrap(), None);
        // The same connection may have come further there, but not less far.
        for (told, expected) in [(REPLIED | ESTABLISHED, Put::Written), (REPLIED, Put::Kept)] {
            let further = Translation { state: told, ..translation(v6, SOURCE, port) };
            assert_eq!(records.put_translation(&further, true).unwrap(), expected);
        }
        let known = records.translation(&key_of(v6, SOURCE)).unwrap().expect("still there");
        let own = own.expect("a connection");
        assert_eq!(known, Translation { state: REPLIED | ESTABLISHED, ..own });
        // The port that was not used after all is free again.
        assert_eq!(open(&mut kernel, v6, port + 1), port + 1);
        // Who does not own it takes the owner's word.
        let other = translation(v6, SOURCE + 7, port);
        assert_eq!(records.put_translation(&other, false).unwrap(), Put::Written);
        assert_eq!(records.translation(&key_of(v6, SOURCE + 7)).unwrap(), Some(other));
    }
}

fn key_of(v6: bool, source: u16) -> Key {
    let (client, vip) = (SocketAddr::new(client(v6), source), SocketAddr::new(vip(v6), PORT));
    Key::of(client, vip, TCP)
}

#[test]
fn steps_of_a_translated_connection_are_told() {
    let mut desired = owner(&[SERVER]);
    let mut silent = owning(&desired);
    desired.replicates = true;
    let mut kernel = owning(&desired);
    let records = kernel.records();
    for v6 in FAMILIES {
        let port = open(&mut silent, v6, SOURCE);
        assert_eq!(silent.changes(), [], "there is nobody to tell");
        assert_eq!(open(&mut kernel, v6, SOURCE), port);
        let begun = kernel.changes();
        assert_eq!(begun, [key_of(v6, SOURCE)]);
        let known = records.translation(&begun[0]).unwrap().expect("a connection");
        assert_eq!((known.flow, known.port, known.state), (flow(v6, SOURCE), port, 0));
        let reply = |flags| answer(tcp_from(v6, SOURCE, flags, b""), port);
        kernel.run_xdp(&reply(SYN | ACK).frame());
        kernel.run_xdp(&tcp_from(v6, SOURCE, ACK, b"").frame());
        let steps = kernel.changes();
        assert_eq!(steps.len(), 2, "either direction tells");
        for key in &steps {
            let known = records.translation(key).unwrap().expect("the same, by either direction");
            assert_eq!((known.flow, known.state), (flow(v6, SOURCE), REPLIED | ESTABLISHED));
            let link = |there| Some(Link { interface: IFINDEX, there, own: HOST });
            assert_eq!((known.to_client, known.to_server), (link(CLIENT), link(PLAIN)));
        }
        // Data is nothing to tell of.
        kernel.set_clock(1001);
        kernel.run_xdp(&tcp_from(v6, SOURCE, ACK, b"data").frame());
        kernel.run_xdp(&reply(ACK).frame());
        assert_eq!(kernel.changes(), []);
        kernel.run_xdp(&tcp_from(v6, SOURCE, FIN | ACK, b"").frame());
        assert_eq!(kernel.changes(), [key_of(v6, SOURCE)]);
        kernel.set_clock(1000);
    }
}

#[test]
fn what_there_is_no_room_to_tell_is_counted_and_goes_all_the_same() {
    let mut desired = owner(&[SERVER]);
    desired.replicates = true;
    let mut kernel = owning(&desired);
    let records = kernel.records();
    // A packet may tell of the same step again and again: the SYN that another one undoes.
    let syn = tcp_from(false, SOURCE, SYN, b"");
    kernel.run_xdp(&syn.frame());
    let (reset, ack) = (tcp_from(false, SOURCE, RST, b""), tcp_from(false, SOURCE, ACK, b""));
    while records.untold() == 0 {
        for packet in [&reset, &ack] {
            let expected = there(packet, SOURCE).frame();
            assert_eq!(kernel.run_xdp(&packet.frame()), (Verdict::Transmit, expected));
        }
    }
    assert!(kernel.changes().len() > 10_000);
    assert!(records.untold() > 0);
}

#[test]
fn a_new_owner_waits_to_be_told() {
    let mut desired = owner(&[SERVER]);
    desired.replicates = true;
    let mut kernel = Kernel::new(&desired);
    kernel.set_clock(1000);
    for v6 in FAMILIES {
        let packet = tcp_from(v6, SOURCE, ACK, b"hello").frame();
        // Whoever is not the owner has nothing to wait for.
        refused(&mut kernel, &packet);
    }
    kernel.own_for(std::time::Duration::from_secs(3600));
    for v6 in FAMILIES {
        let packet = tcp_from(v6, SOURCE, ACK, b"hello").frame();
        kernel.xdp(&packet).dropped(&[Reason::Unsettled]);
    }
    std::thread::sleep(std::time::Duration::from_millis(1100));
    for v6 in FAMILIES {
        refused(&mut kernel, &tcp_from(v6, SOURCE, ACK, b"hello").frame());
    }
}

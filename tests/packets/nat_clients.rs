//! Clients on the host that their backend runs on: the owner translates, or the reply would never
//! leave that host.

use std::net::IpAddr;

use kube_vip::view::Mac;

use super::cluster::*;
use super::frames::*;
use super::kernel::*;
use super::nat::{FAMILIES, MARK, SOURCE, owner, tcp_from};

/// A client on the peer itself; its connections lead to a backend there.
fn clients_of_the_peer(v6: bool) -> [Packet; 4] {
    let elsewhere: IpAddr =
        if v6 { "fd00::5555".parse().expect("address") } else { [10, 0, 0, 55].into() };
    [peer(v6), elsewhere]
        .map(|client| {
            let tcp = tcp_from(v6, SOURCE, SYN, b"").between(client, vip(v6));
            let udp = Packet::udp(v6, (SOURCE, PORT), b"x").between(client, vip(v6));
            [tcp.link(PEER, HOST), udp.link(PEER, HOST)]
        })
        .concat()
        .try_into()
        .expect("four")
}

#[test]
fn clients_on_the_backends_own_host() {
    let mut kernel = Kernel::owning(&owner(&[At::Peer]));
    for v6 in FAMILIES {
        for packet in clients_of_the_peer(v6) {
            let server = At::Peer.address(v6);
            let out = kernel.run_xdp(&packet.frame());
            let at = if v6 { 54 } else { 34 };
            let port = u16::from_be_bytes([out.1[at], out.1[at + 1]]);
            let expected = packet.clone().link(HOST, PEER).between(vip(v6), server.ip());
            let expected = expected.ports(port, server.port()).ttl(63);
            assert_eq!(out, (Verdict::Transmit, expected.frame()));
            let reply = packet.clone().between(server.ip(), vip(v6)).ports(server.port(), port);
            let expected = reply.clone().link(HOST, PEER).between(vip(v6), packet.source);
            let expected = expected.ports(PORT, SOURCE).ttl(63);
            kernel.xdp(&reply.frame()).transmitted(&expected.frame(), &[]);
        }
        // Somebody else's packets are the peer's own affair.
        let other = tcp_from(v6, SOURCE, SYN, b"");
        let expected = other.clone().ttl(MARK).link(HOST, PEER);
        kernel.xdp(&other.frame()).transmitted(&expected.frame(), &[]);
    }
}

#[test]
fn clients_in_a_pod_of_the_backends_host() {
    let mut desired = owner(&[At::Peer]);
    let mut kernel = Kernel::owning(&desired);
    let pods: [(bool, &str, IpAddr, IpAddr); 2] = [
        (false, "10.244.7.0/24", [10, 244, 7, 7].into(), [10, 244, 8, 7].into()),
        (true, "fd44:7::/64", ip("fd44:7::7"), ip("fd44:7:0:1::7")),
    ];
    let from = |v6, client| tcp_from(v6, SOURCE, SYN, b"").between(client, vip(v6));
    let forwarded = |packet: &Packet| packet.clone().ttl(MARK).link(HOST, PEER).frame();
    for (v6, _, pod, _) in pods {
        let syn = from(v6, pod);
        kernel.xdp(&syn.frame()).transmitted(&forwarded(&syn), &[]);
    }
    let peer = desired.nodes.get_mut("peer").expect("peer");
    peer.pods = pods.map(|(_, range, ..)| range.parse().expect("a range")).to_vec();
    kernel.apply(&desired);
    for (v6, _, pod, outside) in pods {
        let (syn, server) = (from(v6, pod), At::Peer.address(v6));
        let expected = syn.clone().link(HOST, PEER).between(vip(v6), server.ip());
        let expected = expected.ports(SOURCE, server.port()).ttl(63);
        kernel.xdp(&syn.frame()).transmitted(&expected.frame(), &[]);
        let syn = from(v6, outside);
        kernel.xdp(&syn.frame()).transmitted(&forwarded(&syn), &[]);
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn owner_translates_for_clients_of_the_backends_host_that_others_hand_over() {
    let mut kernel = Kernel::owning(&owner(&[At::On("third", 9), At::Pod(1)]));
    let third = Mac([2, 0, 0, 0, 0, 3]);
    let mut desired = owner(&[At::On("third", 9)]);
    let address = |v6| -> IpAddr {
        if v6 { "fd00::3".parse().expect("address") } else { [10, 0, 0, 3].into() }
    };
    desired.nodes.insert("third".to_owned(), node(false, third, [address(false), address(true)]));
    kernel.apply(&desired);
    for v6 in FAMILIES {
        let syn = tcp_from(v6, SOURCE, SYN, b"").between(address(v6), vip(v6));
        let handed = syn.clone().link(PEER, HOST).ttl(MARK);
        let server = At::On("third", 9).address(v6);
        let expected = syn.link(HOST, third).between(vip(v6), server.ip());
        let expected = expected.ports(SOURCE, server.port()).ttl(64);
        kernel.xdp(&handed.frame()).transmitted(&expected.frame(), &[]);
    }
}

//! What comes out of a tunnel.

use kube_vip::view::Mac;
use kube_vip_common::node;
use kube_vip_common::stats::Reason;

use super::cluster::*;
use super::frames::*;
use super::kernel::*;
use super::tunnel;

const FAMILIES: [bool; 2] = [false, true];
const SOURCE: u16 = 40000;

/// What every frame that a peer's tunnel brings counts.
const CAME: Reason = Reason::Decapsulated;

fn encapsulated(v6: bool) -> u8 {
    if v6 { 41 } else { 4 }
}

/// From the client, marked by the peer.
fn marked(packet: Packet) -> Packet {
    packet.ttl(240)
}

/// In a tunnel from the peer to this host, as the router hands it over.
fn from_peer(inner: &Packet) -> Packet {
    let v6 = inner.source.is_ipv6();
    Packet::other(v6, encapsulated(v6), &inner.network())
        .between(peer(v6), host(v6))
        .link(ROUTER, HOST)
        .fresh()
        .ttl(63)
}

/// The inner packet as the host has it on its link afterwards.
fn stripped(inner: &Packet) -> Packet {
    inner.clone().link(Mac(node::tunnelled(2).octets), HOST)
}

fn both(v6: bool) -> [Packet; 2] {
    [
        marked(Packet::tcp(v6, (SOURCE, PORT), SYN, b"")),
        marked(Packet::udp(v6, (SOURCE, PORT), b"hello")),
    ]
}

#[test]
fn what_a_peer_sent_is_delivered_as_an_agents() {
    for desired in [held, elsewhere, nowhere] {
        // The sender's choice of host counts.
        for backends in [vec![At::Pod(1)], vec![At::Pod(1), At::Peer]] {
            let mut kernel = Kernel::new(&desired(everywhere(&backends)));
            for v6 in FAMILIES {
                for inner in both(v6) {
                    let target = At::Pod(1).address(v6);
                    let delivered = stripped(&inner)
                        .between(inner.source, target.ip())
                        .ports(SOURCE, target.port())
                        .ttl(64)
                        .frame();
                    let outer = from_peer(&inner);
                    let reasons = [CAME, Reason::DeliveredForPeer];
                    kernel.xdp(&outer.frame()).passed(&delivered, &reasons);
                    // Padding behind the packet stays where it is.
                    let padded = [outer.frame(), vec![0; 9]].concat();
                    let delivered = [delivered, vec![0; 9]].concat();
                    kernel.xdp(&padded).passed(&delivered, &reasons);
                    let reply = inner.clone().link(HOST, CLIENT).ttl(64);
                    let reply = |ip, port| {
                        reply.clone().between(ip, inner.source).ports(port, SOURCE).frame()
                    };
                    let arrives = reply(vip(v6), PORT);
                    kernel.egress(&reply(target.ip(), target.port())).passed(&arrives, &[]);
                }
            }
        }
    }
}

#[test]
fn one_host_takes_what_another_sends() {
    let mut sender = elsewhere(everywhere(&[At::Peer]));
    let hop = kube_vip::plan::NextHop {
        mac: ROUTER,
        interface: IFINDEX,
        through: kube_vip::plan::Through::Tunnel,
        mtu: 1500,
    };
    let there = sender.nodes.get_mut("peer").expect("peer");
    (there.hop4, there.hop6) = (Some(hop.clone()), Some(hop));
    let mut sender = Kernel::new(&sender);
    // The peer sees the same hosts the other way round.
    let mut receiver = elsewhere(everywhere(&[At::Peer]));
    let nodes = [
        ("host", false, HOST, [HOST4.into(), HOST6.into()]),
        ("peer", true, PEER, [PEER4.into(), PEER6.into()]),
    ];
    receiver.nodes =
        nodes.map(|(name, own, mac, ips)| (name.to_owned(), node(own, mac, ips))).into();
    let mut receiver = Kernel::new(&receiver);
    receiver.set_uplink(PEER);
    for v6 in FAMILIES {
        for packet in both(v6).map(|packet| packet.ttl(64)) {
            let (verdict, mut frame) = sender.run_xdp(&packet.frame());
            assert_eq!(verdict, Verdict::Transmit);
            assert_eq!(frame, tunnel::tunnelled(&packet).frame());
            // The router.
            frame[..6].copy_from_slice(&PEER.0);
            frame[6..12].copy_from_slice(&ROUTER.0);
            let outcome = receiver.xdp(&frame);
            assert_eq!(outcome.verdict, Verdict::Pass);
            assert!(outcome.counted.contains_key(&Reason::DeliveredForPeer));
        }
    }
}

#[test]
fn strangers_are_refused() {
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        for inner in both(v6) {
            for stranger in [client(v6), vip(v6), host(v6)] {
                let outer = from_peer(&inner).between(stranger, host(v6));
                kernel.xdp(&outer.frame()).dropped(&[Reason::TunnelRefused]);
            }
        }
    }
    let mut without = held(everywhere(&[At::Pod(1)]));
    without.nodes.remove("peer");
    kernel.apply(&without);
    for v6 in FAMILIES {
        // Nor is anything of the kind looked at where there are no peers.
        let frame = from_peer(&both(v6)[0]).frame();
        kernel.xdp(&frame).untouched(&frame);
    }
}

#[test]
fn other_tunnels_are_left_alone() {
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        let [inner, _] = both(v6);
        let pod = At::Pod(7).address(v6).ip();
        let outer = from_peer(&inner);
        let mut others = vec![
            // Not marked; for a Pod, as overlay networks do.
            from_peer(&inner.clone().ttl(64)),
            from_peer(&inner.clone().between(client(v6), pod)),
            // For another host, and only flooded here.
            outer.clone().link(ROUTER, STRANGER),
            // Not even a header inside; the other family.
            Packet { data: outer.data[..7].to_vec(), ..outer.clone() },
            Packet { segment: Segment::Other(encapsulated(!v6)), ..outer.clone() },
            Packet { segment: Segment::Other(GRE), ..outer.clone() },
        ];
        if !v6 {
            others.push(outer.clone().options(&[1; 4]));
            others.push(outer.clone().fragment(MF));
            others.push(outer.clone().fragment(1));
        }
        for other in others {
            kernel.xdp(&other.frame()).untouched(&other.frame());
        }
        // To an address that is not this host's own.
        let elsewhere = outer.between(peer(v6), client(v6)).frame();
        kernel.xdp(&elsewhere).untouched(&elsewhere);
    }
}

#[test]
fn a_tunnel_ends_at_no_vip() {
    let mut kernel = Kernel::owning(&held(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        let frame = from_peer(&both(v6)[0]).between(peer(v6), vip(v6)).frame();
        kernel.xdp(&frame).passed(&frame, &[Reason::PassedUp]);
    }
}

#[test]
fn what_nobody_knows_here_is_refused_as_an_agents() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[At::Pod(1)])));
    for v6 in FAMILIES {
        let strange = marked(Packet::udp(v6, (SOURCE, SSH), b""));
        let outcome = kernel.xdp(&from_peer(&strange).frame());
        outcome.dropped(&[CAME, Reason::UnknownFromAgent]);
        // The kernel resets it: where its client is on the link is not known.
        let middle = marked(Packet::tcp(v6, (SOURCE, PORT), ACK, b""));
        let refused =
            stripped(&middle).between(client(v6), host(v6)).ports(SOURCE, CLOSED).ttl(64).frame();
        let outcome = kernel.xdp(&from_peer(&middle).frame());
        outcome.passed(&refused, &[CAME, Reason::NoFlowReset]);
    }
}

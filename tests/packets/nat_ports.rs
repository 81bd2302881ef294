//! Ports of translated connections: which one each gets, and what happens when there is none left.

use std::net::IpAddr;

use kube_vip::config::PortRange;
use kube_vip::plan::DataPlane;
use kube_vip_common::event::PORTS_EXHAUSTED;
use kube_vip_common::frontend::Protocol;
use kube_vip_common::nat::idle;
use kube_vip_common::stats::Reason;

use super::cluster::*;
use super::frames::*;
use super::kernel::*;
use super::nat::{FAMILIES, SERVER, SOURCE, answer, back, kernel, open, owner, tcp_from, there};

#[test]
fn clients_with_the_same_port_get_different_ones() {
    let mut kernel = kernel();
    for v6 in FAMILIES {
        let others: Vec<IpAddr> = (1..=20u8)
            .map(|n| match client(v6) {
                IpAddr::V4(ip) => (u32::from(ip) + u32::from(n)).to_be_bytes().into(),
                IpAddr::V6(ip) => (u128::from(ip) + u128::from(n)).to_be_bytes().into(),
            })
            .collect();
        let mut ports = vec![open(&mut kernel, v6, SOURCE)];
        assert_eq!(ports, [SOURCE], "the first keeps its own");
        for other in others {
            let syn = tcp_from(v6, SOURCE, SYN, b"").between(other, vip(v6));
            let (verdict, out) = kernel.run_xdp(&syn.frame());
            assert_eq!(verdict, Verdict::Transmit);
            let at = if v6 { 54 } else { 34 };
            let port = u16::from_be_bytes([out[at], out[at + 1]]);
            assert_eq!(out, there(&syn, port).frame());
            assert!(port >= 1024 && !ports.contains(&port), "{port} after {ports:?}");
            ports.push(port);
            // Each gets its own replies.
            let reply = answer(tcp_from(v6, SOURCE, SYN | ACK, b""), port);
            let expected = back(&reply, SOURCE).between(vip(v6), other);
            kernel.xdp(&reply.frame()).transmitted(&expected.frame(), &[]);
        }
    }
}

#[test]
fn ports_of_services_are_nobodys_source() {
    let mut desired = owner(&[SERVER]);
    for v6 in FAMILIES {
        desired.frontends.insert((vip(v6), SOURCE, Protocol::Tcp), frontend(v6, &[At::Host]));
    }
    let mut kernel = Kernel::owning(&desired);
    for v6 in FAMILIES {
        for (source, own) in [(SOURCE + 1, true), (1024, true), (SOURCE, false), (1023, false)] {
            assert_eq!(open(&mut kernel, v6, source) == source, own, "{source}");
        }
        // The other protocol's port is another one.
        let query = Packet::udp(v6, (SOURCE, PORT), b"");
        kernel.xdp(&query.frame()).transmitted(&there(&query, SOURCE).frame(), &[]);
    }
}

/// Connections come from this host's own address, from these ports.
fn from_node(ports: PortRange) -> DataPlane {
    let mut desired = owner(&[SERVER, At::Plain(10)]);
    desired.nat_ports = ports;
    desired.frontends.values_mut().for_each(|frontend| frontend.from_node = true);
    for v6 in FAMILIES {
        // Of two servers one gets all, so that ports run out.
        for port in [tcp(v6), udp(v6)] {
            let backends = &mut desired.frontends.get_mut(&port).expect("frontend").backends;
            backends.get_mut(&At::Plain(10).address(v6)).expect("backend").weight = 0;
        }
    }
    desired
}

#[test]
fn own_address_with_reserved_ports() {
    let ports = PortRange { first: 28000, last: 28003 };
    let mut kernel = Kernel::owning(&from_node(ports));
    for v6 in FAMILIES {
        let source = 28001;
        let syn = tcp_from(v6, source, SYN, b"");
        let expected = there(&syn, source).between(host(v6), SERVER.address(v6).ip());
        kernel.xdp(&syn.frame()).transmitted(&expected.frame(), &[]);
        let reply = answer(tcp_from(v6, source, SYN | ACK, b""), source);
        let reply = reply.between(SERVER.address(v6).ip(), host(v6));
        kernel.xdp(&reply.frame()).transmitted(&back(&reply, source).frame(), &[]);
        // What else comes to the host's own address is none of ours.
        let other = answer(tcp_from(v6, source, SYN | ACK, b""), 28002);
        let other = other.between(SERVER.address(v6).ip(), host(v6)).frame();
        kernel.xdp(&other).untouched(&other);
    }
}

#[test]
fn exhausted_ports_drop_new_flows_and_leave_others_alone() {
    let ports = PortRange { first: 28000, last: 28003 };
    let mut kernel = Kernel::owning(&from_node(ports));
    kernel.set_clock(1000);
    for v6 in FAMILIES {
        kernel.events();
        // Clients' own ports are not in the range: all are searched for.
        let mut found = Vec::new();
        for source in 1..=4 {
            let (verdict, out) = kernel.run_xdp(&tcp_from(v6, source, SYN, b"").frame());
            assert_eq!(verdict, Verdict::Transmit, "{source}");
            let at = if v6 { 54 } else { 34 };
            found.push(u16::from_be_bytes([out[at], out[at + 1]]));
        }
        found.sort_unstable();
        assert_eq!(found, [28000, 28001, 28002, 28003]);
        let fifth = tcp_from(v6, 5, SYN, b"").frame();
        kernel.xdp(&fifth).dropped(&[Reason::NatPortsExhausted]);
        let told = kernel.events();
        let told: Vec<_> = told.iter().map(|event| (event.kind, event.address.to_ip())).collect();
        assert_eq!(told, [(PORTS_EXHAUSTED, SERVER.address(v6).ip())]);
        // At most one event of a kind at a time.
        let outcome = kernel.xdp(&fifth);
        outcome.dropped(&[Reason::NatPortsExhausted, Reason::EventSuppressed]);
        // Those that are there go on, and another protocol has its own ports.
        for source in 1..=4 {
            let (verdict, _) = kernel.run_xdp(&tcp_from(v6, source, ACK, b"x").frame());
            assert_eq!(verdict, Verdict::Transmit);
        }
        let query = Packet::udp(v6, (5, PORT), b"").frame();
        assert_eq!(kernel.run_xdp(&query).0, Verdict::Transmit);
        std::thread::sleep(std::time::Duration::from_millis(110));
    }
    // A port is taken over when its connection has been idle.
    kernel.set_clock(1001 + idle::OPENING);
    for v6 in FAMILIES {
        let (verdict, _) = kernel.run_xdp(&tcp_from(v6, 5, SYN, b"").frame());
        assert_eq!(verdict, Verdict::Transmit);
    }
}

#[test]
fn idle_connections_give_their_port_to_another_client() {
    let only = PortRange { first: 28000, last: 28000 };
    let fin = |kernel: &mut Kernel, v6, reply: bool| {
        let packet = tcp_from(v6, SOURCE, FIN | ACK, b"");
        let packet = if reply {
            answer(packet, 28000).between(SERVER.address(v6).ip(), host(v6))
        } else {
            packet
        };
        assert_eq!(kernel.run_xdp(&packet.frame()).0, Verdict::Transmit);
    };
    type Life = fn(&mut Kernel, bool, &dyn Fn(&mut Kernel, bool, bool));
    let lives: [(u32, Life); 4] = [
        (idle::OPENING, |_, _, _| {}),
        (idle::ESTABLISHED, |kernel, v6, _| {
            let syn_ack = answer(tcp_from(v6, SOURCE, SYN | ACK, b""), 28000);
            let syn_ack = syn_ack.between(SERVER.address(v6).ip(), host(v6));
            assert_eq!(kernel.run_xdp(&syn_ack.frame()).0, Verdict::Transmit);
            let ack = tcp_from(v6, SOURCE, ACK, b"").frame();
            assert_eq!(kernel.run_xdp(&ack).0, Verdict::Transmit);
        }),
        (idle::HALF_CLOSED, |kernel, v6, fin| fin(kernel, v6, true)),
        (idle::CLOSED, |kernel, v6, fin| {
            fin(kernel, v6, true);
            fin(kernel, v6, false);
        }),
    ];
    for (patience, live) in lives {
        let mut kernel = Kernel::owning(&from_node(only));
        for v6 in FAMILIES {
            kernel.set_clock(1000);
            let syn = tcp_from(v6, SOURCE, SYN, b"").frame();
            assert_eq!(kernel.run_xdp(&syn).0, Verdict::Transmit);
            live(&mut kernel, v6, &fin);
            let other = tcp_from(v6, SOURCE + 1, SYN, b"").frame();
            kernel.set_clock(1000 + patience);
            assert!(kernel.xdp(&other).counted.contains_key(&Reason::NatPortsExhausted));
            kernel.set_clock(1001 + patience);
            assert_eq!(kernel.run_xdp(&other).0, Verdict::Transmit, "after {patience} s");
            // The one that was idle is nobody's any more.
            let late = tcp_from(v6, SOURCE, ACK, b"late").frame();
            assert!(kernel.xdp(&late).counted.contains_key(&Reason::NoFlowReset));
        }
    }
}

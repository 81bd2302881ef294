//! The kernel's choice is the one that hash, slot and Maglev table name.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use kube_vip::dataplane::Port;
use kube_vip::plan::{Frontend, Way};
use kube_vip_common::frontend::{Affinity, Protocol};
use kube_vip_common::hash;
use kube_vip_common::maglev::{self, Candidate};
use kube_vip_common::table::TableSize;
use proptest::prelude::RngExt as _;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::cluster::*;
use super::frames::*;
use super::kernel::*;

const FAMILIES: [bool; 2] = [false, true];

/// What user space says the kernel should choose.
struct Model {
    slots: Vec<u16>,
    backends: Vec<SocketAddr>,
    affinity: Affinity,
    seed: u64,
    size: TableSize,
}

impl Model {
    fn new(frontend: &Frontend) -> Self {
        let usable = frontend.backends.iter().filter(|(_, b)| !matches!(b.way, Way::None(_)));
        let mut candidates: Vec<_> = usable
            .map(|(address, backend)| {
                let (ip, port) = (address.ip().into(), address.port());
                Candidate::new(ip, port, backend.weight, 0, frontend.seed, frontend.size)
            })
            .collect();
        let mut slots = vec![0; frontend.size.slots() as usize];
        maglev::fill(&mut slots, &mut candidates);
        let backends =
            candidates.iter().map(|c| SocketAddr::new(c.address.to_ip(), c.port)).collect();
        let Frontend { affinity, seed, size, .. } = *frontend;
        Self { slots, backends, affinity, seed, size }
    }

    fn choice(&self, packet: &Packet, protocol: Protocol) -> Option<SocketAddr> {
        let (from, to) = packet.ports;
        let client = SocketAddr::new(packet.source, from);
        let vip = SocketAddr::new(packet.destination, to);
        let hash = match self.affinity {
            Affinity::ClientIp => hash::of_client(self.seed, packet.source),
            Affinity::None => hash::of_flow(self.seed, client, vip, protocol as u8)?,
        };
        let slot = hash.slot(self.size.slots());
        self.backends.get(usize::from(self.slots[slot as usize])).copied()
    }
}

/// Clients and their ports, the same in every run; other ports in each round, so that no flow of
/// one before is known.
fn clients(v6: bool, number: usize, round: usize) -> Vec<(IpAddr, u16)> {
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut client = || match v6 {
        true => IpAddr::from(rng.random::<[u8; 16]>()),
        false => IpAddr::from(rng.random::<[u8; 4]>()),
    };
    (0..number).map(|n| (client(), ((n * 7919 + round) % 65536) as u16)).collect()
}

/// Sends packets of many clients and compares where they go; returns the backends that got any.
fn compare(
    kernel: &mut Kernel,
    desired: &Frontends,
    port: Port,
    number: usize,
    round: usize,
) -> BTreeSet<SocketAddr> {
    let (v6, model) = (port.0.is_ipv6(), Model::new(&desired[&port]));
    let mut chosen = BTreeSet::new();
    for (client, source) in clients(v6, number, round) {
        let packet = match port.2 {
            Protocol::Tcp => Packet::tcp(v6, (source, port.1), SYN, b""),
            _ => Packet::udp(v6, (source, port.1), b""),
        };
        let packet = packet.between(client, port.0);
        let expected = model.choice(&packet, port.2).expect("there are backends");
        let (verdict, out) = kernel.run_xdp(&packet.frame());
        let delivered = packet.clone().between(client, expected.ip()).ports(source, TARGET);
        assert_eq!((verdict, out), (Verdict::Pass, delivered.frame()), "{client} {source}");
        chosen.insert(expected);
    }
    chosen
}

fn pods(number: u16) -> Vec<At> {
    (1..=number).map(At::Pod).collect()
}

#[test]
fn every_size_affinity_protocol_and_family() {
    let mut kernel = Kernel::owning(&held(Frontends::new()));
    for (round, size) in TableSize::ALL.into_iter().enumerate() {
        for affinity in [Affinity::None, Affinity::ClientIp] {
            let round = 2 * round + usize::from(affinity == Affinity::None);
            let mut frontends = everywhere(&pods(10));
            for frontend in frontends.values_mut() {
                (frontend.size, frontend.affinity) = (size, affinity);
            }
            // The size changes under way, and with it the numbers of the frontends.
            kernel.apply(&held(frontends.clone()));
            for port in frontends.keys() {
                assert_eq!(compare(&mut kernel, &frontends, *port, 400, round).len(), 10);
            }
        }
    }
}

#[test]
fn affinity_ignores_ports() {
    let mut frontends = everywhere(&pods(10));
    frontends.values_mut().for_each(|frontend| frontend.affinity = Affinity::ClientIp);
    let mut kernel = Kernel::owning(&held(frontends.clone()));
    for v6 in FAMILIES {
        let go = |kernel: &mut Kernel, packet: Packet| {
            let out = kernel.run_xdp(&packet.frame()).1;
            out[if v6 { 38..54 } else { 30..34 }].to_vec()
        };
        let tcp = (1..200).map(|p| Packet::tcp(v6, (p, PORT), SYN, b""));
        let udp = (1..200).map(|p| Packet::udp(v6, (p, PORT), b""));
        let targets: BTreeSet<_> = tcp.chain(udp).map(|packet| go(&mut kernel, packet)).collect();
        assert_eq!(targets.len(), 1);
    }
}

#[test]
fn any_number_of_backends() {
    // Around the borders of lines of members, of locals, and of slots.
    let mut kernel = Kernel::owning(&held(Frontends::new()));
    for number in [1, 2, 7, 8, 9, 31, 32, 33, 64, 65, 250] {
        let mut frontends = Frontends::from([(tcp(false), frontend(false, &pods(number)))]);
        let port = tcp(false);
        frontends.get_mut(&port).expect("frontend").size = TableSize::S1021;
        kernel.apply(&held(frontends.clone()));
        let chosen = compare(&mut kernel, &frontends, port, 2500, 0);
        assert!(chosen.len() >= usize::from(number) * 95 / 100, "{} of {number}", chosen.len());
    }
}

#[test]
fn weights_and_what_takes_no_share() {
    let mut frontends = everywhere(&pods(4));
    for v6 in FAMILIES {
        let backends = &mut frontends.get_mut(&tcp(v6)).expect("frontend").backends;
        let mut set = |n, weight| {
            backends.get_mut(&At::Pod(n).address(v6)).expect("backend").weight = weight;
        };
        set(1, 0);
        set(2, 5);
        let none = At::Pod(3).address(v6);
        backends.get_mut(&none).expect("backend").way = Way::None("down".into());
    }
    let mut kernel = Kernel::owning(&held(frontends.clone()));
    for v6 in FAMILIES {
        let chosen = compare(&mut kernel, &frontends, tcp(v6), 2000, 0);
        assert_eq!(chosen, [At::Pod(2), At::Pod(4)].map(|at| at.address(v6)).into());
    }
    // Nobody has a share.
    for frontend in frontends.values_mut() {
        frontend.backends.values_mut().for_each(|backend| backend.weight = 0);
    }
    kernel.apply(&held(frontends));
    let syn = Packet::tcp(false, (40000, PORT), SYN, b"").frame();
    assert_eq!(kernel.run_xdp(&syn).0, Verdict::Transmit);
}

#[test]
fn tables_change_under_way() {
    let mut kernel = Kernel::owning(&held(Frontends::new()));
    let steps = [pods(3), pods(5), pods(1), vec![At::Pod(9), At::Pod(8)], pods(3)];
    for (round, backends) in steps.into_iter().enumerate() {
        let mut frontends = everywhere(&backends);
        kernel.apply(&held(frontends.clone()));
        for port in frontends.clone().into_keys() {
            compare(&mut kernel, &frontends, port, 200, 2 * round);
        }
        // Another seed is another table and another hash.
        frontends.values_mut().for_each(|frontend| frontend.seed = 0xdead_beef_0bad_cafe);
        kernel.apply(&held(frontends.clone()));
        for port in frontends.clone().into_keys() {
            compare(&mut kernel, &frontends, port, 200, 2 * round + 1);
        }
    }
}

#[test]
fn frontends_come_and_go() {
    let mut kernel = Kernel::owning(&held(Frontends::new()));
    let syn = Packet::tcp(false, (40000, PORT), SYN, b"").frame();
    let (first, second) = ((vip(false), 81, Protocol::Tcp), (vip(false), 82, Protocol::Tcp));
    for round in 0..3 {
        // From the same ports they would meet each other's flows at the backends.
        let ports = 3 * usize::from(round);
        let frontends = everywhere(&pods(3));
        kernel.apply(&held(frontends.clone()));
        compare(&mut kernel, &frontends, tcp(false), 100, ports);
        // The numbers of those that are gone go to others.
        let others = [first, second].map(|port| (port, frontend(false, &pods(2 + round))));
        let others = Frontends::from(others);
        kernel.apply(&held(others.clone()));
        compare(&mut kernel, &others, first, 100, ports + 1);
        compare(&mut kernel, &others, second, 100, ports + 2);
        assert_eq!(kernel.run_xdp(&syn), (Verdict::Pass, syn.clone()));
        kernel.apply(&held(Frontends::new()));
        assert_eq!(kernel.run_xdp(&syn), (Verdict::Pass, syn.clone()));
    }
}

#[test]
fn configuration_that_does_not_fit_spoils_nothing() {
    // 300 backends fit; what was tried in between must not count as written.
    let fitting = Frontends::from([(tcp(false), frontend(false, &pods(200)))]);
    let mut kernel = Kernel::owning(&held(Frontends::new()));
    let too_many = Frontends::from([(tcp(false), frontend(false, &pods(400)))]);
    let error = kernel.try_apply(&held(too_many)).expect_err("400 do not fit");
    assert!(error.contains("backends"), "{error}");
    kernel.apply(&held(fitting.clone()));
    compare(&mut kernel, &fitting, tcp(false), 500, 0);
}

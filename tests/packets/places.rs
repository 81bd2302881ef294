//! Frontends whose keys share a place of `FRONTEND_IDS`: each is found, and only while it is there.

use std::collections::BTreeMap;

use kube_vip::dataplane::Port;
use kube_vip_common::frontend::{FrontendKey, Protocol, place};
use kube_vip_common::stats::Reason;
use kube_vip_common::table::TableSize;

use super::cluster::*;
use super::frames::*;
use super::kernel::*;

/// Two TCP ports of the VIP whose keys share a place.
fn twins(v6: bool) -> [u16; 2] {
    let mut taken = BTreeMap::new();
    for port in 1..=u16::MAX {
        let (address, protocol) = (vip(v6).into(), Protocol::Tcp as u16);
        let key = FrontendKey { address, port, protocol, pad: 0 };
        if let Some(other) = taken.insert(place(key.words()), port) {
            return [other, port];
        }
    }
    panic!("no two ports share a place");
}

fn port(v6: bool, port: u16) -> Port {
    (vip(v6), port, Protocol::Tcp)
}

/// Where a new connection to that port goes; nothing where the kernel keeps it.
fn goes_to(kernel: &mut Kernel, v6: bool, port: u16) -> Option<At> {
    let packet = Packet::tcp(v6, (40000, port), SYN, b"");
    let (_, frame) = kernel.run_xdp(&packet.frame());
    let sent_to = |at: &At| {
        let address = at.address(v6);
        let rewritten = packet.clone().between(packet.source, address.ip());
        frame == rewritten.ports(40000, address.port()).frame()
    };
    [At::Pod(1), At::Pod(2), At::Pod(3)].into_iter().find(sent_to)
}

#[test]
fn frontends_that_share_a_place_are_told_apart() {
    for v6 in [false, true] {
        let [first, second] = twins(v6);
        let one = |number, at| (port(v6, number), frontend(v6, &[at]));
        let both = Frontends::from([one(first, At::Pod(1)), one(second, At::Pod(2))]);
        let mut kernel = Kernel::new(&held(both.clone()));
        let mut expect = |frontends: Frontends, expected: [Option<At>; 2]| {
            kernel.apply(&held(frontends));
            let found = [first, second].map(|port| goes_to(&mut kernel, v6, port));
            assert_eq!(found, expected, "ports {first} and {second}");
        };
        expect(both.clone(), [Some(At::Pod(1)), Some(At::Pod(2))]);
        // Whoever has the place goes, comes back as the second, and changes.
        expect(Frontends::from([one(second, At::Pod(2))]), [None, Some(At::Pod(2))]);
        expect(both, [Some(At::Pod(1)), Some(At::Pod(2))]);
        let mut changed = Frontends::from([one(first, At::Pod(1)), one(second, At::Pod(3))]);
        changed.entry(port(v6, second)).and_modify(|frontend| frontend.size = TableSize::S1021);
        changed.entry(port(v6, first)).and_modify(|frontend| frontend.seed += 1);
        expect(changed, [Some(At::Pod(1)), Some(At::Pod(3))]);
        expect(Frontends::from([one(first, At::Pod(1))]), [Some(At::Pod(1)), None]);
        expect(Frontends::new(), [None, None]);
    }
}

#[test]
fn another_port_at_a_frontends_place_is_none() {
    for v6 in [false, true] {
        let [first, second] = twins(v6);
        let only = Frontends::from([(port(v6, first), frontend(v6, &[At::Pod(1)]))]);
        let mut kernel = Kernel::new(&held(only));
        let frame = Packet::tcp(v6, (40000, second), SYN, b"").frame();
        kernel.xdp(&frame).passed(&frame, &[Reason::PassedUp]);
    }
}

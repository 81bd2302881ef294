//! Keys and values of the maps, from those of the model and back.

use std::net::IpAddr;

use kube_vip_common::address::{Address, MacAddress};
use kube_vip_common::backend;
use kube_vip_common::flow::{
    ANSWERED, BACKEND_DONE, CLIENT_DONE, DIRECT, Endpoint4, Endpoint6, RESET, Tuple4, Tuple6,
};
use kube_vip_common::frontend::{CLIENT_AFFINITY, Frontend, FrontendKey, HOST_ADDRESS, SILENT};
use kube_vip_common::lease::Lease;
use kube_vip_common::node::{Hop, LINK, Node, Range4, Range6, TUNNEL};
use kube_vip_common::table::Slot;
use kube_vip_common::vip::{HELD, OWN, SERVED, VIRTUAL, Vip};

use super::kernel::TABLES;
use crate::reference::host::{self, Endpoint, Port, THIS, Tuple};

pub(super) fn key((address, port, protocol): &Port) -> FrontendKey {
    FrontendKey { address: (*address).into(), port: *port, protocol: (*protocol).into(), pad: 0 }
}

pub(super) fn vip_of(vip: &host::Vip) -> Vip {
    let flags = [(vip.is_virtual, VIRTUAL), (vip.held, HELD), (vip.served, SERVED), (vip.own, OWN)];
    let flags = flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum();
    Vip { flags, lease: vip.lease, owner: vip.owner }
}

pub(super) fn lease_of(lease: host::Lease) -> Lease {
    let (since, until) = match lease {
        host::Lease::Never => (0, 0),
        host::Lease::Over => (1, 2),
        host::Lease::NotYet => (u64::MAX - 1, u64::MAX),
        host::Lease::Now => (1, u64::MAX - 1),
        host::Lease::Forever => (1, u64::MAX),
    };
    Lease { since, until, epoch: 1 }
}

pub(super) fn frontend_of(frontend: &host::Frontend) -> Frontend {
    let flags = [
        (frontend.by_client, CLIENT_AFFINITY),
        (frontend.host_address, HOST_ADDRESS),
        (frontend.silent, SILENT),
    ];
    let flags = flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum();
    let slots = TABLES[frontend.id as usize] as u32;
    Frontend { seed: frontend.seed, id: frontend.id, slots, flags, interval: 0 }
}

pub(super) fn slot_of(slot: host::Slot) -> Slot {
    let plain = match slot.node {
        0 => Slot::NONE,
        node => Slot::new(slot.backend, node as u16),
    };
    if slot.past == [0; 4] { plain } else { plain.with_history(slot.was_here()) }
}

pub(super) fn backend_of(backend: &host::Backend) -> backend::Backend {
    backend::Backend {
        address: backend.address.into(),
        port: backend.port,
        flags: backend::IN_USE | if backend.down { backend::DOWN } else { 0 },
        protocol: backend.protocol,
        pad: [0; 3],
    }
}

pub(super) fn node_of(id: u32, node: &host::Node) -> Node {
    let hop = |hop: &host::Hop| Hop {
        mac: MacAddress::new(hop.mac),
        source_mac: MacAddress::new(hop.own),
        ifindex: if id == THIS { 0 } else { hop.interface },
        way: if hop.tunnel.is_some() { TUNNEL } else { LINK },
        mtu: hop.tunnel.unwrap_or(1500),
    };
    Node {
        hop4: hop(&node.hop4),
        hop6: hop(&node.hop6),
        v4: node.v4.map(Address::from_v4).unwrap_or_default(),
        v6: node.v6.map(Address::from_v6).unwrap_or_default(),
        pods4: Range4::EMPTY,
        pods6: Range6::EMPTY,
        rank: node.rank.into(),
        pad: 0,
    }
}

/// A key of the maps of flows.
pub(super) enum Tuples {
    V4(Tuple4),
    V6(Tuple6),
}

pub(super) fn tuple_of(tuple: &Tuple) -> Tuples {
    let Tuple { source_port, destination_port, .. } = *tuple;
    let protocol = tuple.protocol.into();
    match (tuple.source, tuple.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Tuples::V4(Tuple4 {
            source: source.octets(),
            destination: destination.octets(),
            source_port,
            destination_port,
            protocol,
        }),
        (IpAddr::V6(source), IpAddr::V6(destination)) => Tuples::V6(Tuple6 {
            source: source.octets(),
            destination: destination.octets(),
            source_port,
            destination_port,
            protocol,
        }),
        other => panic!("{other:?} are of two families"),
    }
}

pub(super) fn v4_of((tuple, endpoint): (Tuple4, Endpoint4)) -> (Tuple, Endpoint) {
    let tuple = Tuple {
        source: tuple.source.into(),
        source_port: tuple.source_port,
        destination: tuple.destination.into(),
        destination_port: tuple.destination_port,
        protocol: tuple.protocol as u8,
    };
    let Endpoint4 { address, port, flags, backend, client_port, stamp, .. } = endpoint;
    (tuple, endpoint_of(address.into(), port, backend, (flags, client_port, stamp)))
}

pub(super) fn v6_of((tuple, endpoint): (Tuple6, Endpoint6)) -> (Tuple, Endpoint) {
    let tuple = Tuple {
        source: tuple.source.into(),
        source_port: tuple.source_port,
        destination: tuple.destination.into(),
        destination_port: tuple.destination_port,
        protocol: tuple.protocol as u8,
    };
    let Endpoint6 { address, port, flags, backend, client_port, stamp, .. } = endpoint;
    (tuple, endpoint_of(address.into(), port, backend, (flags, client_port, stamp)))
}

pub(super) fn endpoint_of(
    address: IpAddr,
    port: u16,
    backend: u32,
    (flags, client_port, stamp): (u16, u16, u32),
) -> Endpoint {
    Endpoint {
        direct: flags & DIRECT != 0,
        client_port,
        answer: (flags & ANSWERED != 0).then_some(stamp),
        ends: host::Ends {
            client_done: flags & CLIENT_DONE != 0,
            backend_done: flags & BACKEND_DONE != 0,
            reset: flags & RESET != 0,
        },
        ..Endpoint::new(address, port, backend)
    }
}

//! What is asked of the kernel about routes and neighbours.

use std::net::IpAddr;

use rtnetlink::packet_core::NLM_F_CREATE;
use rtnetlink::packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::table::{Neighbour, Way};
use crate::source::netlink::{NetlinkError, Requests};

pub(super) struct Query(Requests);

impl Query {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        Requests::open().map(Self)
    }

    /// The kernel's own decision, rules and all.
    pub(super) async fn way(&self, address: IpAddr) -> Result<Way, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(address);
        message.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
        message.attributes.push(RouteAttribute::Destination(address.into()));
        let action = format!("look up the route to {address}");
        match self.0.get(&action, RouteNetlinkMessage::GetRoute(message)).await {
            Ok(Some(RouteNetlinkMessage::NewRoute(route))) => Ok(read_way(&route)),
            Ok(_) => Ok(Way::None),
            // No route, and routes of the types unreachable, prohibit and blackhole
            // (fib_props in net/ipv4/fib_semantics.c).
            Err(error) => match error.errno() {
                Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL) => {
                    Ok(Way::None)
                }
                _ => Err(error),
            },
        }
    }

    /// The entry of the neighbour table.
    pub(super) async fn neighbour(
        &self,
        interface: u32,
        address: IpAddr,
    ) -> Result<Neighbour, NetlinkError> {
        let action = format!("look up the neighbour {address}");
        let message = RouteNetlinkMessage::GetNeighbour(entry(interface, address));
        match self.0.get(&action, message).await {
            Ok(Some(RouteNetlinkMessage::NewNeighbour(found))) => Ok(Neighbour::read(&found)),
            Ok(_) => Ok(Neighbour::Missing),
            Err(error) => match error.errno() {
                Some(libc::ENOENT | libc::ENODEV) => Ok(Neighbour::Missing),
                _ => Err(error),
            },
        }
    }

    /// As if somebody had sent to it: makes the entry if need be, and the kernel's first
    /// solicitation goes out at once (`NTF_USE`, `neigh_add` in net/core/neighbour.c).
    pub(super) async fn resolve(
        &self,
        interface: u32,
        address: IpAddr,
    ) -> Result<(), NetlinkError> {
        let mut message = entry(interface, address);
        message.header.flags = NeighbourFlags::Use;
        let action = format!("resolve the neighbour {address}");
        self.0.change(&action, RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE).await
    }

    /// Has a known neighbour confirmed by unicast. Its hardware address stays in use meanwhile;
    /// an entry that knows none, or is gone, is refused (`__neigh_update` in
    /// net/core/neighbour.c).
    pub(super) async fn probe(&self, interface: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let mut message = entry(interface, address);
        message.header.state = NeighbourState::Probe;
        let action = format!("probe the neighbour {address}");
        self.0.change(&action, RouteNetlinkMessage::NewNeighbour(message), 0).await
    }
}

fn entry(interface: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = interface;
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    message
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

pub(super) fn read_way(route: &RouteMessage) -> Way {
    let (mut oif, mut gateway, mut mtu) = (None, None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => oif = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(address))
            | RouteAttribute::Via(RouteVia::Inet(address)) => gateway = Some((*address).into()),
            RouteAttribute::Gateway(RouteAddress::Inet6(address))
            | RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some((*address).into()),
            // A path MTU that the kernel has learnt is told as the route's own (`rt_fill_info` in
            // net/ipv4/route.c, `rt6_fill_node` in net/ipv6/route.c).
            RouteAttribute::Metrics(metrics) => {
                let of = |metric: &RouteMetric| match metric {
                    RouteMetric::Mtu(mtu) if *mtu != 0 => Some(*mtu),
                    _ => None,
                };
                mtu = metrics.iter().find_map(of);
            }
            _ => {}
        }
    }
    match (route.header.kind, oif, gateway) {
        (RouteType::Local, ..) => Way::Here,
        (RouteType::Unicast, Some(interface), Some(gateway)) => {
            Way::Via { gateway, interface, mtu }
        }
        (RouteType::Unicast, Some(interface), None) => Way::OnLink { interface },
        _ => Way::None,
    }
}

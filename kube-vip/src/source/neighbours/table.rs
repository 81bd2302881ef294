//! What is known of each wanted address, and what an event changes in it. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};

use crate::view::{Hop, Mac};

/// What the routes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Here,
    OnLink { interface: u32 },
    Via { gateway: IpAddr, interface: u32, mtu: Option<u32> },
    None,
}

/// What the neighbour table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Neighbour {
    /// No entry, or one that was never used.
    Missing,
    /// The kernel is asking.
    Asking,
    /// Nobody answered.
    Failed,
    /// Learnt, to be confirmed from time to time.
    Known(Mac),
    /// Set by somebody (permanent) or by the kind of link (no ARP).
    Fixed(Mac),
    /// The entry was removed, by hand or by the garbage collector. Its address is used until the
    /// kernel has been asked, so that an answer within a moment changes nothing.
    Vanished(Mac),
    /// It has no Ethernet address and never will.
    Unusable,
}

impl Neighbour {
    pub(super) fn read(message: &NeighbourMessage) -> Self {
        let mac = message.attributes.iter().find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                let mac = bytes.as_slice().try_into().map(Mac).ok()?;
                (mac != Mac::default()).then_some(mac)
            }
            _ => None,
        });
        match (message.header.state, mac) {
            (NeighbourState::Incomplete, _) => Self::Asking,
            (NeighbourState::Failed, _) => Self::Failed,
            (NeighbourState::None, _) => Self::Missing,
            (NeighbourState::Permanent | NeighbourState::Noarp, Some(mac)) => Self::Fixed(mac),
            (_, Some(mac)) => Self::Known(mac),
            (_, None) => Self::Unusable,
        }
    }

    /// The kernel does nothing about it by itself.
    pub(super) fn wants_asking(self) -> bool {
        matches!(self, Self::Missing | Self::Failed | Self::Vanished(_))
    }
}

/// What is looked up: an address that is wanted, or a router on the way to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) address: IpAddr,
    /// The interface a router is on; a link-local one may be on several.
    pub(super) router_on: Option<u32>,
}

impl From<IpAddr> for Target {
    fn from(address: IpAddr) -> Self {
        Self { address, router_on: None }
    }
}

/// What is to be done about an event, besides looking up what became dirty.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    /// The entries of these neighbours are gone and should be made again.
    Vanished(Vec<Target>),
}

#[derive(Debug)]
struct Entry {
    /// `None` until it was looked up.
    way: Option<Way>,
    neighbour: Neighbour,
    dirty: bool,
}

/// The wanted addresses, and the routers on the ways to them.
#[derive(Debug, Default)]
pub(super) struct Table(BTreeMap<Target, Entry>);

impl Table {
    /// These are wanted, and no others.
    pub(super) fn want(&mut self, addresses: &BTreeSet<IpAddr>) {
        self.0
            .retain(|target, _| target.router_on.is_some() || addresses.contains(&target.address));
        for address in addresses {
            let new = || Entry { way: None, neighbour: Neighbour::Missing, dirty: true };
            self.0.entry((*address).into()).or_insert_with(new);
        }
        self.keep_routers();
    }

    /// The result of a look.
    pub(super) fn found(&mut self, target: Target, way: Way, neighbour: Neighbour) {
        if let Some(entry) = self.0.get_mut(&target) {
            *entry = Entry { way: Some(way), neighbour, dirty: false };
            self.keep_routers();
        }
    }

    /// Routers are wanted as long as a way leads through them.
    fn keep_routers(&mut self) {
        let routers: BTreeSet<Target> = self.0.values().filter_map(Entry::router).collect();
        self.0.retain(|target, _| target.router_on.is_none() || routers.contains(target));
        for router in routers {
            let way = router.router_on.map(|interface| Way::OnLink { interface });
            let new = || Entry { way, neighbour: Neighbour::Missing, dirty: true };
            self.0.entry(router).or_insert_with(new);
        }
    }

    pub(super) fn dirty(&mut self, target: Target) {
        self.0.entry(target).and_modify(|entry| entry.dirty = true);
    }

    pub(super) fn all_dirty(&mut self) {
        self.0.values_mut().for_each(|entry| entry.dirty = true);
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.0.values().any(|entry| entry.dirty)
    }

    pub(super) fn dirty_targets(&self) -> Vec<Target> {
        self.select(|entry| entry.dirty.then_some(())).map(|(target, ())| target).collect()
    }

    pub(super) fn on_link(&self, target: Target) -> Option<u32> {
        self.0.get(&target)?.interface()
    }

    /// What is kept of a neighbour whose entry is gone; the next try to resolve it ends that.
    pub(super) fn vanished(&self, target: Target, on: u32) -> Option<Neighbour> {
        let entry = self.0.get(&target).filter(|entry| entry.interface() == Some(on))?;
        Some(entry.neighbour).filter(|neighbour| matches!(neighbour, Neighbour::Vanished(_)))
    }

    /// On-link neighbours without an address that might yet get one, in order.
    pub(super) fn unresolved(&self) -> Vec<Target> {
        let unresolved = |entry: &Entry| entry.is_unresolved().then_some(());
        self.select(unresolved).map(|(target, ())| target).collect()
    }

    pub(super) fn has_unresolved(&self) -> bool {
        self.0.values().any(Entry::is_unresolved)
    }

    /// Neighbours that were learnt, with their interfaces.
    pub(super) fn confirmable(&self) -> Vec<(Target, u32)> {
        let known = |entry: &Entry| match entry.neighbour {
            Neighbour::Known(_) => entry.interface(),
            _ => None,
        };
        self.select(known).collect()
    }

    /// Looks again at what is behind routers: a path MTU is learnt and forgotten without an event.
    pub(super) fn dirty_routed(&mut self) {
        for entry in self.0.values_mut() {
            entry.dirty |= matches!(entry.way, Some(Way::Via { .. }));
        }
    }

    /// The ways, of all wanted addresses that were looked up.
    pub(super) fn hops(&self) -> BTreeMap<IpAddr, Hop> {
        let wanted = self.0.iter().filter(|(target, _)| target.router_on.is_none());
        wanted.filter_map(|(target, entry)| Some((target.address, self.hop(entry)?))).collect()
    }

    fn hop(&self, entry: &Entry) -> Option<Hop> {
        Some(match entry.way? {
            Way::Here => Hop::Here,
            Way::Via { gateway, interface, mtu } => {
                let router = entry.router().and_then(|router| self.0.get(&router));
                Hop::Routed { gateway, interface, mac: router.and_then(Entry::mac), mtu }
            }
            Way::None => Hop::Unreachable,
            Way::OnLink { interface } => match entry.mac() {
                Some(mac) => Hop::Neighbour { mac, interface },
                None => Hop::Unresolved { interface },
            },
        })
    }

    fn select<T>(&self, choose: impl Fn(&Entry) -> Option<T>) -> impl Iterator<Item = (Target, T)> {
        self.0.iter().filter_map(move |(target, entry)| Some((*target, choose(entry)?)))
    }

    /// Takes in an event.
    pub(super) fn apply(&mut self, message: &RouteNetlinkMessage) -> Effect {
        use RouteNetlinkMessage as Message;
        match message {
            Message::NewNeighbour(message) => self.neighbour_changed(message, false),
            Message::DelNeighbour(message) => self.neighbour_changed(message, true),
            Message::NewRoute(message) | Message::DelRoute(message) => {
                self.route_changed(message);
                Effect::Nothing
            }
            // Routes that go with a link or an address go without an event of their own
            // (fib_sync_down_dev in net/ipv4/fib_semantics.c).
            Message::NewLink(_)
            | Message::DelLink(_)
            | Message::NewAddress(_)
            | Message::DelAddress(_)
            | Message::NewRule(_)
            | Message::DelRule(_) => {
                self.all_dirty();
                Effect::Nothing
            }
            _ => Effect::Nothing,
        }
    }

    fn neighbour_changed(&mut self, message: &NeighbourMessage, removed: bool) -> Effect {
        let address = message.attributes.iter().find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                Some(IpAddr::from(*address))
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                Some(IpAddr::from(*address))
            }
            _ => None,
        });
        let proxy = message.header.flags.contains(NeighbourFlags::Proxy);
        let Some(address) = address.filter(|_| !proxy) else { return Effect::Nothing };
        let interface = message.header.ifindex;
        let mut vanished = Vec::new();
        for target in [Target::from(address), Target { address, router_on: Some(interface) }] {
            let Some(entry) = self.0.get_mut(&target) else { continue };
            if entry.interface() != Some(interface) {
                continue;
            }
            if !removed {
                entry.neighbour = Neighbour::read(message);
                continue;
            }
            entry.neighbour = match entry.neighbour {
                Neighbour::Known(mac) => Neighbour::Vanished(mac),
                _ => Neighbour::Missing,
            };
            vanished.push(target);
        }
        if vanished.is_empty() { Effect::Nothing } else { Effect::Vanished(vanished) }
    }

    fn route_changed(&mut self, message: &RouteMessage) {
        let destination = message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => Some((*address).into()),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some((*address).into()),
            _ => None,
        });
        // A default route has no destination.
        let any = match message.header.address_family {
            AddressFamily::Inet => IpAddr::from([0; 4]),
            AddressFamily::Inet6 => IpAddr::from([0; 16]),
            _ => return,
        };
        let length = message.header.destination_prefix_length;
        let Ok(network) = IpNet::new(destination.unwrap_or(any), length) else { return };
        for (target, entry) in &mut self.0 {
            entry.dirty |= network.contains(&target.address);
        }
    }
}

impl Entry {
    fn interface(&self) -> Option<u32> {
        match self.way {
            Some(Way::OnLink { interface }) => Some(interface),
            _ => None,
        }
    }

    fn is_unresolved(&self) -> bool {
        let may_resolve = self.neighbour == Neighbour::Asking || self.neighbour.wants_asking();
        may_resolve && self.interface().is_some()
    }

    /// The router on the way there.
    fn router(&self) -> Option<Target> {
        match self.way {
            Some(Way::Via { gateway, interface, .. }) => {
                Some(Target { address: gateway, router_on: Some(interface) })
            }
            _ => None,
        }
    }

    fn mac(&self) -> Option<Mac> {
        match self.neighbour {
            Neighbour::Known(mac) | Neighbour::Fixed(mac) | Neighbour::Vanished(mac) => Some(mac),
            Neighbour::Missing | Neighbour::Asking | Neighbour::Failed | Neighbour::Unusable => {
                None
            }
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;

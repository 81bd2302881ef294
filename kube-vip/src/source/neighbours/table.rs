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
    Via { gateway: IpAddr, interface: u32 },
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

/// What is to be done about an event, besides looking up what became dirty.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    /// This neighbour's entry is gone and should be made again.
    Vanished(IpAddr),
}

#[derive(Debug)]
struct Entry {
    /// `None` until it was looked up.
    way: Option<Way>,
    neighbour: Neighbour,
    dirty: bool,
}

/// The wanted addresses.
#[derive(Debug, Default)]
pub(super) struct Table(BTreeMap<IpAddr, Entry>);

impl Table {
    /// These are wanted, and no others.
    pub(super) fn want(&mut self, addresses: &BTreeSet<IpAddr>) {
        self.0.retain(|address, _| addresses.contains(address));
        for address in addresses {
            let new = || Entry { way: None, neighbour: Neighbour::Missing, dirty: true };
            self.0.entry(*address).or_insert_with(new);
        }
    }

    /// The result of a look.
    pub(super) fn found(&mut self, address: IpAddr, way: Way, neighbour: Neighbour) {
        if let Some(entry) = self.0.get_mut(&address) {
            *entry = Entry { way: Some(way), neighbour, dirty: false };
        }
    }

    pub(super) fn dirty(&mut self, address: IpAddr) {
        self.0.entry(address).and_modify(|entry| entry.dirty = true);
    }

    pub(super) fn all_dirty(&mut self) {
        self.0.values_mut().for_each(|entry| entry.dirty = true);
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.0.values().any(|entry| entry.dirty)
    }

    pub(super) fn dirty_addresses(&self) -> Vec<IpAddr> {
        self.select(|entry| entry.dirty.then_some(())).map(|(address, ())| address).collect()
    }

    pub(super) fn on_link(&self, address: IpAddr) -> Option<u32> {
        self.0.get(&address)?.interface()
    }

    /// What is kept of a neighbour whose entry is gone; the next try to resolve it ends that.
    pub(super) fn vanished(&self, address: IpAddr, on: u32) -> Option<Neighbour> {
        let entry = self.0.get(&address).filter(|entry| entry.interface() == Some(on))?;
        Some(entry.neighbour).filter(|neighbour| matches!(neighbour, Neighbour::Vanished(_)))
    }

    /// On-link neighbours without an address that might yet get one, in order.
    pub(super) fn unresolved(&self) -> Vec<IpAddr> {
        let unresolved = |entry: &Entry| entry.is_unresolved().then_some(());
        self.select(unresolved).map(|(address, ())| address).collect()
    }

    pub(super) fn has_unresolved(&self) -> bool {
        self.0.values().any(Entry::is_unresolved)
    }

    /// Neighbours that were learnt, with their interfaces.
    pub(super) fn confirmable(&self) -> Vec<(IpAddr, u32)> {
        let known = |entry: &Entry| match entry.neighbour {
            Neighbour::Known(_) => entry.interface(),
            _ => None,
        };
        self.select(known).collect()
    }

    /// The ways, of all addresses that were looked up.
    pub(super) fn hops(&self) -> BTreeMap<IpAddr, Hop> {
        self.select(Entry::hop).collect()
    }

    fn select<T>(&self, choose: impl Fn(&Entry) -> Option<T>) -> impl Iterator<Item = (IpAddr, T)> {
        self.0.iter().filter_map(move |(address, entry)| Some((*address, choose(entry)?)))
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
        let Some(entry) = self.0.get_mut(&address) else { return Effect::Nothing };
        if entry.interface() != Some(message.header.ifindex) {
            return Effect::Nothing;
        }
        if !removed {
            entry.neighbour = Neighbour::read(message);
            return Effect::Nothing;
        }
        entry.neighbour = match entry.neighbour {
            Neighbour::Known(mac) => Neighbour::Vanished(mac),
            _ => Neighbour::Missing,
        };
        Effect::Vanished(address)
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
        for (address, entry) in &mut self.0 {
            entry.dirty |= network.contains(address);
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

    fn hop(&self) -> Option<Hop> {
        Some(match self.way? {
            Way::Here => Hop::Here,
            Way::Via { gateway, interface } => Hop::Routed { gateway, interface },
            Way::None => Hop::Unreachable,
            Way::OnLink { interface } => match self.neighbour {
                Neighbour::Known(mac) | Neighbour::Fixed(mac) | Neighbour::Vanished(mac) => {
                    Hop::Neighbour { mac, interface }
                }
                Neighbour::Missing
                | Neighbour::Asking
                | Neighbour::Failed
                | Neighbour::Unusable => Hop::Unresolved { interface },
            },
        })
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;

//! Makes the maps say what is desired: what is new first, then the switch, then what is old goes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use aya::maps::MapError;
use kube_vip_common::address::{Address, MacAddress};
use kube_vip_common::backend::{Backend, IN_USE};
use kube_vip_common::filter::{self, Bit, Filter};
use kube_vip_common::frontend::{
    Affinity, CLIENT_AFFINITY, Frontend, FrontendKey, HOST_ADDRESS, Protocol,
};
use kube_vip_common::node::{Node, Peer, PeerKey, THIS_NODE};
use kube_vip_common::settings::{LOG, Settings};
use kube_vip_common::table::{Line, TableSize};
use kube_vip_common::vip::{HELD, SERVED, VIRTUAL, Vip};

use super::counters;
use super::ids::{Full, Ids};
use super::object::Maps;
use super::places::Places;
use super::sys::{self, Pattern, SysError};
use super::tables::{Entry, Recipe};
use crate::config::Limits;
use crate::plan::{self, DataPlane, Way};

/// Index into `LEASES` of the one lease there is while nobody but the file elects.
pub const LEASE: u32 = 0;

/// A map could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// By aya.
    #[error("writing {map}")]
    Map {
        /// Which map.
        map: &'static str,
        /// What the kernel said.
        source: MapError,
    },
    /// By a system call of our own.
    #[error(transparent)]
    Sys(#[from] SysError),
    /// It has no room.
    #[error(transparent)]
    Full(#[from] Full),
}

/// A balanced port: address, port, protocol.
pub type Port = (IpAddr, u16, Protocol);

/// A backend's identity in the kernel: protocol, address and port.
pub type Server = (Protocol, SocketAddr);

/// What the maps hold, as far as it has been written.
pub struct Mirror {
    nodes: Ids<String>,
    node_values: BTreeMap<u32, Node>,
    /// Hosts that an earlier agent numbered, not met again yet.
    leftover_nodes: BTreeMap<u32, Node>,
    peers: BTreeMap<MacAddress, u32>,
    backends: Ids<Server>,
    /// A change of size is a new table, so the size is part of the identity.
    frontends: Ids<(Port, TableSize)>,
    ports: BTreeMap<Port, Frontend>,
    places: Places,
    recipes: BTreeMap<u32, Recipe>,
    vips: BTreeMap<IpAddr, Vip>,
    /// Where packets are or were delivered on this host: connections to a backend that was removed
    /// go on until they end, so their replies are still looked for.
    served: BTreeSet<SocketAddr>,
    pattern: Pattern,
}

/// What a reconcile changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Tables computed and swapped.
    pub tables: usize,
    /// Frontends added, changed or removed.
    pub frontends: usize,
    /// Addresses added, changed or removed.
    pub vips: usize,
}

fn map_error(map: &'static str) -> impl FnOnce(MapError) -> SyncError {
    move |source| SyncError::Map { map, source }
}

impl Mirror {
    /// Maps that hold nothing yet.
    ///
    /// # Errors
    ///
    /// The kernel does not tell the types of `TABLE`.
    pub fn new(maps: &Maps, limits: &Limits) -> Result<Self, SyncError> {
        Ok(Self {
            nodes: Ids::new(u32::from(THIS_NODE) + 1, 256),
            node_values: BTreeMap::new(),
            leftover_nodes: BTreeMap::new(),
            peers: BTreeMap::new(),
            // 0 is nobody.
            backends: Ids::new(1, limits.backends),
            frontends: Ids::new(0, limits.frontends),
            ports: BTreeMap::new(),
            places: Places::default(),
            recipes: BTreeMap::new(),
            vips: BTreeMap::new(),
            served: BTreeSet::new(),
            pattern: Pattern::of(maps.table.fd().as_fd(), "TABLE")?,
        })
    }

    /// Takes up what an earlier agent left in the maps, so that connections keep their numbers.
    pub fn recover(&mut self, maps: &Maps) {
        for (key, frontend) in maps.frontends.iter().filter_map(Result::ok) {
            if let Some(size) = TableSize::from_slots(frontend.slots) {
                let port = port(&key);
                self.frontends.adopt((port, size), frontend.id);
                self.ports.insert(port, frontend);
            }
        }
        for id in 1..maps.backends.len() {
            match maps.backends.get(&id, 0) {
                Ok(Backend { address, port, flags, protocol, .. }) if flags & IN_USE != 0 => {
                    let server =
                        (protocol_of(protocol.into()), SocketAddr::new(address.to_ip(), port));
                    self.backends.adopt(server, id);
                    self.served.insert(server.1);
                }
                _ => {}
            }
        }
        for id in u32::from(THIS_NODE) + 1..maps.nodes.len() {
            match maps.nodes.get(&id, 0) {
                Ok(node) if node != Node::default() => {
                    self.leftover_nodes.insert(id, node);
                }
                _ => {}
            }
        }
        let known = |(address, vip): (Address, Vip)| (address.to_ip(), vip);
        self.vips = maps.vips.iter().filter_map(Result::ok).map(known).collect();
        self.peers = maps
            .peers
            .iter()
            .filter_map(Result::ok)
            .map(|(key, peer)| (key.mac, peer.node))
            .collect();
    }

    /// The number of a frontend, for its counters.
    pub fn frontend_id(&self, port: &Port) -> Option<u32> {
        self.ports.get(port).map(|frontend| frontend.id)
    }

    /// The number of a backend, for its counters.
    pub fn backend_id(&self, backend: &Server) -> Option<u32> {
        self.backends.get(backend)
    }

    /// Brings the maps to what is desired. `closed` is the port that refuses (0: none).
    ///
    /// # Errors
    ///
    /// The first map that could not be written; what was written stays, and works.
    pub fn apply(
        &mut self,
        maps: &mut Maps,
        desired: &DataPlane,
        closed: u16,
    ) -> Result<Changes, SyncError> {
        let mut changes = Changes::default();
        let flags = if desired.logging { LOG } else { 0 };
        maps.settings
            .set(0, Settings { flags, closed_port: closed, pad: 0 }, 0)
            .map_err(map_error("SETTINGS"))?;
        self.add_nodes(maps, desired)?;
        let recipes = self.add_backends(maps, desired)?;
        self.served.extend(local_backends(desired));
        self.served.extend(closed_ports(desired, closed));
        let vips = vips(desired, &self.served, |owner| self.node_id(desired, owner));
        let old = self.vips.keys().chain(vips.keys());
        self.write_filters(maps, old)?;
        for (address, vip) in &vips {
            if self.vips.get(address) != Some(vip) {
                maps.vips.insert(Address::from(*address), vip, 0).map_err(map_error("VIPS"))?;
                self.vips.insert(*address, *vip);
                changes.vips += 1;
            }
        }
        changes.tables = self.swap_tables(maps, recipes)?;
        changes.frontends = self.switch_frontends(maps, desired)?;
        // From here on only what nothing points to any more.
        let gone: Vec<_> = self.vips.keys().filter(|ip| !vips.contains_key(ip)).copied().collect();
        for address in gone {
            let removed = maps.vips.remove(&Address::from(address));
            ignore_missing(removed).map_err(map_error("VIPS"))?;
            self.vips.remove(&address);
            changes.vips += 1;
        }
        self.release_backends(maps, desired)?;
        self.release_nodes(maps, desired)?;
        self.write_filters(maps, vips.keys())?;
        Ok(changes)
    }

    fn node_id(&self, desired: &DataPlane, name: &str) -> Option<u32> {
        match desired.nodes.get(name) {
            Some(node) if node.local => Some(u32::from(THIS_NODE)),
            _ => self.nodes.get(&name.to_owned()),
        }
    }

    fn add_nodes(&mut self, maps: &mut Maps, desired: &DataPlane) -> Result<(), SyncError> {
        let own = desired.nodes.values().find(|node| node.local).and_then(|node| node.hop);
        for (name, node) in &desired.nodes {
            let first = |v4: bool| {
                let mut family = node.addresses.iter().filter(|ip| ip.is_ipv4() == v4);
                family.next().copied().map(Address::from).unwrap_or_default()
            };
            let id = if node.local {
                u32::from(THIS_NODE)
            } else {
                let same = |old: &Node| (old.v4, old.v6) == (first(true), first(false));
                let left = self.leftover_nodes.iter().find(|(_, old)| same(old));
                if let Some(id) = left.map(|(id, _)| *id) {
                    self.leftover_nodes.remove(&id);
                    self.nodes.adopt(name.clone(), id);
                }
                self.nodes.get_or_take(name, "nodes")?
            };
            let (mac, ifindex) = node.hop.unwrap_or_default();
            let source = own.map(|(mac, _)| mac).unwrap_or_default();
            let value = Node {
                mac: MacAddress::new(mac.0),
                source_mac: MacAddress::new(source.0),
                // Nothing is forwarded to this host.
                ifindex: if node.local { 0 } else { ifindex },
                v4: first(true),
                v6: first(false),
            };
            if self.node_values.get(&id) != Some(&value) {
                maps.nodes.set(id, value, 0).map_err(map_error("NODES"))?;
                self.node_values.insert(id, value);
            }
            if node.hop.is_some() && self.peers.get(&value.mac) != Some(&id) {
                maps.peers
                    .insert(PeerKey::new(mac.0), Peer { node: id }, 0)
                    .map_err(map_error("PEERS"))?;
                self.peers.insert(value.mac, id);
            }
        }
        Ok(())
    }

    fn release_nodes(&mut self, maps: &mut Maps, desired: &DataPlane) -> Result<(), SyncError> {
        let current: BTreeSet<_> = desired
            .nodes
            .values()
            .filter_map(|node| node.hop.map(|(mac, _)| MacAddress::new(mac.0)))
            .collect();
        let stale: Vec<_> =
            self.peers.keys().filter(|mac| !current.contains(mac)).copied().collect();
        for mac in stale {
            ignore_missing(maps.peers.remove(&PeerKey::new(mac.octets))).map_err(map_error("PEERS"))?;
            self.peers.remove(&mac);
        }
        let left = |name: &String| desired.nodes.get(name).is_none_or(|node| node.local);
        let gone: Vec<_> = self.nodes.iter().map(|(n, _)| n).filter(|n| left(n)).cloned().collect();
        for name in gone {
            if let Some(id) = self.nodes.release(&name) {
                maps.nodes.set(id, Node::default(), 0).map_err(map_error("NODES"))?;
                self.node_values.remove(&id);
            }
        }
        Ok(())
    }

    /// Gives every usable backend a number and returns the tables that should be.
    fn add_backends(
        &mut self,
        maps: &mut Maps,
        desired: &DataPlane,
    ) -> Result<Vec<(Port, Recipe)>, SyncError> {
        let mut new = Vec::new();
        let recipes = self.number_backends(desired, &mut new).and_then(|recipes| {
            let ids: Vec<u32> = new.iter().map(|(_, id, _)| *id).collect();
            let values: Vec<Backend> = new.iter().map(|(.., value)| *value).collect();
            ids.iter().for_each(|id| counters::clear(&mut maps.backend_stats, *id));
            sys::update_batch(maps.backends_fd.as_fd(), "BACKENDS", &ids, &values)?;
            Ok(recipes)
        });
        if recipes.is_err() {
            // A number that was not written must not be taken for known the next time.
            for (server, ..) in &new {
                self.backends.release(server);
            }
        }
        recipes
    }

    fn number_backends(
        &mut self,
        desired: &DataPlane,
        new: &mut Vec<(Server, u32, Backend)>,
    ) -> Result<Vec<(Port, Recipe)>, SyncError> {
        let mut recipes = Vec::new();
        for (port, frontend) in &desired.frontends {
            let mut entries = Vec::with_capacity(frontend.backends.len());
            for (address, backend) in &frontend.backends {
                let Some(node) = usable(backend).and_then(|name| self.node_id(desired, name))
                else {
                    continue;
                };
                let server = (port.2, *address);
                let (node, known) = (node as u16, self.backends.get(&server).is_some());
                let id = self.backends.get_or_take(&server, "backends")?;
                if !known {
                    let value = Backend {
                        address: address.ip().into(),
                        port: address.port(),
                        flags: IN_USE,
                        protocol: port.2 as u8,
                        pad: [0; 3],
                    };
                    new.push((server, id, value));
                }
                let weight = backend.weight;
                entries.push(Entry { address: *address, weight, backend: id, node });
            }
            recipes.push((*port, Recipe { size: frontend.size, seed: frontend.seed, entries }));
        }
        Ok(recipes)
    }

    fn release_backends(&mut self, maps: &mut Maps, desired: &DataPlane) -> Result<(), SyncError> {
        let used: BTreeSet<Server> = desired
            .frontends
            .iter()
            .flat_map(|(port, frontend)| frontend.backends.iter().map(|entry| (port.2, entry)))
            .filter(|(_, (_, backend))| usable(backend).is_some())
            .map(|(protocol, (address, _))| (protocol, *address))
            .collect();
        let gone: Vec<_> =
            self.backends.iter().map(|(b, _)| *b).filter(|b| !used.contains(b)).collect();
        let ids: Vec<_> =
            gone.iter().filter_map(|backend| self.backends.release(backend)).collect();
        let values = vec![Backend::default(); ids.len()];
        Ok(sys::update_batch(maps.backends_fd.as_fd(), "BACKENDS", &ids, &values)?)
    }

    /// Fills new tables and puts them all in place with one call.
    fn swap_tables(
        &mut self,
        maps: &Maps,
        recipes: Vec<(Port, Recipe)>,
    ) -> Result<usize, SyncError> {
        let mut filled: Vec<(u32, Recipe, OwnedFd)> = Vec::new();
        for (port, recipe) in recipes {
            let id = self.frontends.get_or_take(&(port, recipe.size), "frontends")?;
            if self.recipes.get(&id) == Some(&recipe) {
                continue;
            }
            let lines = recipe.lines();
            let table = self.pattern.create(lines.len() as u32)?;
            let keys: Vec<u32> = (0..lines.len() as u32).collect();
            sys::update_batch::<u32, Line>(table.as_fd(), "a table", &keys, &lines)?;
            filled.push((id, recipe, table));
        }
        let ids: Vec<u32> = filled.iter().map(|(id, ..)| *id).collect();
        let fds: Vec<u32> = filled.iter().map(|(.., fd)| fd.as_raw_fd().cast_unsigned()).collect();
        sys::update_batch(maps.tables.fd().as_fd(), "TABLES", &ids, &fds)?;
        self.recipes.extend(filled.into_iter().map(|(id, recipe, _)| (id, recipe)));
        Ok(ids.len())
    }

    fn switch_frontends(
        &mut self,
        maps: &mut Maps,
        desired: &DataPlane,
    ) -> Result<usize, SyncError> {
        let (mut keys, mut values, mut old) = (Vec::new(), Vec::new(), Vec::new());
        for (port, frontend) in &desired.frontends {
            let id = self.frontends.get_or_take(&(*port, frontend.size), "frontends")?;
            let affinity = frontend.affinity == Affinity::ClientIp;
            let flags = if affinity { CLIENT_AFFINITY } else { 0 }
                | if frontend.host_address { HOST_ADDRESS } else { 0 };
            let value =
                Frontend { seed: frontend.seed, id, slots: frontend.size.slots(), flags, pad: 0 };
            let before = self.ports.get(port);
            if before == Some(&value) {
                continue;
            }
            if before.is_none_or(|before| before.id != id) {
                counters::clear(&mut maps.frontend_stats, id);
            }
            keys.push(key(port));
            values.push(value);
            old.extend(before.and_then(|before| {
                let size = TableSize::from_slots(before.slots)?;
                (before.id != id).then_some((*port, size))
            }));
        }
        sys::update_batch(maps.frontends_fd.as_fd(), "FRONTENDS", &keys, &values)?;
        self.ports.extend(keys.iter().zip(&values).map(|(key, value)| (port(key), *value)));
        let gone: Vec<_> = self
            .ports
            .keys()
            .filter(|port| !desired.frontends.contains_key(port))
            .copied()
            .collect();
        for port in &gone {
            ignore_missing(maps.frontends.remove(&key(port))).map_err(map_error("FRONTENDS"))?;
            let size = self.ports.remove(port).and_then(|value| TableSize::from_slots(value.slots));
            old.extend(size.map(|size| (*port, size)));
        }
        self.switch_places(maps, &keys, &gone)?;
        for identity in old {
            if let Some(id) = self.frontends.release(&identity) {
                self.recipes.remove(&id);
                // The slot keeps the old table until its number is used again: removing it would
                // wait for a grace period each.
            }
        }
        Ok(keys.len() + gone.len())
    }

    fn switch_places(
        &mut self,
        maps: &Maps,
        changed: &[FrontendKey],
        gone: &[Port],
    ) -> Result<(), SyncError> {
        let changed: Vec<_> = if self.places.are_unknown() {
            self.ports.iter().map(|(port, frontend)| (key(port), *frontend)).collect()
        } else {
            changed.iter().filter_map(|key| Some((*key, *self.ports.get(&port(key))?))).collect()
        };
        let gone: Vec<_> = gone.iter().map(key).collect();
        Ok(self.places.update(maps, &changed, &gone)?)
    }

    fn write_filters<'a>(
        &self,
        maps: &mut Maps,
        addresses: impl Iterator<Item = &'a IpAddr>,
    ) -> Result<(), SyncError> {
        let mut filter = Box::new(Filter::EMPTY);
        addresses.for_each(|ip| Bit::of_ip(*ip).set(&mut filter));
        maps.filter.set(filter::ADDRESSES, *filter, 0).map_err(map_error("FILTER"))?;
        *filter = Filter::EMPTY;
        self.served.iter().for_each(|b| Bit::of_ip(b.ip()).with_port(b.port()).set(&mut filter));
        maps.filter.set(filter::BACKENDS, *filter, 0).map_err(map_error("FILTER"))
    }
}

/// The name of the node a backend is on, if packets get there.
fn usable(backend: &plan::Backend) -> Option<&str> {
    match backend.way {
        Way::Here | Way::Peer => backend.node.as_deref(),
        Way::None(_) => None,
    }
}

fn key((address, port, protocol): &Port) -> FrontendKey {
    FrontendKey { address: (*address).into(), port: *port, protocol: *protocol as u16, pad: 0 }
}

fn port(key: &FrontendKey) -> Port {
    (key.address.to_ip(), key.port, protocol_of(key.protocol))
}

fn protocol_of(number: u16) -> Protocol {
    if number == Protocol::Udp as u16 { Protocol::Udp } else { Protocol::Tcp }
}

fn local_backends(desired: &DataPlane) -> impl Iterator<Item = SocketAddr> {
    let backends = desired.frontends.values().flat_map(|frontend| &frontend.backends);
    backends.filter(|(_, backend)| backend.way == Way::Here).map(|(address, _)| *address)
}

/// Where segments are refused: the closed port on this host's first address of each family.
fn closed_ports(desired: &DataPlane, port: u16) -> impl Iterator<Item = SocketAddr> {
    let local = desired.nodes.values().find(|node| node.local && port != 0);
    let addresses = local.map(|node| node.addresses.as_slice()).unwrap_or_default();
    addresses.iter().map(move |ip| SocketAddr::new(*ip, port))
}

/// `VIPS` as it should be: the desired addresses, and those that packets are delivered to here.
fn vips(
    desired: &DataPlane,
    served: &BTreeSet<SocketAddr>,
    node: impl Fn(&str) -> Option<u32>,
) -> BTreeMap<IpAddr, Vip> {
    let mut vips: BTreeMap<_, _> = desired
        .vips
        .iter()
        .map(|(address, vip)| {
            let mut flags = if vip.host_address { 0 } else { VIRTUAL };
            flags |= if vip.held { HELD } else { 0 };
            let owner = vip.owner.as_deref().and_then(&node).unwrap_or(0);
            (*address, Vip { flags, lease: LEASE, owner })
        })
        .collect();
    for backend in served {
        let vip = vips.entry(backend.ip()).or_insert(Vip { flags: HELD, lease: LEASE, owner: 0 });
        vip.flags |= SERVED;
    }
    vips
}

/// Removing what is not there is no error.
fn ignore_missing(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        Err(MapError::KeyNotFound) => Ok(()),
        result => result,
    }
}

//! Makes the maps say what is desired: what is new first, then the switch, then what is old goes.

mod addresses;
mod backends;
mod drains;
mod frontends;
mod leases;
mod nodes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;

use aya::maps::MapError;
use kube_vip_common::address::{Address, MacAddress};
use kube_vip_common::backend::{Backend, DOWN, IN_USE};
use kube_vip_common::frontend::{Frontend, Protocol};
use kube_vip_common::lease::LEASES;
use kube_vip_common::node::{Node, THIS_NODE};
use kube_vip_common::settings::{ALL_CLIENTS, LOG, Settings, TRANSLATES};
use kube_vip_common::table::TableSize;
use kube_vip_common::vip::{VIRTUAL, Vip};
use tracing::warn;

use self::addresses::{Numbers, closed_ports, vips};
use self::backends::local_backends;
use self::drains::Drains;
use self::frontends::{port, protocol_of};
use super::ids::{Full, Ids};
use super::object::Maps;
use super::pins::TablePins;
use super::places::Places;
use super::sys::{Pattern, SysError, network_namespace};
use super::tables::Recipe;
use crate::config::{Limits, LocalClients};
use crate::plan::DataPlane;

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
    peer_ips: BTreeMap<IpAddr, u32>,
    backends: Ids<Server>,
    /// Those that the maps say are down.
    down: BTreeSet<Server>,
    /// A change of size is a new table, so the size is part of the identity.
    frontends: Ids<(Port, TableSize)>,
    ports: BTreeMap<Port, Frontend>,
    places: Places,
    recipes: BTreeMap<u32, Recipe>,
    /// Hosts that histories in the tables may name.
    remembered: BTreeSet<u32>,
    /// Frontends whose table is an earlier agent's.
    leftover_tables: BTreeSet<u32>,
    vips: BTreeMap<IpAddr, Vip>,
    leases: Ids<String>,
    /// Of addresses in an earlier agent's maps.
    leftover_leases: BTreeMap<IpAddr, u32>,
    /// Where packets are or were delivered on this host: connections to a backend that was removed
    /// go on until they end, so their replies are still looked for.
    served: BTreeSet<SocketAddr>,
    drains: Drains,
    table_pins: TablePins,
    pattern: Pattern,
    /// As in [`Settings::namespace`].
    namespace: u64,
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
            peer_ips: BTreeMap::new(),
            // 0 is nobody.
            backends: Ids::new(1, limits.backends),
            down: BTreeSet::new(),
            frontends: Ids::new(0, limits.frontends),
            ports: BTreeMap::new(),
            places: Places::default(),
            recipes: BTreeMap::new(),
            remembered: BTreeSet::new(),
            leftover_tables: BTreeSet::new(),
            vips: BTreeMap::new(),
            leases: Ids::new(0, LEASES as u32),
            leftover_leases: BTreeMap::new(),
            served: BTreeSet::new(),
            drains: Drains::default(),
            table_pins: TablePins::default(),
            pattern: Pattern::of(maps.table.fd().as_fd(), "TABLE")?,
            namespace: network_namespace().unwrap_or(0),
        })
    }

    /// Pins tables from now on.
    pub(super) fn pin_tables(&mut self, pins: TablePins) {
        self.table_pins = pins;
    }

    /// Takes up what an earlier agent left in the maps, so that connections keep their numbers.
    pub fn recover(&mut self, maps: &Maps) {
        for (key, frontend) in maps.frontends.iter().filter_map(Result::ok) {
            if let Some(size) = TableSize::from_slots(frontend.slots) {
                let port = port(&key);
                self.frontends.adopt((port, size), frontend.id);
                self.leftover_tables.insert(frontend.id);
                self.ports.insert(port, frontend);
            }
        }
        for id in 1..maps.backends.len() {
            match maps.backends.get(&id, 0) {
                Ok(Backend { address, port, flags, protocol, .. }) if flags & IN_USE != 0 => {
                    let server =
                        (protocol_of(protocol.into()), SocketAddr::new(address.to_ip(), port));
                    self.backends.adopt(server, id);
                    if flags & DOWN != 0 {
                        self.down.insert(server);
                    }
                    self.served.insert(server.1);
                }
                _ => {}
            }
        }
        match self.drains.recover(maps) {
            Ok(servers) => self.served.extend(servers.iter().map(|(_, address)| *address)),
            Err(error) => warn!("connections to backends that were removed may end: {error}"),
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
        let fenced = self.vips.iter().filter(|(_, vip)| vip.flags & VIRTUAL != 0);
        self.leftover_leases = fenced.map(|(address, vip)| (*address, vip.lease)).collect();
        self.peers = maps
            .peers
            .iter()
            .filter_map(Result::ok)
            .map(|(key, peer)| (key.mac, peer.node))
            .collect();
        self.peer_ips = maps
            .peer_ips
            .iter()
            .filter_map(Result::ok)
            .map(|(address, peer)| (address.to_ip(), peer.node))
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
        let owner = desired.nodes.iter().find(|(_, node)| node.local).map(|(name, _)| name);
        let owns =
            desired.vips.values().any(|vip| vip.owner.is_some() && vip.owner.as_ref() == owner);
        let mut flags = if desired.logging { LOG } else { 0 };
        flags |= if desired.clients.whose == LocalClients::All { ALL_CLIENTS } else { 0 };
        flags |= if owns { TRANSLATES } else { 0 };
        let settings = Settings {
            flags,
            closed_port: closed,
            probe_port: desired.probe_port,
            digest: desired.digest,
            namespace: self.namespace,
            nat_ports: desired.nat_ports,
            udp_idle: desired.udp_idle.as_secs() as u32,
            mss4: desired.mss.v4,
            mss6: desired.mss.v6,
            abandoned_after: desired.abandoned_after.as_secs() as u32,
        };
        maps.settings.set(0, settings, 0).map_err(map_error("SETTINGS"))?;
        self.add_nodes(maps, desired)?;
        let recipes = self.add_backends(maps, desired)?;
        self.served.extend(local_backends(desired));
        self.served.extend(closed_ports(desired, closed));
        self.number_leases(desired)?;
        let numbers = Numbers {
            node: &|owner| self.node_id(desired, owner),
            lease: &|lease| self.leases.get(&lease.to_owned()),
        };
        let vips = vips(desired, &self.served, &numbers);
        self.write_filters(maps, &self.vips.iter().chain(&vips), desired)?;
        for (address, vip) in &vips {
            if self.vips.get(address) != Some(vip) {
                maps.vips.insert(Address::from(*address), vip, 0).map_err(map_error("VIPS"))?;
                self.vips.insert(*address, *vip);
                changes.vips += 1;
            }
        }
        let kept = self.kept_nodes(desired);
        changes.tables = self.swap_tables(maps, recipes, &kept)?;
        self.mark_down(maps, desired)?;
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
        self.drains.end(maps, desired)?;
        self.release_nodes(maps, desired)?;
        self.release_leases(desired);
        self.write_filters(maps, &vips.iter(), desired)?;
        Ok(changes)
    }
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

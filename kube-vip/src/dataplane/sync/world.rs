//! What the maps say, in one piece: see [`World`].

use std::sync::Arc;

use kube_vip_common::frontend::Affinity;

use super::super::records::Link;
use super::super::world::{Balanced, World};
use super::backends::usable;
use super::{Mirror, Server};
use crate::plan::{Backend, DataPlane, NextHop};
use crate::view::Mac;

impl Mirror {
    /// What the maps say once `desired` has been applied. `interface` is the one VIPs are on.
    pub fn world(&self, desired: &DataPlane, interface: &str) -> World {
        let uplink = desired.uplinks.get(interface).map(|uplink| (uplink.index, uplink.mac));
        let mut world = World { uplink, ..World::default() };
        for (name, node) in &desired.nodes {
            if let Some(id) = self.node_id(desired, name).filter(|_| !node.local) {
                world.nodes.insert(name.clone(), id);
                world.names.insert(id as u8, name.clone());
            }
        }
        for (name, tunnel) in &desired.tunnels {
            if let Some(id) = self.node_id(desired, name) {
                world.names.insert(id as u8, tunnel.peer.clone());
            }
        }
        let local = desired.nodes.iter().find(|(_, node)| node.local).map(|(name, _)| name);
        for (address, vip) in desired.vips.iter().filter(|(_, vip)| !vip.host_address) {
            match &vip.owner {
                Some(owner) if Some(owner) != local => {
                    world.owners.insert(*address, owner.clone());
                }
                _ if vip.grant.is_some() => drop(world.owned.insert(*address)),
                _ => {}
            }
        }
        for (port, frontend) in &desired.frontends {
            let Some(recipe) = self.ports.get(port).and_then(|known| self.recipes.get(&known.id))
            else {
                continue;
            };
            let balanced = Balanced {
                from_node: frontend.from_node,
                by_client: frontend.affinity == Affinity::ClientIp,
                recipe: Arc::clone(recipe),
            };
            world.frontends.insert(*port, balanced);
            for (address, backend) in &frontend.backends {
                let server: Server = (port.2, *address);
                if let Some(id) = self.backends.get(&server) {
                    let link = way(desired, backend, address.is_ipv4());
                    world.backends.insert(server, (id, link));
                }
            }
        }
        world
    }
}

/// The way of translated packets to a backend.
fn way(desired: &DataPlane, backend: &Backend, v4: bool) -> Option<Link> {
    let name = usable(backend)?;
    let hop = match desired.hops.get(&*name) {
        Some(hop) => hop,
        None => match desired.tunnels.get(&*name) {
            Some(tunnel) => tunnel.hop(v4)?,
            None => desired.nodes.get(&*name).filter(|node| !node.local)?.hop(v4)?,
        },
    };
    Some(Link { interface: hop.interface, there: hop.mac, own: source(desired, hop)? })
}

/// This host's address on the interface of a next hop.
fn source(desired: &DataPlane, hop: &NextHop) -> Option<Mac> {
    let uplink = desired.uplinks.values().find(|uplink| uplink.index == hop.interface);
    Some(uplink?.mac)
}

//! What the maps say of hosts, backends and tables, for whoever reads or writes records beside the
//! driver.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use kube_vip_common::hash;
use kube_vip_common::node::THIS_NODE;

use super::records::{Flow, Link};
use super::sync::{Port, Server};
use super::tables::Recipe;
use crate::view::Mac;

/// A state of the maps. Nothing of it changes any more.
#[derive(Clone, Default)]
pub struct World {
    /// The balanced ports.
    pub frontends: BTreeMap<Port, Balanced>,
    /// Backends: index into `BACKENDS`, and the way there, where it is known.
    pub backends: BTreeMap<Server, (u32, Option<Link>)>,
    /// Index into `NODES` of each other host that takes part, by id.
    pub nodes: BTreeMap<String, u32>,
    /// The id of the host that an index into `NODES` leads to.
    pub names: BTreeMap<u8, String>,
    /// VIPs that this host owns.
    pub owned: BTreeSet<IpAddr>,
    /// The other hosts that own VIPs, by id.
    pub owners: BTreeMap<IpAddr, String>,
    /// The interface that VIPs are on, and this host's address there.
    pub uplink: Option<(u32, Mac)>,
}

/// A balanced port.
#[derive(Clone)]
pub struct Balanced {
    /// Translated connections come from this host's own address.
    pub from_node: bool,
    /// The client's address alone chooses the slot.
    pub by_client: bool,
    pub(super) recipe: Arc<Recipe>,
}

impl Balanced {
    /// The index into `NODES` that each slot leads to; 0 where it leads nowhere.
    pub fn slots(&self) -> Vec<u8> {
        self.recipe.nodes()
    }

    /// The slot of a connection.
    pub fn slot(&self, flow: &Flow) -> Option<usize> {
        let (seed, slots) = (self.recipe.seed, self.recipe.size.slots());
        let hash = match self.by_client {
            true => hash::of_client(seed, flow.client.ip()),
            false => hash::of_flow(seed, flow.client, flow.vip, flow.protocol)?,
        };
        Some(hash.slot(slots) as usize)
    }
}

impl World {
    /// A link to that hardware address on the interface that VIPs are on.
    pub fn on_uplink(&self, there: Mac) -> Option<Link> {
        let (interface, own) = self.uplink?;
        Some(Link { interface, there, own })
    }

    /// The number of a backend and the way there.
    pub fn backend(&self, server: &Server) -> Option<&(u32, Option<Link>)> {
        self.backends.get(server)
    }

    /// The host that gets packets of a VIP's slot: the one it leads to, or else, where no agent is
    /// there, the VIP's owner. Nothing where that is this host, or not known.
    pub fn holder(&self, vip: SocketAddr, node: u8) -> Option<&String> {
        if node == THIS_NODE as u8 {
            return None;
        }
        self.names.get(&node).or_else(|| self.owners.get(&vip.ip()))
    }
}

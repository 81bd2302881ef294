//! `BACKENDS`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use kube_vip_common::backend::{Backend, IN_USE};

use super::super::counters;
use super::super::object::Maps;
use super::super::sys;
use super::super::tables::{Entry, Recipe};
use super::{Mirror, Port, Server, SyncError};
use crate::plan::{self, DataPlane, Way};

impl Mirror {
    /// Gives every usable backend a number and returns the tables that should be.
    pub(super) fn add_backends(
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

    pub(super) fn number_backends(
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

    pub(super) fn release_backends(
        &mut self,
        maps: &mut Maps,
        desired: &DataPlane,
    ) -> Result<(), SyncError> {
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
}

/// The name of the node that packets to a backend go to, if they get there.
pub(super) fn usable(backend: &plan::Backend) -> Option<&str> {
    match &backend.way {
        Way::Here | Way::Peer => backend.node.as_deref(),
        Way::Nat(hop) => Some(hop),
        Way::None(_) => None,
    }
}

pub(super) fn local_backends(desired: &DataPlane) -> impl Iterator<Item = SocketAddr> {
    let backends = desired.frontends.values().flat_map(|frontend| &frontend.backends);
    backends.filter(|(_, backend)| backend.way == Way::Here).map(|(address, _)| *address)
}

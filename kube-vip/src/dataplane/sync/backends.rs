//! `BACKENDS`.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use kube_vip_common::backend::{Backend, DOWN, IN_USE};

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
                let Some(node) = usable(backend).and_then(|name| self.node_id(desired, &name))
                else {
                    continue;
                };
                let server = (port.2, *address);
                let (node, known) = (node as u16, self.backends.get(&server).is_some());
                let id = self.backends.get_or_take(&server, "backends")?;
                if !known {
                    new.push((server, id, value(&server, IN_USE)));
                }
                let weight = backend.share();
                entries.push(Entry { address: *address, weight, backend: id, node });
            }
            recipes.push((*port, Recipe { size: frontend.size, seed: frontend.seed, entries }));
        }
        Ok(recipes)
    }

    /// Says which backends are down; after the tables, so that UDP flows to them find another one.
    pub(super) fn mark_down(&mut self, maps: &Maps, desired: &DataPlane) -> Result<(), SyncError> {
        let of = |excluded: bool| {
            let frontends = desired.frontends.iter();
            let all = frontends.flat_map(|(port, frontend)| {
                frontend.backends.iter().map(move |(address, backend)| (port, address, backend))
            });
            all.filter(move |(.., backend)| backend.excluded == excluded)
                .map(|(port, address, _)| (port.2, *address))
        };
        let mut down: BTreeSet<Server> = of(true).collect();
        if !down.is_empty() {
            // Frontends may look at it in different ways.
            for server in of(false) {
                down.remove(&server);
            }
        }
        let changed = down.symmetric_difference(&self.down);
        let (ids, values): (Vec<u32>, Vec<Backend>) = changed
            .filter_map(|server| {
                let flags = if down.contains(server) { IN_USE | DOWN } else { IN_USE };
                Some((self.backends.get(server)?, value(server, flags)))
            })
            .unzip();
        sys::update_batch(maps.backends_fd.as_fd(), "BACKENDS", &ids, &values)?;
        self.down = down;
        Ok(())
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
        self.down.retain(|server| !gone.contains(server));
        let values = vec![Backend::default(); ids.len()];
        Ok(sys::update_batch(maps.backends_fd.as_fd(), "BACKENDS", &ids, &values)?)
    }
}

fn value((protocol, address): &Server, flags: u16) -> Backend {
    Backend {
        address: address.ip().into(),
        port: address.port(),
        flags,
        protocol: *protocol as u8,
        pad: [0; 3],
    }
}

/// The name of the node that packets to a backend go to, if they get there.
pub(super) fn usable(backend: &plan::Backend) -> Option<Cow<'_, str>> {
    match &backend.way {
        Way::Here | Way::Peer => backend.node.as_deref().map(Cow::Borrowed),
        Way::Tunnel => backend.node.as_deref().map(|peer| Cow::Owned(plan::Tunnel::name(peer))),
        Way::Nat(hop) => Some(Cow::Borrowed(hop)),
        Way::None(_) => None,
    }
}

pub(super) fn local_backends(desired: &DataPlane) -> impl Iterator<Item = SocketAddr> {
    let backends = desired.frontends.values().flat_map(|frontend| &frontend.backends);
    backends.filter(|(_, backend)| backend.way == Way::Here).map(|(address, _)| *address)
}

//! Backends here that take no new flows: after a time those they still have are ended too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::time::Instant;

use aya::Pod;
use aya::maps::MapData;
use kube_vip_common::flow::{Endpoint4, Endpoint6, Tuple4, Tuple6};

use super::super::object::Maps;
use super::super::sys::{self, SysError};
use super::Server;
use super::frontends::protocol_of;
use crate::plan::{DataPlane, Way};

/// Since when the backends that were ever here have been without new flows.
#[derive(Debug, Default)]
pub(super) struct Drains {
    here: BTreeSet<Server>,
    /// Nothing once their flows have been ended.
    since: BTreeMap<Server, Option<Instant>>,
}

impl Drains {
    /// Takes up those that flows are known of: an earlier agent may have removed them. Returns them.
    pub(super) fn recover(&mut self, maps: &Maps) -> Result<&BTreeSet<Server>, SysError> {
        let ([v4, _], [v6, _]) = (&maps.flows4, &maps.flows6);
        let here = &mut self.here;
        sys::read_batches(v4.fd().as_fd(), WHAT, |keys: &[Tuple4], values: &[Endpoint4]| {
            let pairs = keys.iter().zip(values);
            here.extend(pairs.map(|(key, at)| server(key.protocol, at.address.into(), at.port)));
        })?;
        sys::read_batches(v6.fd().as_fd(), WHAT, |keys: &[Tuple6], values: &[Endpoint6]| {
            let pairs = keys.iter().zip(values);
            here.extend(pairs.map(|(key, at)| server(key.protocol, at.address.into(), at.port)));
        })?;
        Ok(&self.here)
    }

    /// Ends the flows of those that have been draining for longer than is allowed: the next segment
    /// of such a connection finds no record and is refused.
    pub(super) fn end(&mut self, maps: &Maps, desired: &DataPlane) -> Result<(), SysError> {
        let entries = desired.frontends.iter().flat_map(|(port, frontend)| {
            frontend.backends.iter().map(|(address, backend)| ((port.2, *address), backend))
        });
        let mut serving = BTreeSet::new();
        for (server, backend) in entries {
            if backend.way == Way::Here {
                self.here.insert(server);
            }
            if backend.weight > 0 {
                serving.insert(server);
            }
        }
        self.since.retain(|server, _| !serving.contains(server));
        let now = Instant::now();
        for server in self.here.difference(&serving) {
            self.since.entry(*server).or_insert(Some(now));
        }
        let Some(limit) = desired.drain_timeout else {
            return Ok(());
        };
        let over = |since: &Option<Instant>| since.is_some_and(|since| now - since >= limit);
        let ended: BTreeSet<_> =
            self.since.iter().filter(|(_, since)| over(since)).map(|(server, _)| *server).collect();
        if ended.is_empty() {
            return Ok(());
        }
        for map in &maps.flows4 {
            forget(map, |tuple: &Tuple4, endpoint: &Endpoint4| {
                ended.contains(&server(tuple.protocol, endpoint.address.into(), endpoint.port))
            })?;
        }
        for map in &maps.flows6 {
            forget(map, |tuple: &Tuple6, endpoint: &Endpoint6| {
                ended.contains(&server(tuple.protocol, endpoint.address.into(), endpoint.port))
            })?;
        }
        self.since.extend(ended.into_iter().map(|server| (server, None)));
        Ok(())
    }
}

const WHAT: &str = "a map of flows";

fn server(protocol: u32, address: IpAddr, port: u16) -> Server {
    (protocol_of(protocol as u16), SocketAddr::new(address, port))
}

fn forget<K: Pod + Default, V: Pod + Default>(
    map: &MapData,
    ended: impl Fn(&K, &V) -> bool,
) -> Result<(), SysError> {
    let mut gone = Vec::new();
    sys::read_batches(map.fd().as_fd(), WHAT, |keys: &[K], values: &[V]| {
        let pairs = keys.iter().zip(values).filter(|(key, value)| ended(key, value));
        gone.extend(pairs.map(|(key, _)| *key));
    })?;
    gone.iter().try_for_each(|key| sys::remove(map.fd().as_fd(), WHAT, key))
}

//! `TABLES` and `TABLES_SIZED`, `FRONTENDS` and the shorter way to them.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use kube_vip_common::frontend::{
    Affinity, CLIENT_AFFINITY, FROM_NODE, Frontend, FrontendKey, HOST_ADDRESS, Protocol, SILENT,
};
use kube_vip_common::rate;
use kube_vip_common::table::{Line, TableSize, USUAL_LINES};

use super::super::history::{Before, Words};
use super::super::object::Maps;
use super::super::sys::{self, Length};
use super::super::tables::Recipe;
use super::super::{clock, counters};
use super::{Mirror, Port, SyncError, ignore_missing, map_error};
use crate::plan::DataPlane;

impl Mirror {
    /// Fills new tables and puts them all in place with one call. Each carries the histories of its
    /// slots, which follow from the table it replaces; hosts that are not `kept` are left out.
    pub(super) fn swap_tables(
        &mut self,
        maps: &Maps,
        recipes: Vec<(Port, Recipe)>,
        kept: &BTreeSet<u32>,
    ) -> Result<usize, SyncError> {
        let keeps = |node: u8| kept.contains(&node.into());
        let all_kept = self.remembered.is_subset(kept);
        self.remembered.extend(kept);
        let changed = clock::seconds();
        let mut filled: Vec<(u32, Recipe, OwnedFd)> = Vec::new();
        for (port, recipe) in recipes {
            let id = self.frontends.get_or_take(&(port, recipe.size), "frontends")?;
            let same = self.recipes.get(&id).is_some_and(|known| **known == recipe);
            if same && all_kept {
                continue;
            }
            let before = self.table_before(maps, id, recipe.size)?;
            if same && before.as_ref().is_none_or(|before| !before.names_other_than(keeps)) {
                continue;
            }
            let mut new = recipe.table();
            let before = before.unwrap_or_else(|| match recipe.without_this_host() {
                Some(others) => Before::of(&others.table().slots),
                None => Before::of(&new.slots),
            });
            let pasts = before.follow(&mut new.slots, keeps);
            let lines = new.lines(&pasts, changed);
            // Of a usual table the rest stays empty.
            let (entries, length) = match recipe.size.is_usual() {
                true => (USUAL_LINES, Length::One),
                false => (lines.len() as u32, Length::Any),
            };
            let table = self.pattern.create(entries, length)?;
            let keys: Vec<u32> = (0..lines.len() as u32).collect();
            sys::update_batch::<u32, Line>(table.as_fd(), "a table", &keys, &lines)?;
            filled.push((id, recipe, table));
        }
        for usual in [true, false] {
            let (map, name) = outer(maps, usual);
            let tables = filled.iter().filter(|(_, recipe, _)| recipe.size.is_usual() == usual);
            let (ids, fds): (Vec<u32>, Vec<u32>) =
                tables.map(|(id, _, fd)| (*id, fd.as_raw_fd().cast_unsigned())).unzip();
            sys::update_batch(map, name, &ids, &fds)?;
        }
        for (id, _, table) in &filled {
            self.table_pins.put(*id, table.as_fd());
        }
        self.remembered.clone_from(kept);
        let count = filled.len();
        for (id, recipe, _) in filled {
            self.leftover_tables.remove(&id);
            self.recipes.insert(id, Arc::new(recipe));
        }
        Ok(count)
    }

    /// The frontend's table in the kernel, this agent's or an earlier one's.
    fn table_before(
        &self,
        maps: &Maps,
        id: u32,
        size: TableSize,
    ) -> Result<Option<Before>, SyncError> {
        if !self.recipes.contains_key(&id) && !self.leftover_tables.contains(&id) {
            return Ok(None);
        }
        let (map, name) = outer(maps, size.is_usual());
        let Some(number) = sys::inner_id(map, name, id)? else {
            return Ok(None);
        };
        let opened = self.table_pins.get(id, number).map_or_else(|| sys::map_by_id(number), Ok);
        let Ok(table) = opened else {
            // Not pinned, and not for us to open: the last host of each slot is still known.
            return Ok(self.recipes.get(&id).map(|recipe| Before::of(&recipe.table().slots)));
        };
        let mut lines = Vec::new();
        sys::read_batches(table.as_fd(), "a table", |_: &[u32], some: &[Words]| {
            lines.extend_from_slice(some);
        })?;
        Ok(Before::read(&lines, size.slots()))
    }

    pub(super) fn switch_frontends(
        &mut self,
        maps: &mut Maps,
        desired: &DataPlane,
    ) -> Result<usize, SyncError> {
        let (mut keys, mut values, mut old) = (Vec::new(), Vec::new(), Vec::new());
        for (port, frontend) in &desired.frontends {
            let id = self.frontends.get_or_take(&(*port, frontend.size), "frontends")?;
            let affinity = frontend.affinity == Affinity::ClientIp;
            let flags = if affinity { CLIENT_AFFINITY } else { 0 }
                | if frontend.host_address { HOST_ADDRESS } else { 0 }
                | if frontend.from_node { FROM_NODE } else { 0 }
                | if frontend.silent { SILENT } else { 0 };
            let (seed, slots) = (frontend.seed, frontend.size.slots());
            let interval = frontend.rate_limit.map_or(0, rate::interval);
            let value = Frontend { seed, id, slots, flags, interval };
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
                self.leftover_tables.remove(&id);
                // The slot keeps the old table until its number is used again: removing it would
                // wait for a grace period each.
            }
        }
        Ok(keys.len() + gone.len())
    }

    pub(super) fn switch_places(
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
}

/// The map that tables of the usual size are in, or the others.
fn outer(maps: &Maps, usual: bool) -> (BorrowedFd<'_>, &'static str) {
    let (map, name) =
        if usual { (&maps.tables, "TABLES") } else { (&maps.tables_sized, "TABLES_SIZED") };
    (map.fd().as_fd(), name)
}

pub(super) fn key((address, port, protocol): &Port) -> FrontendKey {
    FrontendKey { address: (*address).into(), port: *port, protocol: *protocol as u16, pad: 0 }
}

pub(super) fn port(key: &FrontendKey) -> Port {
    (key.address.to_ip(), key.port, protocol_of(key.protocol))
}

pub(super) fn protocol_of(number: u16) -> Protocol {
    match number {
        number if number == Protocol::Udp as u16 => Protocol::Udp,
        number if number == Protocol::Sctp as u16 => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}

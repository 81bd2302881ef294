//! The fence: writes until when this host owns what.
//!
//! An election *offers* terms, over and over, and the driver *takes up* the grant that they belong to
//! once everything is in place for it. Only then do terms get into the kernel, at once when they are
//! offered, whatever else the agent is busy with. What was given up stays so, whoever offers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{Array, MapData, MapError};
use kube_vip_common::lease::{LEASES, Lease};

use super::boot_time::boot_time;

/// A handle to `LEASES`; all copies are the same fence.
#[derive(Clone)]
pub struct Fence {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    /// Where there are no kernel programs nothing is fenced.
    map: Option<Array<MapData, Lease>>,
    /// By name.
    leases: BTreeMap<String, Known>,
}

#[derive(Default)]
struct Known {
    offered: Option<Term>,
    /// Where it is in the map, and the grant that was taken up.
    taken_up: Option<(u32, u64)>,
}

/// What an election offers: ownership by a grant, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// Number of the grant.
    pub epoch: u64,
    /// Nanoseconds since boot ([`boot_time`]); `u64::MAX` where it has no end of its own.
    pub until: u64,
}

/// A lease could not be written.
#[derive(Debug, thiserror::Error)]
#[error("writing lease {index}")]
pub struct FenceError {
    /// Which one.
    pub index: u32,
    /// What the kernel said.
    pub source: MapError,
}

impl Fence {
    /// The fence in that map.
    pub fn new(leases: Array<MapData, Lease>) -> Self {
        Self::around(Some(leases))
    }

    /// Where there are no kernel programs nothing is fenced.
    pub fn none() -> Self {
        Self::around(None)
    }

    fn around(map: Option<Array<MapData, Lease>>) -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { map, leases: BTreeMap::new() })) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers a term, which counts at once where its grant has been taken up.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn offer(&self, lease: &str, term: Term) -> Result<(), FenceError> {
        let mut inner = self.lock();
        inner.leases.entry(lease.to_owned()).or_default().offered = Some(term);
        inner.write(lease)
    }

    /// Ends ownership at once, and takes back what was offered.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn withdraw(&self, lease: &str) -> Result<(), FenceError> {
        let mut inner = self.lock();
        let Some(known) = inner.leases.get_mut(lease) else { return Ok(()) };
        known.offered = None;
        match known.taken_up.take() {
            Some((index, _)) => inner.end(index),
            None => Ok(()),
        }
    }

    /// Begins ownership by a grant, for as long as was offered; one that holds already goes on.
    /// `index` is the lease's place in the map.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn take_up(&self, lease: &str, index: u32, epoch: u64) -> Result<(), FenceError> {
        let mut inner = self.lock();
        inner.leases.entry(lease.to_owned()).or_default().taken_up = Some((index, epoch));
        inner.write(lease)
    }

    /// Ends ownership at once; what is offered counts no more until it is taken up.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn give_up(&self, lease: &str, index: u32) -> Result<(), FenceError> {
        let mut inner = self.lock();
        if let Some(known) = inner.leases.get_mut(lease) {
            known.taken_up = None;
        }
        // Also where an earlier agent had taken it up.
        inner.end(index)
    }

    /// The same with everything that was taken up.
    ///
    /// # Errors
    ///
    /// The first that the kernel refused; all are tried.
    pub fn give_up_all(&self) -> Result<(), FenceError> {
        let mut inner = self.lock();
        let taken = inner.leases.values_mut().filter_map(|known| known.taken_up.take());
        let indices: Vec<u32> = taken.map(|(index, _)| index).collect();
        let results = indices.into_iter().map(|index| inner.end(index));
        results.fold(Ok(()), Result::and)
    }

    /// Ends what an agent before this one has left in the map.
    ///
    /// # Errors
    ///
    /// The first that the kernel refused; all are tried.
    pub fn end_left(&self) -> Result<(), FenceError> {
        let mut inner = self.lock();
        let results = (0..LEASES as u32).map(|index| inner.end(index));
        results.fold(Ok(()), Result::and)
    }

    /// Nanoseconds that remain of a lease that was taken up; nothing where it is not held, `u64::MAX`
    /// without end.
    pub fn remaining(&self, lease: &str) -> Option<u64> {
        let inner = self.lock();
        let (index, _) = inner.leases.get(lease)?.taken_up?;
        let (lease, now) = (inner.map.as_ref()?.get(&index, 0).ok()?, boot_time());
        match lease.until {
            u64::MAX => Some(u64::MAX),
            until => lease.holds_at(now).then(|| until - now),
        }
    }
}

impl Inner {
    /// Writes the term that is offered, where its grant is the one that was taken up.
    fn write(&mut self, lease: &str) -> Result<(), FenceError> {
        let Some(Known { offered: Some(term), taken_up: Some((index, epoch)) }) =
            self.leases.get(lease)
        else {
            return Ok(());
        };
        let (term, index) = (*term, *index);
        let Some(map) = self.map.as_ref().filter(|_| term.epoch == *epoch) else {
            return Ok(());
        };
        let old = map.get(&index, 0).map_err(|source| FenceError { index, source })?;
        let now = boot_time();
        let goes_on = old.epoch == term.epoch && old.holds_at(now);
        let since = if goes_on { old.since } else { now };
        self.set(index, Lease { since, until: term.until, epoch: term.epoch })
    }

    /// Ends a lease that holds now, and leaves in the map from when to when it held.
    fn end(&mut self, index: u32) -> Result<(), FenceError> {
        let Some(map) = &self.map else { return Ok(()) };
        let old = map.get(&index, 0).map_err(|source| FenceError { index, source })?;
        let now = boot_time();
        if old.until <= now {
            return Ok(());
        }
        self.set(index, Lease { until: now, ..old })
    }

    fn set(&mut self, index: u32, lease: Lease) -> Result<(), FenceError> {
        match &mut self.map {
            Some(map) => map.set(index, lease, 0).map_err(|source| FenceError { index, source }),
            None => Ok(()),
        }
    }
}

//! The fence: writes until when this host owns the VIPs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aya::maps::{Array, MapData, MapError};
use kube_vip_common::lease::Lease;

use super::sys::boot_time;
use crate::plan::Grant;

/// A handle to `LEASES`; all copies are the same fence.
#[derive(Clone)]
pub struct Fence {
    leases: Option<Arc<Mutex<Array<MapData, Lease>>>>,
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
        Self { leases: Some(Arc::new(Mutex::new(leases))) }
    }

    /// Where there are no kernel programs nothing is fenced.
    pub fn none() -> Self {
        Self { leases: None }
    }

    /// Ownership as it stands in the kernel.
    pub fn read(&self, index: u32) -> Option<Lease> {
        let leases = self.leases.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        leases.get(&index, 0).ok()
    }

    /// Begins ownership, or ends it: with a grant, from now for `term`; without, at once. A grant
    /// that holds already goes on.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn grant(
        &self,
        index: u32,
        grant: Option<Grant>,
        term: Duration,
    ) -> Result<(), FenceError> {
        self.update(index, |old| {
            Some(grant.map_or_else(Lease::default, |grant| renewed(old, grant, term)))
        })
    }

    /// Extends ownership that has begun; one that was ended meanwhile stays ended.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn extend(&self, index: u32, grant: Grant, term: Duration) -> Result<(), FenceError> {
        self.update(index, |old| {
            (old.epoch == grant.epoch && old.until != 0).then(|| renewed(old, grant, term))
        })
    }

    /// Reads and writes in one step, so that an extension never brings back what has just ended.
    fn update(
        &self,
        index: u32,
        change: impl FnOnce(Lease) -> Option<Lease>,
    ) -> Result<(), FenceError> {
        let Some(leases) = &self.leases else {
            return Ok(());
        };
        let mut leases = leases.lock().unwrap_or_else(PoisonError::into_inner);
        let old = leases.get(&index, 0).map_err(|source| FenceError { index, source })?;
        match change(old) {
            Some(lease) => {
                leases.set(index, lease, 0).map_err(|source| FenceError { index, source })
            }
            None => Ok(()),
        }
    }

    /// Nanoseconds that remain of a lease; nothing where it is not held, `u64::MAX` without end.
    pub fn remaining(&self, index: u32) -> Option<u64> {
        let (lease, now) = (self.read(index)?, boot_time());
        match lease.until {
            u64::MAX => Some(u64::MAX),
            _ => lease.holds_at(now).then(|| lease.until - now),
        }
    }
}

/// The lease with that grant, from its beginning where it still holds.
fn renewed(old: Lease, grant: Grant, term: Duration) -> Lease {
    let now = boot_time();
    let since = if old.epoch == grant.epoch && old.holds_at(now) { old.since } else { now };
    Lease { since, until: end(now, grant, term), epoch: grant.epoch }
}

fn end(now: u64, grant: Grant, term: Duration) -> u64 {
    if grant.forever { u64::MAX } else { now + term.as_nanos() as u64 }
}

//! Driver: VIPs as local addresses of the owner.
//!
//! Ours are told from other people's by two marks in the kernel's own records, so that a restart
//! after `kill -9` knows what is left over: a protocol number that says "kube-vip" and a metric that
//! says which instance, since two of them on one host are usual. What is there without the marks
//! belongs to somebody else and is never removed.

mod entry;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use nix::net::if_::{if_indextoname, if_nametoindex};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;
use tracing::{info, warn};

use self::entry::Entry;
use crate::instance::tag;
use crate::plan::HeldAddress;
use crate::source::netlink::{NetlinkError, Requests};

/// An address that is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The kernel's list cannot be read.
    #[error(transparent)]
    List(#[from] NetlinkError),
    /// The interface is not there.
    #[error("cannot hold {} on {}: {cause}", wanted.address, wanted.interface)]
    Interface {
        /// What should be held.
        wanted: HeldAddress,
        /// The kernel's word.
        cause: io::Error,
    },
    /// Refused.
    #[error("cannot hold {} on {}: {cause}", wanted.address, wanted.interface)]
    Add {
        /// What should be held.
        wanted: HeldAddress,
        /// The kernel's word.
        cause: NetlinkError,
    },
    /// Taken, and not there a moment later.
    #[error("{} on {} was added and is gone again", wanted.address, wanted.interface)]
    Lost {
        /// What should be held.
        wanted: HeldAddress,
    },
    /// Refused.
    #[error("cannot remove {} from {}: {cause}", held.address, held.interface)]
    Remove {
        /// What should not be held any more.
        held: HeldAddress,
        /// The kernel's word.
        cause: NetlinkError,
    },
}

/// What was done, and everything that could not be: one failure does not stop the others.
#[derive(Debug, Default)]
pub struct Report {
    /// Held now, and not before.
    pub added: Vec<HeldAddress>,
    /// Held before, and not now.
    pub removed: Vec<HeldAddress>,
    /// Held already, by somebody else's doing.
    pub foreign: Vec<HeldAddress>,
    /// What is not as it should be.
    pub errors: Vec<AddressError>,
}

/// Makes the wanted addresses local ones.
#[derive(Debug)]
pub struct Addresses {
    tag: u32,
    /// Added by this process, by interface index and address, and whether the kernel kept the
    /// marks: old ones do not, and any change by others strips them.
    added: BTreeMap<(u32, IpAddr), bool>,
    /// Wanted, but here before us: said once.
    foreign: BTreeSet<HeldAddress>,
}

impl Addresses {
    /// For one of possibly several instances on this host; a restart must give the same name.
    pub fn new(instance: &str) -> Self {
        let tag = tag(instance);
        Self { tag, added: BTreeMap::new(), foreign: BTreeSet::new() }
    }

    /// Adds what is missing and repairs what is ours but not as we made it.
    pub async fn build(&mut self, desired: &BTreeSet<HeldAddress>) -> Report {
        let mut report = Report::default();
        if let Err(error) = self.try_build(desired, &mut report).await {
            report.errors.push(error.into());
        }
        report
    }

    /// Removes what is ours and not wanted, from whatever interface.
    pub async fn retire(&mut self, desired: &BTreeSet<HeldAddress>) -> Report {
        let mut report = Report::default();
        if let Err(error) = self.try_retire(desired, &mut report).await {
            report.errors.push(error.into());
        }
        report
    }

    /// Removes everything that is ours, at the end.
    pub async fn clear(&mut self) -> Report {
        for HeldAddress { interface, address } in &self.foreign {
            info!(%address, interface, "left in place: it was here before");
        }
        self.retire(&BTreeSet::new()).await
    }

    async fn try_build(
        &mut self,
        desired: &BTreeSet<HeldAddress>,
        report: &mut Report,
    ) -> Result<(), NetlinkError> {
        let requests = Requests::open()?;
        let entries = list(&requests).await?;
        let mut changed = Vec::new();
        for wanted in desired {
            let index = match if_nametoindex(wanted.interface.as_str()) {
                Ok(index) => index,
                Err(errno) => {
                    let (wanted, cause) = (wanted.clone(), errno.into());
                    report.errors.push(AddressError::Interface { wanted, cause });
                    continue;
                }
            };
            let found = entries.iter().find(|entry| entry.is(index, wanted.address));
            let flags = match found {
                Some(entry) if !self.owns(entry) => {
                    self.note_foreign(wanted, report);
                    continue;
                }
                Some(entry) if self.is_as_made(entry) => continue,
                Some(_) => NLM_F_CREATE | NLM_F_REPLACE,
                None => NLM_F_CREATE | NLM_F_EXCL,
            };
            match add(&requests, wanted, index, self.tag, flags).await {
                Ok(()) => changed.push((wanted, index)),
                // Somebody was faster; the next call finds out who.
                Err(error) if error.errno() == Some(libc::EEXIST) => {}
                Err(cause) => {
                    report.errors.push(AddressError::Add { wanted: wanted.clone(), cause });
                }
            }
        }
        self.foreign.retain(|address| desired.contains(address));
        if !changed.is_empty() {
            self.verify(&list(&requests).await?, changed, report);
        }
        Ok(())
    }

    /// Reads back what was added.
    fn verify(
        &mut self,
        entries: &[Entry],
        changed: Vec<(&HeldAddress, u32)>,
        report: &mut Report,
    ) {
        for (wanted, index) in changed {
            let Some(entry) = entries.iter().find(|entry| entry.is(index, wanted.address)) else {
                report.errors.push(AddressError::Lost { wanted: wanted.clone() });
                continue;
            };
            self.added.insert((index, wanted.address), entry.is_marked(self.tag));
            self.foreign.remove(wanted);
            report.added.push(wanted.clone());
        }
    }

    async fn try_retire(
        &mut self,
        desired: &BTreeSet<HeldAddress>,
        report: &mut Report,
    ) -> Result<(), NetlinkError> {
        let requests = Requests::open()?;
        let entries = list(&requests).await?;
        self.added
            .retain(|(index, address), _| entries.iter().any(|entry| entry.is(*index, *address)));
        let ours: Vec<&Entry> = entries.iter().filter(|entry| self.owns(entry)).collect();
        for entry in ours {
            // An interface that is gone took its addresses along.
            let Ok(name) = if_indextoname(entry.index()) else { continue };
            let held = HeldAddress {
                interface: name.to_string_lossy().into_owned(),
                address: entry.address(),
            };
            if desired.contains(&held) {
                continue;
            }
            let action = format!("remove {} from {}", held.address, held.interface);
            let message = RouteNetlinkMessage::DelAddress(entry.message().clone());
            match requests.change(&action, message, 0).await {
                Ok(()) => {
                    self.added.remove(&(entry.index(), held.address));
                    report.removed.push(held);
                }
                Err(error) if is_gone(&error) => {}
                Err(cause) => report.errors.push(AddressError::Remove { held, cause }),
            }
        }
        Ok(())
    }

    /// Ours by its marks, or because we added it and nobody has put marks of their own on it.
    fn owns(&self, entry: &Entry) -> bool {
        let added = || self.added.contains_key(&(entry.index(), entry.address()));
        entry.is_marked(self.tag) || !entry.has_marks() && added()
    }

    fn is_as_made(&self, entry: &Entry) -> bool {
        let marks_kept = self.added.get(&(entry.index(), entry.address())) == Some(&true);
        entry.is_usable() && (entry.is_marked(self.tag) || !marks_kept)
    }

    fn note_foreign(&mut self, wanted: &HeldAddress, report: &mut Report) {
        report.foreign.push(wanted.clone());
        if self.foreign.insert(wanted.clone()) {
            let HeldAddress { interface, address } = wanted;
            warn!(%address, interface, "the address is there already and not ours: it will stay when this host does not own it any more");
        }
    }
}

async fn list(requests: &Requests) -> Result<Vec<Entry>, NetlinkError> {
    let query = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let answers = requests.dump("list the addresses", query).await?;
    let entries = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewAddress(message) => Entry::read(message),
        _ => None,
    });
    Ok(entries.collect())
}

async fn add(
    requests: &Requests,
    wanted: &HeldAddress,
    index: u32,
    tag: u32,
    flags: u16,
) -> Result<(), NetlinkError> {
    let message = entry::message(index, wanted.address, tag);
    let action = format!("add {} to {}", wanted.address, wanted.interface);
    requests.change(&action, RouteNetlinkMessage::NewAddress(message), flags).await
}

fn is_gone(error: &NetlinkError) -> bool {
    matches!(error.errno(), Some(libc::EADDRNOTAVAIL | libc::ENODEV | libc::ENXIO))
}

#[cfg(test)]
mod tests;

//! Takes out of a host what agents left there that ended without taking leave.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use crate::address::Addresses;
use crate::dataplane;
use crate::plan::HeldAddress;
use crate::publish::{self, InstanceLock};
use crate::source::links;
use crate::source::netlink::delete_clsact;

/// What was taken away of one instance.
#[derive(Debug, Default, Serialize)]
pub struct Cleaned {
    /// Name of the instance.
    pub instance: String,
    /// What was there, one line each.
    pub removed: Vec<String>,
    /// What is there still, and why.
    pub failed: Vec<String>,
}

/// The instances that have left anything, whatever version they were.
///
/// # Errors
/// The directories cannot be read.
pub fn instances(run_dir: &Path) -> anyhow::Result<BTreeSet<String>> {
    let mut names = dataplane::left_instances().context("cannot list what is pinned")?;
    names.extend(publish::left_instances(run_dir).context("cannot list sockets and locks")?);
    Ok(names)
}

/// Takes away what an instance left: programs, maps and their pins, addresses, sockets.
///
/// # Errors
/// Its agent is running; nothing was touched then. What could not be removed is in the answer.
pub async fn run(run_dir: &Path, instance: &str) -> anyhow::Result<Cleaned> {
    let lock = InstanceLock::acquire(run_dir, instance)
        .context("only what no agent uses is taken away; stop it first (SIGTERM does the same)")?;
    let mut cleaned = Cleaned { instance: instance.to_owned(), ..Cleaned::default() };
    let links = links::snapshot().await.context("cannot read this host's interfaces")?;
    let left = dataplane::remove_left(instance, links.keys());
    cleaned.removed.extend(left.removed);
    cleaned.failed.extend(left.failed);
    for ifindex in left.qdiscs {
        let name = links.iter().find(|(_, link)| link.index == ifindex);
        let what = format!("clsact qdisc of {}", name.map_or("an interface", |(name, _)| name));
        match delete_clsact(ifindex).await {
            Ok(()) => cleaned.removed.push(what),
            Err(error) => cleaned.failed.push(format!("{what}: {error}")),
        }
    }
    let addresses = Addresses::new(instance).clear().await;
    let told = |held: HeldAddress| format!("address {} of {}", held.address, held.interface);
    cleaned.removed.extend(addresses.removed.into_iter().map(told));
    cleaned
        .failed
        .extend(addresses.errors.into_iter().map(|e| format!("{:#}", anyhow::Error::from(e))));
    let left = publish::remove_left(run_dir, instance).context("cannot list sockets and locks")?;
    for (path, result) in left {
        match result {
            Ok(()) => cleaned.removed.push(path.display().to_string()),
            Err(error) => cleaned.failed.push(format!("{}: {error}", path.display())),
        }
    }
    drop(lock);
    // Other instances may be using it.
    let _ = std::fs::remove_dir(run_dir);
    Ok(cleaned)
}

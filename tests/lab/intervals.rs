//! From when to when each host owned each VIP, read out of the maps that the hosts' programs go by.
//!
//! All hosts of a lab are under one kernel with one clock, so intervals can be compared exactly. A map
//! keeps the last ownership until the next one begins, so looking often enough sees every one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aya::maps::{Array, HashMap, Map, MapData};
use kube_vip_common::address::Address;
use kube_vip_common::lease::Lease;
use kube_vip_common::vip::{VIRTUAL, Vip};

use crate::background::Background;
use crate::build::Lab;

/// Between two looks at all maps. A host that has given a VIP back gets it again later than that: a
/// command has to be agreed on before.
const LOOK: Duration = Duration::from_millis(2);
/// Between two looks whether an agent has made new maps.
const REOPEN: Duration = Duration::from_millis(100);

/// A host owned a VIP, by its programs' clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The host.
    pub host: String,
    /// The VIP.
    pub vip: IpAddr,
    /// Number of the grant.
    pub epoch: u64,
    /// Nanoseconds since boot.
    pub since: u64,
    /// Nanoseconds since boot.
    pub until: u64,
}

/// Looks at the maps of all hosts until it is finished.
#[derive(Debug)]
pub struct Intervals(Background<Vec<Interval>>);

impl Intervals {
    /// Begins to look at the maps of all nodes.
    pub fn start(lab: &Lab) -> Result<Self> {
        let place = |host: &crate::Host| {
            let pins = format!("/proc/{}/root/sys/fs/bpf/kube-vip/default", host.holder());
            Maps { host: host.name().to_owned(), pins: pins.into(), open: None }
        };
        let mut hosts: Vec<_> = lab.nodes().map(place).collect();
        let work = move |stopped: &AtomicBool| {
            let mut seen = Seen::default();
            let mut reopened: Option<Instant> = None;
            while !stopped.load(Ordering::Relaxed) {
                if reopened.is_none_or(|at| at.elapsed() > REOPEN) {
                    hosts.iter_mut().for_each(Maps::reopen);
                    reopened = Some(Instant::now());
                }
                for host in &hosts {
                    host.look(&mut seen)?;
                }
                std::thread::sleep(LOOK);
            }
            Ok(seen.0.into_values().collect())
        };
        Background::start("intervals".to_owned(), work).map(Self)
    }

    /// Ends it and returns every ownership that was seen.
    pub fn finish(self) -> Result<Vec<Interval>> {
        self.0.finish()
    }
}

/// An error naming two hosts that owned one VIP at one moment.
pub fn expect_one_owner(intervals: &[Interval]) -> Result<()> {
    for (at, one) in intervals.iter().enumerate() {
        for other in &intervals[at + 1..] {
            let apart = one.until <= other.since || other.until <= one.since;
            if one.vip == other.vip && one.host != other.host && !apart {
                let both = one.until.min(other.until) - one.since.max(other.since);
                let near = |it: &&Interval| {
                    const SECOND: u64 = 1_000_000_000;
                    it.vip == one.vip && it.since.abs_diff(one.since.max(other.since)) < 5 * SECOND
                };
                let near: Vec<_> =
                    intervals.iter().filter(near).map(|it| format!("{it:?}")).collect();
                bail!(
                    "two owners for {:?}: {one:?} and {other:?}; around it:\n{}",
                    Duration::from_nanos(both),
                    near.join("\n")
                );
            }
        }
    }
    Ok(())
}

/// Host, VIP and beginning tell one ownership from another.
#[derive(Default)]
struct Seen(BTreeMap<(String, IpAddr, u64), Interval>);

impl Seen {
    fn note(&mut self, host: &str, vip: IpAddr, lease: Lease) {
        let Lease { since, until, epoch } = lease;
        // One that was over before it could begin: the agent wrote what had been granted too late.
        if until <= since {
            return;
        }
        let interval = Interval { host: host.to_owned(), vip, epoch, since, until };
        self.0.insert((host.to_owned(), vip, since), interval);
    }
}

/// The maps of one host.
struct Maps {
    host: String,
    pins: PathBuf,
    open: Option<Open>,
}

struct Open {
    /// The kernel's number of LEASES.
    id: u32,
    leases: Array<MapData, Lease>,
    vips: BTreeMap<IpAddr, u32>,
}

impl Maps {
    /// Opens the maps of an agent that has made new ones. Those of one that is gone are kept: they
    /// say how its last ownership ended.
    fn reopen(&mut self) {
        let Ok(entries) = std::fs::read_dir(&self.pins) else { return };
        for entry in entries.flatten() {
            // What is half made or half taken away is looked at next time.
            if let Some(open) = open(&entry.path()) {
                self.open = Some(open);
            }
        }
    }

    fn look(&self, seen: &mut Seen) -> Result<()> {
        let Some(open) = &self.open else { return Ok(()) };
        for (vip, lease) in &open.vips {
            let lease =
                open.leases.get(lease, 0).with_context(|| format!("LEASES of map {}", open.id))?;
            seen.note(&self.host, *vip, lease);
        }
        Ok(())
    }
}

fn open(directory: &Path) -> Option<Open> {
    let pinned = |name: &str| MapData::from_pin(directory.join(name)).ok();
    let leases = pinned("LEASES")?;
    let id = leases.info().ok()?.id();
    let leases = Array::try_from(Map::Array(leases)).ok()?;
    let all: HashMap<_, Address, Vip> = HashMap::try_from(Map::HashMap(pinned("VIPS")?)).ok()?;
    let mut vips = BTreeMap::new();
    for entry in &all {
        let (address, vip) = entry.ok()?;
        if vip.flags & VIRTUAL != 0 {
            vips.insert(address.to_ip(), vip.lease);
        }
    }
    // An agent that has made its maps a moment ago has put nothing into them yet.
    (!vips.is_empty()).then_some(Open { id, leases, vips })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(host: &str, since: u64, until: u64) -> Interval {
        let vip = crate::build::VIPS[0];
        Interval { host: host.to_owned(), vip, epoch: since, since, until }
    }

    #[test]
    fn an_overlap_of_two_hosts_is_found_however_short() {
        let one = interval("n1", 10, 20);
        for (other, apart) in [
            (interval("n2", 20, 30), true),
            (interval("n2", 19, 30), false),
            (interval("n2", 5, 11), false),
            (interval("n2", 5, 10), true),
            (interval("n2", 12, 13), false),
            (interval("n1", 12, 13), true),
        ] {
            let both = [one.clone(), other.clone()];
            assert_eq!(expect_one_owner(&both).is_ok(), apart, "{other:?}");
        }
        let elsewhere = Interval { vip: crate::build::VIPS[1], ..interval("n2", 12, 13) };
        assert!(expect_one_owner(&[one, elsewhere]).is_ok());
    }
}

//! The host that holds VIPs: what it tells its kernel.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::{Answer, Ask, Held};
use crate::cluster::{Cluster, NodeId};
use crate::time::{Boot, shortened};

/// What the kernel programs are to know about a VIP: owned from `since` until just before `until`,
/// by this host's boot time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The VIP.
    pub vip: IpAddr,
    /// Ownership began.
    pub since: Boot,
    /// Ownership ends; 0 for a VIP that is not owned.
    pub until: Boot,
    /// Number of the assignment.
    pub epoch: u64,
}

impl Lease {
    /// Whether the VIP is owned at that moment.
    pub fn holds_at(&self, now: Boot) -> bool {
        self.since <= now && now < self.until
    }
}

/// What this host holds. Each lease that it puts out has to be written into the kernel, in order,
/// and reported back with [`Holder::written`]; nothing else makes an owner of a host.
#[derive(Clone, Debug)]
pub struct Holder {
    node: NodeId,
    fit: bool,
    held: BTreeMap<IpAddr, Lease>,
    /// The newest epoch of each VIP that is given back or about to be: it is never extended again.
    ended: BTreeMap<IpAddr, u64>,
    /// The same once the kernel knows: only this may be told to the leader.
    released: BTreeMap<IpAddr, u64>,
}

impl Holder {
    /// A host that holds nothing yet.
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            fit: true,
            held: BTreeMap::new(),
            ended: BTreeMap::new(),
            released: BTreeMap::new(),
        }
    }

    /// Whether this host can answer for VIPs; the leader moves them away from one that cannot.
    pub fn set_fit(&mut self, fit: bool) {
        self.fit = fit;
    }

    /// The question to send now. The moment it was asked must be read before this is called.
    pub fn ask(&self, applied: u64) -> Ask {
        let released = self.released.iter().map(|(vip, epoch)| Held { vip: *vip, epoch: *epoch });
        Ask { node: self.node, fit: self.fit, applied, released: released.collect() }
    }

    /// An answer to the question asked at `asked` has come, at `now`. The moment must be this
    /// process's own memory, never what an answer repeats: one that is late may be to a question
    /// from before the host's last boot. Only assignments that this host has applied itself
    /// (`cluster`) count.
    pub fn answered(
        &mut self,
        asked: Boot,
        answer: &Answer,
        cluster: &Cluster,
        now: Boot,
    ) -> Vec<Lease> {
        let mut leases = Vec::new();
        for held in &answer.release {
            if self.assigned(cluster, held) {
                leases.push(self.end(held.vip, held.epoch));
            }
        }
        for granted in &answer.granted {
            let held = &granted.held;
            let ended = self.ended.get(&held.vip).is_some_and(|epoch| *epoch >= held.epoch);
            if !self.assigned(cluster, held) || ended {
                continue;
            }
            // What remained when the leader answered began to run when we asked, at the latest.
            let until = asked.plus(shortened(Duration::from_nanos(granted.remaining)));
            let last = self.held.get(&held.vip).filter(|last| last.epoch == held.epoch);
            if until <= last.map_or(now, |last| last.until.max(now)) {
                continue;
            }
            let since = last.filter(|last| last.holds_at(now)).map_or(now, |last| last.since);
            leases.push(Lease { vip: held.vip, since, until, epoch: held.epoch });
        }
        leases
    }

    /// What has to end because the log gives it to others by now.
    pub fn applied(&mut self, cluster: &Cluster) -> Vec<Lease> {
        let held = self.held.values().filter(|lease| lease.until > Boot(0));
        let held = held.map(|lease| Held { vip: lease.vip, epoch: lease.epoch });
        let lost: Vec<_> = held.filter(|held| !self.assigned(cluster, held)).collect();
        lost.into_iter().map(|held| self.end(held.vip, held.epoch)).collect()
    }

    /// The kernel knows that lease now.
    pub fn written(&mut self, lease: Lease) {
        if lease.until == Boot(0) {
            raise(&mut self.released, lease.vip, lease.epoch);
        }
        self.held.insert(lease.vip, lease);
    }

    /// What is held at that moment.
    pub fn holding(&self, now: Boot) -> impl Iterator<Item = &Lease> {
        self.held.values().filter(move |lease| lease.holds_at(now))
    }

    fn assigned(&self, cluster: &Cluster, held: &Held) -> bool {
        let assignment = cluster.assignments.get(&held.vip);
        assignment.is_some_and(|it| it.node == self.node && it.epoch == held.epoch)
    }

    fn end(&mut self, vip: IpAddr, epoch: u64) -> Lease {
        raise(&mut self.ended, vip, epoch);
        Lease { vip, since: Boot(0), until: Boot(0), epoch }
    }
}

fn raise(epochs: &mut BTreeMap<IpAddr, u64>, vip: IpAddr, epoch: u64) {
    let newest = epochs.entry(vip).or_insert(epoch);
    *newest = (*newest).max(epoch);
}

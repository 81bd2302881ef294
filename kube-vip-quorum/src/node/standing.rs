//! What a host is and holds, for whoever runs it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;

use super::Inner;
use crate::cluster::NodeId;
use crate::transport::ClusterId;

/// What part a host takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It belongs to no cluster yet, or to one that does not know it.
    #[default]
    Outside,
    /// It follows the log but has no vote.
    Learner,
    /// It votes.
    Voter,
    /// It leads.
    Leader,
}

/// What a host is and holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The part it takes.
    pub role: Role,
    /// Its cluster.
    pub cluster: Option<ClusterId>,
    /// The leader's name, where there is one.
    pub leader: Option<String>,
    /// The VIPs it owns now, with the number of the grant. Until when is in the kernel.
    pub holding: BTreeMap<IpAddr, u64>,
    /// Names of the hosts that vote.
    pub voters: Vec<String>,
    /// Names of the hosts that follow without a vote.
    pub learners: Vec<String>,
    /// VIPs that this host's configuration names and the cluster does not, and the other way round.
    pub differing: Vec<IpAddr>,
    /// What keeps this host from taking part, with the way out.
    pub trouble: Option<String>,
    /// It takes no part any more, for the reason in `trouble`, and will not until it is started
    /// anew.
    pub failed: bool,
}

impl Inner {
    /// Tells what has changed.
    pub(super) fn publish(&self) {
        let now = self.clock.now();
        let metrics = self.raft.server_metrics().borrow().clone();
        let applied = self.applied.borrow().clone();
        let membership = metrics.membership_config.membership();
        let node = self.store.node();
        let name = |id: &NodeId| {
            let host = applied.cluster.hosts.get(id).map(|host| host.name.clone());
            host.or_else(|| membership.get_node(id).map(|member| member.name.clone()))
        };
        let is_voter = membership.voter_ids().any(|id| id == node);
        let role = match self.lead().as_ref() {
            Some(_) => Role::Leader,
            None if is_voter => Role::Voter,
            None if membership.get_node(&node).is_some() => Role::Learner,
            None => Role::Outside,
        };
        let holding = self.holder().holding(now).map(|lease| (lease.vip, lease.epoch)).collect();
        let own = self.vips.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let agreed = &applied.cluster.vips;
        let differing = own.keys().filter(|vip| !agreed.contains_key(vip));
        let differing = differing.chain(agreed.keys().filter(|vip| !own.contains_key(vip)));
        self.standing.send_if_modified(|standing| {
            let next = Standing {
                role,
                cluster: self.store.cluster(),
                leader: self.store.follows().and_then(|leader| name(&leader.leader)),
                holding,
                voters: membership.voter_ids().filter_map(|id| name(&id)).collect(),
                learners: membership.learner_ids().filter_map(|id| name(&id)).collect(),
                differing: differing.copied().collect(),
                trouble: standing.trouble.clone(),
                failed: self.failed.load(Ordering::Relaxed),
            };
            let changed = *standing != next;
            *standing = next;
            changed
        });
    }

    /// Notes what keeps this host from taking part, or that nothing does.
    pub(super) fn trouble(&self, trouble: Option<String>) {
        self.standing.send_if_modified(|standing| {
            let changed = standing.trouble != trouble;
            if changed && let Some(trouble) = &trouble {
                tracing::warn!("{trouble}");
            }
            standing.trouble = trouble;
            changed
        });
    }
}

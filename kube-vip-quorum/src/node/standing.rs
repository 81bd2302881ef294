//! What a host is and holds, for whoever runs it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;

use super::Inner;
use crate::cluster::{NodeId, Vip};
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

/// A host that takes part, as this one knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taking {
    /// Its id.
    pub name: String,
    /// Where its peers reach it.
    pub addresses: Vec<SocketAddr>,
    /// The part it takes.
    pub role: Role,
    /// Its share of the VIPs.
    pub weight: u32,
    /// It is to hold no VIP.
    pub drained: bool,
    /// The VIPs that are assigned to it.
    pub assigned: Vec<IpAddr>,
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
    /// The hosts that take part, by name.
    pub hosts: Vec<Taking>,
    /// A change of the voters is under way: majorities of the old ones and of the new ones are needed.
    pub changing: bool,
    /// VIPs that this host's configuration names and the cluster does not, and the other way round.
    pub differing: Vec<IpAddr>,
    /// Hosts that this host's configuration names and the cluster does not, and the other way round.
    pub strangers: Vec<String>,
    /// What keeps this host from taking part, with the way out.
    pub trouble: Option<String>,
    /// It takes no part any more, for the reason in `trouble`, and will not until it is started
    /// anew.
    pub failed: bool,
}

impl Standing {
    /// Names of the hosts that vote.
    pub fn voters(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().filter(|host| host.role >= Role::Voter).map(|host| host.name.as_str())
    }

    /// Names of the hosts that follow without a vote.
    pub fn learners(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().filter(|host| host.role == Role::Learner).map(|host| host.name.as_str())
    }
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
        let leader = self.store.follows();
        let is_voter = |id| membership.voter_ids().any(|it| it == id);
        let part = |id: NodeId| match leader {
            Some(leader) if leader.leader == id && id != node => Role::Leader,
            _ if is_voter(id) => Role::Voter,
            _ if membership.get_node(&id).is_some() => Role::Learner,
            _ => Role::Outside,
        };
        let leads = self.lead().is_some();
        let role = match leads {
            true => Role::Leader,
            false if self.refused.load(Ordering::Relaxed) => Role::Outside,
            false => part(node),
        };
        let mut hosts: Vec<_> = applied
            .cluster
            .hosts
            .iter()
            .map(|(id, host)| Taking {
                name: host.name.clone(),
                addresses: host.addresses.clone(),
                role: if *id == node { role } else { part(*id) },
                weight: host.weight,
                drained: host.drained,
                assigned: applied.cluster.of(*id).map(|(vip, _)| vip).collect(),
            })
            .collect();
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        let configured = self.configured();
        let named = |name: &str| {
            name == self.settings.name || configured.iter().any(|peer| peer.name == name)
        };
        // A host outside knows no better.
        let unknown = configured.iter().map(|peer| &peer.name);
        let unknown = unknown.filter(|name| applied.cluster.named(name).is_none());
        let unnamed = hosts.iter().map(|host| &host.name).filter(|name| !named(name));
        let strangers: Vec<_> = match role {
            Role::Outside => Vec::new(),
            _ => unknown.chain(unnamed).cloned().collect(),
        };
        let holding = self.holder().holding(now).map(|lease| (lease.vip, lease.epoch)).collect();
        let own = self.configured_vips();
        let agreed = &applied.cluster.vips;
        let differing = own.keys().filter(|vip| !agreed.contains_key(vip));
        let differing = differing.chain(agreed.keys().filter(|vip| !own.contains_key(vip)));
        // Where no leader has written its list yet, nobody disagrees with it.
        let differing = differing.filter(|_| !agreed.is_empty());
        self.standing.send_if_modified(|standing| {
            let next = Standing {
                role,
                cluster: self.store.cluster(),
                leader: leader.and_then(|leader| name(&leader.leader)),
                holding,
                hosts,
                changing: membership.get_joint_config().len() > 1,
                differing: differing.copied().collect(),
                strangers,
                trouble: standing.trouble.clone(),
                failed: self.failed.load(Ordering::Relaxed),
            };
            if standing.differing != next.differing && !next.differing.is_empty() {
                let all: Vec<_> = next.differing.iter().map(ToString::to_string).collect();
                tracing::warn!(
                    "the hosts' files differ: {} not in all; the leader's list counts, and a host \
                     holds no VIP that its own file does not name",
                    all.join(", ")
                );
            }
            let changed = *standing != next;
            *standing = next;
            changed
        });
    }

    /// The VIPs of this host's configuration.
    pub(super) fn configured_vips(&self) -> BTreeMap<IpAddr, Vip> {
        self.vips.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
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

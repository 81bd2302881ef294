//! What the hosts have agreed on: the state that the log's commands lead to, the same on all hosts.

mod command;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use command::{Command, Refused};

/// A host's number among the voters. It is drawn when the host's state directory is made and never
/// used again after that directory is lost, so nobody votes twice under one number.
pub type NodeId = u64;

/// Who leads: the vote that a majority gave.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct TenureId {
    /// Grows with every candidate.
    pub term: u64,
    /// The leader's number.
    pub leader: NodeId,
}

impl fmt::Display for TenureId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:x}", self.term, self.leader)
    }
}

/// A host that takes part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its id in the configuration.
    pub name: String,
    /// Where its peers reach it.
    pub addresses: Vec<SocketAddr>,
    /// Share of the VIPs that are spread; 0 for a host that only takes those it is preferred for.
    pub weight: u32,
    /// It is to hold no VIP until further notice.
    #[serde(default)]
    pub drained: bool,
    /// The VIPs that its configuration names: it can hold no others. Hosts of before that was told
    /// name none and can hold all.
    #[serde(default)]
    pub vips: Option<BTreeSet<IpAddr>>,
}

/// A VIP as it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vip {
    /// Names of the hosts that it goes to first, in that order.
    #[serde(default)]
    pub prefer: Vec<String>,
}

/// Who is to hold a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The host.
    pub node: NodeId,
    /// Number of the assignment; a later one, of any VIP, has a higher one.
    pub epoch: u64,
}

/// What the hosts have agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Hosts that take part.
    pub hosts: BTreeMap<NodeId, Host>,
    /// VIPs that are to have an owner.
    pub vips: BTreeMap<IpAddr, Vip>,
    /// Who is to hold which.
    pub assignments: BTreeMap<IpAddr, Assignment>,
    /// The highest epoch that was given to any assignment.
    pub epoch: u64,
    /// Names of hosts that may join though the leader's configuration does not name them, or may
    /// not though it does.
    #[serde(default)]
    pub admission: BTreeMap<String, bool>,
    /// Backends that all hosts leave out.
    #[serde(default)]
    pub unready: BTreeSet<SocketAddr>,
}

impl Cluster {
    /// The VIPs that are assigned to a host, each with its epoch.
    pub fn of(&self, node: NodeId) -> impl Iterator<Item = (IpAddr, u64)> + '_ {
        let own = self.assignments.iter().filter(move |(_, assignment)| assignment.node == node);
        own.map(|(vip, assignment)| (*vip, assignment.epoch))
    }

    /// The host of that name.
    pub fn named(&self, name: &str) -> Option<(NodeId, &Host)> {
        self.hosts.iter().find(|(_, host)| host.name == name).map(|(node, host)| (*node, host))
    }
}

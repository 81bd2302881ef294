//! What a host asks the leader, and what the leader answers.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::cluster::{NodeId, TenureId};

/// A VIP under one of its assignments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Held {
    /// The VIP.
    pub vip: IpAddr,
    /// Number of the assignment.
    pub epoch: u64,
}

/// A host's question: may I go on?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Who asks.
    pub node: NodeId,
    /// Whether it can answer for VIPs: its uplink works and it is not about to stop.
    pub fit: bool,
    /// How far it has applied the log.
    pub applied: u64,
    /// What it has given back and will never hold again under that epoch.
    pub released: Vec<Held>,
}

/// A VIP that a host may answer for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// Which, and under which assignment.
    pub held: Held,
    /// For how many nanoseconds of the leader's clock from now on.
    pub remaining: u64,
}

/// The leader's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Whose answer it is.
    pub tenure: TenureId,
    /// What the host may answer for.
    pub granted: Vec<Granted>,
    /// What the host is to give back.
    pub release: Vec<Held>,
}

//! The consensus log: what openraft is told of our types, and the state machine it drives.

mod machine;

use std::io::Cursor;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::cluster::{Command, NodeId, Refused, TenureId};

pub use machine::{Applied, Machine};

/// What is known of a host before the log has told about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id in the configuration.
    pub name: String,
    /// Where it is reached.
    pub addresses: Vec<SocketAddr>,
}

openraft::declare_raft_types!(
    /// Our types, for openraft.
    pub Types:
        D = Command,
        R = Result<(), Refused>,
        NodeId = NodeId,
        Node = Member,
        Entry = openraft::Entry<Types>,
        SnapshotData = Cursor<Vec<u8>>,
);

/// A vote of openraft.
pub type Vote = openraft::Vote<NodeId>;
/// The place of an entry in the log.
pub type LogId = openraft::LogId<NodeId>;
/// An entry of the log.
pub type Entry = openraft::Entry<Types>;

/// The leader that a vote names, if it was elected.
pub fn elected(vote: &Vote) -> Option<TenureId> {
    let leader = vote.leader_id();
    vote.is_committed().then_some(TenureId { term: leader.term, leader: leader.node_id })
}

//! What hosts ask each other.

use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};

use super::orders::{Order, OrderError};
use crate::cluster::{Host, NodeId, TenureId};
use crate::grant::{Answer, Ask};
use crate::raft::{LogId, Types};
use crate::transport::ClusterId;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Request {
    /// Of openraft.
    Append(AppendEntriesRequest<Types>),
    /// Of openraft; with the leader that has named the candidate its successor.
    Vote { request: VoteRequest<NodeId>, claim: Option<TenureId> },
    /// Of openraft.
    Snapshot(InstallSnapshotRequest<Types>),
    /// Would you vote for one with such a log?
    Canvass { last: Option<LogId> },
    /// I lead.
    Heartbeat { tenure: TenureId },
    /// May I go on?
    Ask(Ask),
    /// Ask me.
    Nudge,
    /// Follow me; I grant nothing more.
    Successor { tenure: TenureId },
    /// I want to take part.
    Join { node: NodeId, host: Host },
    /// Something that a leader does for a user or a host.
    Order(Order),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Response {
    Append(Result<AppendEntriesResponse<NodeId>, RaftError<NodeId>>),
    Vote(Result<VoteResponse<NodeId>, RaftError<NodeId>>),
    Snapshot(Result<InstallSnapshotResponse<NodeId>, RaftError<NodeId, InstallSnapshotError>>),
    /// Whether it would vote.
    Canvassed(bool),
    /// Whether it follows.
    Acknowledged(bool),
    Answer(Answer),
    Joined(Joined),
    Ordered(Result<(), OrderError>),
    /// Nothing to say.
    Done,
}

/// What a host hears that wants to take part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Joined {
    /// The leader takes it in.
    Welcome { cluster: ClusterId },
    /// The leader does not, and why.
    Refused(String),
    /// This host does not lead, or does not know a cluster.
    Elsewhere { cluster: Option<ClusterId> },
}

//! The state machine: applies entries, tells who waits for it, and keeps snapshots.

use std::fmt::Display;
use std::io::Cursor;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::RaftStateMachine;
use openraft::{
    AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta,
    StorageIOError, StoredMembership,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Entry, LogId, Member, Types};
use crate::cluster::{Cluster, NodeId, Refused, TenureId};
use crate::store::Snapshots;

/// Version of the snapshots that are written. One with a higher version is refused.
const VERSION: u32 = 1;

/// What this host has applied of the log.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// What the hosts have agreed on.
    pub cluster: Arc<Cluster>,
    /// Index of the last entry.
    pub index: u64,
    /// Whose entry that was.
    pub tenure: Option<TenureId>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    version: u32,
    last: Option<LogId>,
    membership: StoredMembership<NodeId, Member>,
    cluster: Cluster,
}

/// The state machine. Clones share one state.
#[derive(Clone, Debug)]
pub struct Machine {
    state: Arc<Mutex<State>>,
    snapshots: Snapshots,
    applied: watch::Sender<Applied>,
}

type StorageError = openraft::StorageError<NodeId>;

impl Machine {
    /// The state machine as the last snapshot has it.
    ///
    /// # Errors
    ///
    /// The snapshot is no text that this version understands.
    pub fn new(snapshots: Snapshots) -> Result<Self, String> {
        let state = match snapshots.last() {
            Some(bytes) => decode(&bytes)?,
            None => State { version: VERSION, ..State::default() },
        };
        let (applied, _) = watch::channel(Applied::default());
        let machine = Self { state: Arc::new(Mutex::new(state)), snapshots, applied };
        machine.tell();
        Ok(machine)
    }

    /// Follows what has been applied.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    fn tell(&self) {
        let state = self.state();
        let applied = Applied {
            cluster: Arc::new(state.cluster.clone()),
            index: state.last.map_or(0, |last| last.index),
            tenure: state
                .last
                .map(|last| TenureId { term: last.leader_id.term, leader: last.leader_id.node_id }),
        };
        // Sent under the lock: two states must not overtake each other.
        self.applied.send_replace(applied);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn meta(state: &State) -> SnapshotMeta<NodeId, Member> {
        SnapshotMeta {
            last_log_id: state.last,
            last_membership: state.membership.clone(),
            snapshot_id: state.last.map_or_else(String::new, |last| last.to_string()),
        }
    }
}

fn decode(bytes: &[u8]) -> Result<State, String> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } = serde_json::from_slice(bytes).map_err(|it| it.to_string())?;
    if version > VERSION {
        return Err(format!("it has version {version}, this program knows up to {VERSION}"));
    }
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

fn failed(error: impl Display) -> StorageError {
    StorageIOError::write_state_machine(AnyError::error(error)).into()
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId>, StoredMembership<NodeId, Member>), StorageError> {
        let state = self.state();
        Ok((state.last, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Result<(), Refused>>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut results = Vec::new();
        {
            let mut state = self.state();
            for entry in entries {
                state.last = Some(entry.log_id);
                results.push(match entry.payload {
                    EntryPayload::Blank => Ok(()),
                    EntryPayload::Normal(command) => state.cluster.apply(&command),
                    EntryPayload::Membership(membership) => {
                        state.membership = StoredMembership::new(Some(entry.log_id), membership);
                        Ok(())
                    }
                });
            }
        }
        self.tell();
        Ok(results)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<NodeId, Member>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let bytes = snapshot.into_inner();
        let mut state = decode(&bytes).map_err(failed)?;
        state.last = meta.last_log_id;
        state.membership = meta.last_membership.clone();
        let bytes = serde_json::to_vec(&state).map_err(failed)?;
        self.snapshots.save(bytes).await.map_err(failed)?;
        *self.state() = state;
        self.tell();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        let Some(bytes) = self.snapshots.last() else { return Ok(None) };
        let state = decode(&bytes).map_err(failed)?;
        let meta = Self::meta(&state);
        Ok(Some(Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) }))
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let state = self.state().clone();
        let bytes = serde_json::to_vec(&state).map_err(failed)?;
        self.snapshots.save(bytes.clone()).await.map_err(failed)?;
        let meta = Self::meta(&state);
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) })
    }
}

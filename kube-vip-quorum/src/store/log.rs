//! Votes and entries, in memory as they are on disk, for openraft.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{AnyError, OptionalSend, RaftLogReader, StorageIOError};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::FORMAT;
use super::record;
use super::writer::Writer;
use crate::cluster::NodeId;
use crate::raft::{Entry, LogId, Types, Vote};

type StorageError = openraft::StorageError<NodeId>;

/// A payload of the log file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Record {
    /// The first one.
    Begin { format: u32, node: NodeId },
    /// The vote is this from now on.
    Vote(Vote),
    /// The next entry.
    Entry(Entry),
    /// Entries from this index on are void.
    Truncate { since: u64 },
    /// Entries up to this one are in the snapshot.
    Purge(LogId),
}

/// What a log file without votes and entries holds.
pub(super) fn beginning(node: NodeId) -> Vec<u8> {
    record::encode(0, &encode(&Record::Begin { format: FORMAT, node }))
}

fn encode(record: &Record) -> Vec<u8> {
    serde_json::to_vec(record).expect("strings, numbers and maps with such keys")
}

/// The log as the records lead to it.
#[derive(Debug, Default)]
pub(super) struct State {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
}

impl State {
    pub(super) fn replay(records: &[&[u8]], node: NodeId) -> Result<Self, String> {
        let mut state = Self::default();
        let Some((first, records)) = records.split_first() else {
            return Err("it is empty".to_owned());
        };
        let read = |bytes: &[u8]| {
            serde_json::from_slice::<Record>(bytes).map_err(|error| error.to_string())
        };
        match read(first)? {
            Record::Begin { format, .. } if format > FORMAT => {
                return Err(format!("it has format {format}, this program knows {FORMAT}"));
            }
            Record::Begin { node: theirs, .. } if theirs != node => {
                return Err(format!("it belongs to host {theirs:x}, the identity to {node:x}"));
            }
            Record::Begin { .. } => {}
            _ => return Err("it does not say what it is".to_owned()),
        }
        for record in records {
            match read(record)? {
                Record::Begin { .. } => return Err("it begins twice".to_owned()),
                Record::Vote(vote) => state.vote = Some(vote),
                Record::Entry(entry) => {
                    state.entries.insert(entry.log_id.index, entry);
                }
                Record::Truncate { since } => state.truncate(since),
                Record::Purge(upto) => state.purge(upto),
            }
        }
        // A leader that starts anew does not know what it has granted: it has to be elected again.
        // Among votes for itself nothing but its own entries separates the two.
        if let Some(vote) = &mut state.vote
            && vote.leader_id().node_id == node
        {
            vote.committed = false;
        }
        Ok(state)
    }

    fn truncate(&mut self, since: u64) {
        self.entries.split_off(&since);
    }

    fn purge(&mut self, upto: LogId) {
        self.entries = self.entries.split_off(&(upto.index + 1));
        self.purged = self.purged.max(Some(upto));
    }
}

/// The log of a state directory. Clones share it.
#[derive(Clone, Debug)]
pub struct LogStore {
    node: NodeId,
    state: Arc<Mutex<State>>,
    writer: Writer,
}

impl LogStore {
    pub(super) fn new(node: NodeId, state: State, writer: Writer) -> Self {
        Self { node, state: Arc::new(Mutex::new(state)), writer }
    }

    /// The vote on disk.
    pub fn vote(&self) -> Option<Vote> {
        self.state().vote
    }

    pub(super) fn close(&self) {
        self.writer.close();
    }

    /// Why nothing can be written any more, with the way out.
    pub fn failure(&self) -> Option<String> {
        self.writer.failure()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn append_record(&self, record: &Record) -> io::Result<()> {
        let (done, written) = oneshot::channel();
        let done = Box::new(|result| drop(done.send(result)));
        self.writer.append(vec![encode(record)], done);
        written.await.unwrap_or_else(|_| Err(io::Error::other("the log is not written any more")))
    }
}

fn failed(error: &io::Error) -> StorageError {
    StorageIOError::write_logs(AnyError::new(error)).into()
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        Ok(self.state().entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let state = self.state();
        let last = state.entries.values().next_back().map(|entry| entry.log_id);
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: last.or(state.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let written = self.append_record(&Record::Vote(*vote)).await;
        written.map_err(|error| StorageIOError::write_vote(AnyError::new(&error)))?;
        self.state().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.vote())
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<Types>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut payloads = Vec::new();
        {
            let mut state = self.state();
            for entry in entries {
                payloads.push(encode(&Record::Entry(entry.clone())));
                state.entries.insert(entry.log_id.index, entry);
            }
        }
        self.writer.append(payloads, Box::new(|result| callback.log_io_completed(result)));
        Ok(())
    }

    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError> {
        let record = Record::Truncate { since: since.index };
        self.append_record(&record).await.map_err(|error| failed(&error))?;
        self.state().truncate(since.index);
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        // The file is written anew without what the snapshot has, so it does not grow for ever.
        let payloads = {
            let mut state = self.state();
            state.purge(upto);
            let begin = Record::Begin { format: FORMAT, node: self.node };
            let mut payloads = vec![encode(&begin)];
            payloads.extend(state.vote.map(|vote| encode(&Record::Vote(vote))));
            payloads.extend(state.purged.map(|upto| encode(&Record::Purge(upto))));
            let entries = state.entries.values();
            payloads.extend(entries.map(|entry| encode(&Record::Entry(entry.clone()))));
            payloads
        };
        let (done, written) = oneshot::channel();
        self.writer.replace(payloads, Box::new(|result| drop(done.send(result))));
        let written = written.await;
        written
            .unwrap_or_else(|_| Err(io::Error::other("the log is not written any more")))
            .map_err(|error| failed(&error))
    }
}

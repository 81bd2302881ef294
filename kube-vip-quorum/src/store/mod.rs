//! What a host must not forget: its number, its vote, the log, and the last snapshot.
//!
//! ```text
//! lock       held by the one process that uses the directory
//! identity   this host's number and name, and its cluster; one record, replaced as a whole
//! log        votes and entries in the order they were made; records, appended and synced
//! snapshot   the state up to some entry; one record, replaced as a whole
//! ```
//!
//! A vote or an entry counts only once it is on disk. Nothing that was on disk may be lost and the
//! host go on under the same number: a missing or damaged file stops it. A directory that is gone
//! altogether leaves nothing to tell by; the host then gets a new number, under which it has
//! promised nothing.

mod files;
mod log;
mod record;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::files::Files;
use self::log::State;
use self::writer::Writer;
use crate::cluster::{NodeId, TenureId};
use crate::raft::{Machine, elected};
use crate::transport::ClusterId;

pub use self::files::StoreError;
pub use self::log::LogStore;
pub use self::record::Damage;

const FORMAT: u32 = 1;
const IDENTITY: &str = "identity";
const LOG: &str = "log";
const SNAPSHOT: &str = "snapshot";

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Identity {
    format: u32,
    node: NodeId,
    name: String,
    cluster: Option<ClusterId>,
    /// Length of the leases that this host has acknowledged heartbeats for, in nanoseconds.
    #[serde(default)]
    lease: u64,
}

/// A state directory in use. Clones share it; it is free again when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Store {
    files: Arc<Files>,
    identity: Arc<Mutex<Identity>>,
    log: LogStore,
    machine: Machine,
    snapshots: Snapshots,
}

/// Where snapshots are kept.
#[derive(Clone, Debug)]
pub struct Snapshots {
    files: Arc<Files>,
    current: Arc<Mutex<Current>>,
}

#[derive(Debug, Default)]
struct Current {
    bytes: Option<Vec<u8>>,
    closed: bool,
}

impl Store {
    /// Opens the directory of the host of that name, and makes it if it does not exist.
    ///
    /// # Errors
    ///
    /// The directory cannot be used, or is not what this host left there.
    pub fn open(directory: &Path, name: &str) -> Result<Self, StoreError> {
        let files = Arc::new(Files::take(directory)?);
        let identity = match files.read_one(IDENTITY)? {
            Some(bytes) => known(&files, &bytes, name)?,
            None => fresh(&files, name)?,
        };
        let bytes = files.read(LOG)?.ok_or_else(|| StoreError::Missing(files.path(LOG)))?;
        let damaged = |damage| StoreError::Damaged { path: files.path(LOG), damage };
        let (records, whole) = record::decode(&bytes).map_err(damaged)?;
        let state = State::replay(&records, identity.node)
            .map_err(|why| StoreError::Unreadable { path: files.path(LOG), why })?;
        let writer = Writer::open(&files, whole as u64, records.len() as u32)?;
        let current = Current { bytes: files.read_one(SNAPSHOT)?, closed: false };
        let current = Arc::new(Mutex::new(current));
        let snapshots = Snapshots { files: Arc::clone(&files), current };
        let machine = Machine::new(snapshots.clone())
            .map_err(|why| StoreError::Unreadable { path: files.path(SNAPSHOT), why })?;
        let log = LogStore::new(identity.node, state, writer);
        Ok(Self { files, identity: Arc::new(Mutex::new(identity)), log, machine, snapshots })
    }

    /// This host's number.
    pub fn node(&self) -> NodeId {
        self.identity().node
    }

    /// Where the state is.
    pub fn path(&self) -> PathBuf {
        self.files.path("")
    }

    /// The cluster that this host belongs to, if it belongs to one yet.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.identity().cluster
    }

    /// Remembers the cluster.
    ///
    /// # Errors
    ///
    /// It is not on disk.
    pub fn set_cluster(&self, cluster: ClusterId) -> Result<(), StoreError> {
        self.change_identity(|identity| identity.cluster = Some(cluster))
    }

    /// Length of the leases that this host has acknowledged heartbeats for.
    pub fn lease(&self) -> Duration {
        Duration::from_nanos(self.identity().lease)
    }

    /// Remembers that length. A longer one has to be remembered before the first acknowledgement,
    /// a shorter one only when what was acknowledged before has ended.
    ///
    /// # Errors
    ///
    /// It is not on disk.
    pub fn set_lease(&self, lease: Duration) -> Result<(), StoreError> {
        let lease = u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX);
        self.change_identity(|identity| identity.lease = lease)
    }

    fn change_identity(&self, change: impl FnOnce(&mut Identity)) -> Result<(), StoreError> {
        let mut identity = self.identity();
        let mut next = identity.clone();
        change(&mut next);
        write_identity(&self.files, &next)?;
        *identity = next;
        Ok(())
    }

    /// The leader that the vote on disk names, if it was elected.
    pub fn follows(&self) -> Option<TenureId> {
        self.log.vote().and_then(|vote| elected(&vote))
    }

    /// The log, for openraft.
    pub fn log(&self) -> LogStore {
        self.log.clone()
    }

    /// The state machine, for openraft.
    pub fn machine(&self) -> Machine {
        self.machine.clone()
    }

    /// Writes nothing more and lets other processes have the directory, whoever still has a clone.
    /// Takes as long as what is being written.
    pub fn close(&self) {
        self.log.close();
        self.snapshots.current().closed = true;
        self.files.release();
    }

    fn identity(&self) -> MutexGuard<'_, Identity> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Snapshots {
    /// The last one.
    pub(crate) fn last(&self) -> Option<Vec<u8>> {
        self.current().bytes.clone()
    }

    /// Puts another one in its place, on disk first.
    pub(crate) async fn save(&self, bytes: Vec<u8>) -> Result<(), StoreError> {
        let snapshots = self.clone();
        let saving = tokio::task::spawn_blocking(move || {
            let mut current = snapshots.current();
            if current.closed {
                return Err("the state directory has been closed".to_owned());
            }
            let replaced = snapshots.files.replace(SNAPSHOT, &record::encode(0, &bytes));
            replaced.map_err(|error| error.to_string())?;
            current.bytes = Some(bytes);
            Ok(())
        });
        let saved = saving.await.unwrap_or_else(|error| Err(error.to_string()));
        saved.map_err(|why| {
            let path = self.files.path(SNAPSHOT);
            files::io("write", &path)(std::io::Error::other(why))
        })
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn known(files: &Files, bytes: &[u8], name: &str) -> Result<Identity, StoreError> {
    let path = || files.path(IDENTITY);
    let identity: Identity = serde_json::from_slice(bytes)
        .map_err(|error| StoreError::Unreadable { path: path(), why: error.to_string() })?;
    if identity.format > FORMAT {
        let why = format!("it has format {}, this program knows {FORMAT}", identity.format);
        return Err(StoreError::Unreadable { path: path(), why });
    }
    if identity.name != name {
        let theirs = identity.name.clone();
        return Err(StoreError::OtherHost { path: path(), theirs, ours: name.to_owned() });
    }
    Ok(identity)
}

/// A directory that nothing was promised from: empty, or left by a start that did not get far.
fn fresh(files: &Files, name: &str) -> Result<Identity, StoreError> {
    let missing = || StoreError::Missing(files.path(IDENTITY));
    if files.read(SNAPSHOT)?.is_some() {
        return Err(missing());
    }
    // The log is made before the identity, so that an identity without a log tells of a loss.
    if let Some(log) = files.read(LOG)?
        && !record::decode(&log).is_ok_and(|(records, _)| records.len() <= 1)
    {
        return Err(missing());
    }
    let mut number = [0; 8];
    getrandom::fill(&mut number).map_err(|error| {
        let error = std::io::Error::other(error.to_string());
        files::io("draw a number for this host for", &files.path(IDENTITY))(error)
    })?;
    // 0 stands for nobody.
    let node = u64::from_le_bytes(number).max(1);
    let identity =
        Identity { format: FORMAT, node, name: name.to_owned(), cluster: None, lease: 0 };
    files.replace(LOG, &log::beginning(node))?;
    write_identity(files, &identity)?;
    Ok(identity)
}

fn write_identity(files: &Files, identity: &Identity) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(identity).expect("strings and numbers");
    files.replace(IDENTITY, &record::encode(0, &bytes)).map(drop)
}

//! openraft's own tests of a store, what survives a restart, and what is refused.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use openraft::storage::{RaftLogStorage as _, RaftLogStorageExt as _, RaftStateMachine as _};
use openraft::testing::{StoreBuilder, Suite, blank_ent, log_id};
use openraft::{RaftLogReader as _, RaftSnapshotBuilder as _};

use super::*;
use crate::raft::{Types, Vote};

/// A directory that is gone at the end of a test.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("kube-vip-store-{}-{count}", std::process::id())))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn open(&self) -> Result<Store, StoreError> {
        Store::open(&self.0, "n1")
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
        let _ = fs::remove_file(&self.0);
    }
}

struct Builder;

impl StoreBuilder<Types, LogStore, Machine, Temporary> for Builder {
    async fn build(
        &self,
    ) -> Result<(Temporary, LogStore, Machine), openraft::StorageError<NodeId>> {
        let directory = Temporary::new();
        let store = directory.open().unwrap();
        Ok((directory, store.log(), store.machine()))
    }
}

#[test]
fn openraft_is_content() {
    Suite::test_all(Builder).unwrap();
}

fn entry(term: u64, index: u64) -> crate::raft::Entry {
    blank_ent::<Types>(term, 5, index)
}

async fn indexes(store: &Store) -> Vec<u64> {
    let entries = store.log().try_get_log_entries(..).await.unwrap();
    entries.iter().map(|entry| entry.log_id.index).collect()
}

#[tokio::test]
async fn everything_survives_a_restart() {
    let directory = Temporary::new();
    let store = directory.open().unwrap();
    let node = store.node();
    assert_eq!((store.cluster(), store.follows()), (None, None));
    store.set_cluster(ClusterId(7)).unwrap();
    store.set_lease(Duration::from_millis(180)).unwrap();
    let mut log = store.log();
    let vote = Vote::new_committed(3, 5);
    log.save_vote(&vote).await.unwrap();
    log.blocking_append((1..=9).map(|index| entry(1, index))).await.unwrap();
    log.truncate(log_id(1, 5, 8)).await.unwrap();
    let mut machine = store.machine();
    machine.apply((1..=5).map(|index| entry(1, index))).await.unwrap();
    let snapshot = machine.build_snapshot().await.unwrap();
    assert_eq!(snapshot.meta.last_log_id, Some(log_id(1, 5, 5)));
    let before = fs::metadata(directory.file("log")).unwrap().len();
    log.purge(log_id(1, 5, 3)).await.unwrap();
    assert!(fs::metadata(directory.file("log")).unwrap().len() < before, "it shrinks");
    log.blocking_append([entry(2, 8)]).await.unwrap();
    drop((store, log, machine));

    let store = directory.open().unwrap();
    assert_eq!((store.node(), store.cluster()), (node, Some(ClusterId(7))));
    assert_eq!(store.lease(), Duration::from_millis(180));
    assert_eq!(store.follows(), Some(TenureId { term: 3, leader: 5 }));
    assert_eq!(indexes(&store).await, [4, 5, 6, 7, 8]);
    let state = store.log().get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 5, 3)));
    assert_eq!(state.last_log_id, Some(log_id(2, 5, 8)));
    assert_eq!(store.machine().applied_state().await.unwrap().0, Some(log_id(1, 5, 5)));
}

#[tokio::test]
async fn leader_that_starts_anew_has_to_be_elected_again() {
    let directory = Temporary::new();
    let store = directory.open().unwrap();
    let node = store.node();
    store.log().save_vote(&Vote::new_committed(3, node)).await.unwrap();
    assert_eq!(store.follows(), Some(TenureId { term: 3, leader: node }));
    drop(store);
    let store = directory.open().unwrap();
    assert_eq!((store.log().vote(), store.follows()), (Some(Vote::new(3, node)), None));
}

#[tokio::test]
async fn torn_end_of_the_log_is_cut_off_and_written_over() {
    let directory = Temporary::new();
    let store = directory.open().unwrap();
    store.log().save_vote(&Vote::new(1, 5)).await.unwrap();
    let kept = fs::read(directory.file("log")).unwrap().len();
    store.log().save_vote(&Vote::new(2, 5)).await.unwrap();
    drop(store);
    let whole = fs::read(directory.file("log")).unwrap();
    for cut in kept + 1..whole.len() {
        fs::write(directory.file("log"), &whole[..cut]).unwrap();
        let store = directory.open().unwrap();
        assert_eq!(store.log().vote(), Some(Vote::new(1, 5)), "cut at {cut}");
        store.log().save_vote(&Vote::new(3, 5)).await.unwrap();
        drop(store);
        assert_eq!(directory.open().unwrap().log().vote(), Some(Vote::new(3, 5)));
    }
}

#[tokio::test]
async fn damaged_and_missing_files_are_refused() {
    let directory = Temporary::new();
    let store = directory.open().unwrap();
    store.log().save_vote(&Vote::new(1, 5)).await.unwrap();
    store.machine().apply([entry(1, 1)]).await.unwrap();
    store.machine().build_snapshot().await.unwrap();
    drop(store);
    for name in ["identity", "log", "snapshot"] {
        let path = directory.file(name);
        let whole = fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        damaged[20] ^= 4;
        fs::write(&path, damaged).unwrap();
        let error = directory.open().unwrap_err().to_string();
        assert!(error.contains(&format!("{} is damaged at byte 0", path.display())), "{error}");
        assert!(error.contains("move the directory away"), "{error}");
        fs::write(&path, &whole).unwrap();
        if name != "snapshot" {
            fs::remove_file(&path).unwrap();
            let error = directory.open().unwrap_err();
            assert!(matches!(&error, StoreError::Missing(lost) if *lost == path), "{error}");
            fs::write(&path, &whole).unwrap();
        }
    }
    assert_eq!(directory.open().unwrap().log().vote(), Some(Vote::new(1, 5)));
}

#[test]
fn start_that_did_not_get_far_is_repeated() {
    let directory = Temporary::new();
    drop(directory.open().unwrap());
    fs::remove_file(directory.file("identity")).unwrap();
    directory.open().unwrap();
}

#[test]
fn lost_directory_means_a_new_number() {
    let directory = Temporary::new();
    let node = directory.open().unwrap().node();
    assert_eq!(directory.open().unwrap().node(), node);
    fs::remove_dir_all(&directory.0).unwrap();
    assert_ne!(directory.open().unwrap().node(), node);
}

#[test]
fn directory_of_another_host_or_process_is_refused() {
    let directory = Temporary::new();
    let store = directory.open().unwrap();
    let error = directory.open().unwrap_err().to_string();
    assert!(error.contains("in use by another process"), "{error}");
    drop(store);
    let error = Store::open(&directory.0, "n2").unwrap_err().to_string();
    assert!(error.contains(r#"the state of host "n1", this one is "n2""#), "{error}");
}

#[test]
fn later_formats_are_refused() {
    let directory = Temporary::new();
    drop(directory.open().unwrap());
    let begin = fs::read(directory.file("log")).unwrap();
    let later = br#"{"begin":{"format":2,"node":1}}"#;
    fs::write(directory.file("log"), record::encode(0, later)).unwrap();
    let error = directory.open().unwrap_err().to_string();
    assert!(error.contains("it has format 2, this program knows 1"), "{error}");
    fs::write(directory.file("log"), begin).unwrap();
    let later = br#"{"version":2,"cluster":"something else"}"#;
    fs::write(directory.file("snapshot"), record::encode(0, later)).unwrap();
    let error = directory.open().unwrap_err().to_string();
    assert!(error.contains("it has version 2") && error.contains("newer version"), "{error}");
}

#[tokio::test]
async fn nothing_is_written_after_a_failure() {
    let directory = Temporary::new();
    let store = directory.open().unwrap();
    let mut log = store.log();
    log.blocking_append([entry(1, 1), entry(1, 2)]).await.unwrap();
    assert_eq!(log.failure(), None);
    // The file that would take the log's place cannot be made.
    fs::create_dir(directory.file("log.new")).unwrap();
    log.purge(log_id(1, 5, 1)).await.unwrap_err();
    let failure = log.failure().unwrap();
    assert!(failure.contains("log.new: cannot make"), "{failure}");
    log.save_vote(&Vote::new(9, 5)).await.unwrap_err();
    assert_eq!(log.vote(), None, "a vote that is not on disk is not answered");
    drop((log, store));
    let store = directory.open().unwrap();
    assert_eq!((store.log().vote(), indexes(&store).await), (None, vec![1, 2]));
}

#[tokio::test]
async fn closed_directory_is_free_and_no_longer_written() {
    let directory = Temporary::new();
    let store = directory.open().unwrap();
    let (mut log, mut machine) = (store.log(), store.machine());
    log.save_vote(&Vote::new(1, 5)).await.unwrap();
    store.close();
    let next = directory.open().unwrap();
    log.save_vote(&Vote::new(2, 5)).await.unwrap_err();
    machine.build_snapshot().await.unwrap_err();
    assert_eq!(next.log().vote(), Some(Vote::new(1, 5)));
}

#[test]
fn errors_name_the_path_and_the_way_out() {
    let directory = Temporary::new();
    fs::write(&directory.0, "a file").unwrap();
    let error = directory.open().unwrap_err().to_string();
    let path = directory.0.display();
    assert!(error.starts_with(&format!("{path}: cannot make the directory: ")), "{error}");
    assert!(error.ends_with("; `stateDir` must name a directory"), "{error}");
    let kinds = [
        (std::io::ErrorKind::StorageFull, "make room"),
        (std::io::ErrorKind::ReadOnlyFilesystem, "mount it writable"),
        (std::io::ErrorKind::PermissionDenied, "it must belong to the user"),
    ];
    for (kind, advice) in kinds {
        let error = files::io("sync", Path::new("/var/lib/kube-vip/log"))(kind.into()).to_string();
        assert!(error.starts_with("/var/lib/kube-vip/log: cannot sync: "), "{error}");
        assert!(error.contains(advice), "{error}");
    }
}

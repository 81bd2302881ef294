//! The state directory: lock, whole files replaced at once, and errors that say what to do.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::record::{self, Damage};

/// Why a host has no use for its state directory. It must not go on without: it could vote twice.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused something.
    #[error("{path}: cannot {action}: {cause}{advice}", path = .path.display(), advice = advice(.cause))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// Another process has it open.
    #[error(
        "{path}: in use by another process; two instances need state directories of their own",
        path = .0.display()
    )]
    InUse(PathBuf),
    /// A file is not as it was written.
    #[error(
        "{path} is damaged {damage}; what this host has promised to others is lost: move the \
         directory away, and the host joins its cluster as a new one",
        path = .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where, and how.
        damage: Damage,
    },
    /// A file is gone that has to be there.
    #[error(
        "{path} is missing, though the directory was in use; what this host has promised to others \
         is lost: move the directory away, and the host joins its cluster as a new one",
        path = .0.display()
    )]
    Missing(PathBuf),
    /// A file's content cannot be understood.
    #[error(
        "{path} cannot be read ({why}); was it written by a newer version of kube-vip? Run that \
         one, or move the directory away",
        path = .path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is odd about it.
        why: String,
    },
    /// The directory was made for a host with another id.
    #[error(
        "{path} is the state of host {theirs:?}, this one is {ours:?}; correct `localPeer.id`, or \
         move the directory away if it was copied",
        path = .path.display()
    )]
    OtherHost {
        /// The file that says so.
        path: PathBuf,
        /// Whose state it is.
        theirs: String,
        /// Who we are.
        ours: String,
    },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; it must belong to the user kube-vip runs as",
        io::ErrorKind::ReadOnlyFilesystem => {
            "; mount it writable, or name another directory (`stateDir`)"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make room: a few megabytes are enough"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "; `stateDir` must name a directory"
        }
        _ => "",
    }
}

/// A state directory that this process alone uses.
#[derive(Debug)]
pub(super) struct Files {
    directory: PathBuf,
    lock: File,
}

impl Files {
    /// Takes the directory, and makes it if it does not exist.
    pub(super) fn take(directory: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(directory).map_err(io("make the directory", directory))?;
        let path = directory.join("lock");
        let lock = File::options().create(true).append(true).open(&path);
        let lock = lock.map_err(io("open", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { directory: directory.to_owned(), lock }),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse(directory.to_owned())),
            Err(TryLockError::Error(error)) => Err(io("lock", &path)(error)),
        }
    }

    /// Lets other processes have it.
    pub(super) fn release(&self) {
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(directory = %self.directory.display(), %error, "cannot unlock");
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A whole file; nothing where there is none.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io("read", &path)(error)),
        }
    }

    /// The only record of a file.
    pub(super) fn read_one(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        let damaged = |damage| StoreError::Damaged { path: self.path(name), damage };
        let (records, whole) = record::decode(&bytes).map_err(damaged)?;
        // It was renamed to its place when it was whole.
        match records[..] {
            [record] if whole == bytes.len() => Ok(Some(record.to_vec())),
            _ => Err(damaged(Damage { at: whole, what: "it does not hold one whole record" })),
        }
    }

    /// Puts a file in the place of another. After a crash there is the old one or the new one.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> Result<File, StoreError> {
        let path = self.path(name);
        let fresh = self.path(&format!("{name}.new"));
        let mut file = File::create(&fresh).map_err(io("make", &fresh))?;
        file.write_all(bytes).map_err(io("write", &fresh))?;
        file.sync_all().map_err(io("sync", &fresh))?;
        fs::rename(&fresh, &path).map_err(io("replace", &path))?;
        let directory = File::open(&self.directory).and_then(|directory| directory.sync_all());
        directory.map_err(io("sync", &self.directory))?;
        Ok(file)
    }
}

/// Names path and action in an error of the system.
pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |cause| StoreError::Io { path, action, cause }
}

//! Locks against other instances on the same host.
//!
//! `flock` on small files: the kernel releases it however the process ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A lock was not to be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has the name of the instance.
    #[error(
        "instance {instance:?} is running on this host already ({holder}): stop it, \
         or give this one another name (`instance: NAME` in the configuration)"
    )]
    InstanceTaken {
        /// The name.
        instance: String,
        /// Who has it.
        holder: Holder,
    },
    /// Another instance has the VIP.
    #[error(
        "VIP {vip} belongs to another instance on this host ({holder}): \
         take it out of one of the two configurations, or stop that instance"
    )]
    VipTaken {
        /// The VIP.
        vip: IpAddr,
        /// Who has it.
        holder: Holder,
    },
    /// The file system does not let us.
    #[error("cannot lock {}: {cause}", path.display())]
    Io {
        /// The lock's file.
        path: PathBuf,
        /// What the kernel says.
        cause: io::Error,
    },
}

/// Who has a lock, by what is written in its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// Name of the instance; empty in the moment before it is written.
    pub instance: String,
    /// Its process.
    pub pid: Option<u32>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.instance.as_str(), self.pid) {
            ("", _) => f.write_str("not yet named"),
            (instance, Some(pid)) => write!(f, "instance {instance:?}, pid {pid}"),
            (instance, None) => write!(f, "instance {instance:?}"),
        }
    }
}

/// The name of the instance, held until dropped.
#[derive(Debug)]
pub struct InstanceLock {
    _lock: Lock,
}

impl InstanceLock {
    /// Takes the name.
    ///
    /// # Errors
    /// Another process has it, or the file system does not let us.
    pub fn acquire(dir: &Path, instance: &str) -> Result<Self, LockError> {
        let path = dir.join(format!("{instance}.lock"));
        match Lock::acquire(path, instance)? {
            Ok(lock) => Ok(Self { _lock: lock }),
            Err(holder) => Err(LockError::InstanceTaken { instance: instance.to_owned(), holder }),
        }
    }
}

/// The VIPs of the instance, held until dropped.
#[derive(Debug)]
pub struct VipLocks {
    dir: PathBuf,
    instance: String,
    held: BTreeMap<IpAddr, Lock>,
}

impl VipLocks {
    /// Takes the VIPs, all or none.
    ///
    /// # Errors
    /// Another instance has one of them, or the file system does not let us.
    pub fn acquire(
        dir: &Path,
        instance: &str,
        vips: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Self, LockError> {
        let mut locks =
            Self { dir: dir.to_owned(), instance: instance.to_owned(), held: BTreeMap::new() };
        locks.change(vips)?;
        Ok(locks)
    }

    /// Exchanges the VIPs: takes the new ones, then lets go of those no longer named.
    ///
    /// # Errors
    /// As [`VipLocks::acquire`]; everything is as it was then.
    pub fn change(&mut self, vips: impl IntoIterator<Item = IpAddr>) -> Result<(), LockError> {
        let wanted: BTreeSet<IpAddr> = vips.into_iter().collect();
        let mut new = BTreeMap::new();
        for vip in wanted.iter().filter(|vip| !self.held.contains_key(vip)) {
            let path = self.dir.join(format!("vip-{vip}.lock"));
            match Lock::acquire(path, &self.instance)? {
                Ok(lock) => new.insert(*vip, lock),
                Err(holder) => return Err(LockError::VipTaken { vip: *vip, holder }),
            };
        }
        self.held.append(&mut new);
        self.held.retain(|vip, _| wanted.contains(vip));
        Ok(())
    }

    /// The VIPs that are held.
    pub fn vips(&self) -> impl Iterator<Item = IpAddr> {
        self.held.keys().copied()
    }
}

#[derive(Debug)]
struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    /// The inner error is the process that has it.
    fn acquire(path: PathBuf, instance: &str) -> Result<Result<Self, Holder>, LockError> {
        match Self::try_acquire(&path, instance) {
            Ok(Ok(file)) => Ok(Ok(Self { path, file })),
            Ok(Err(holder)) => Ok(Err(holder)),
            Err(cause) => Err(LockError::Io { path, cause }),
        }
    }

    fn try_acquire(path: &Path, instance: &str) -> io::Result<Result<File, Holder>> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(Err(holder(&mut file))),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Its last holder may have removed it between open and lock.
            if is_at(&file, path) {
                file.set_len(0)?;
                writeln!(file, "{instance} {}", std::process::id())?;
                return Ok(Ok(file));
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn holder(file: &mut File) -> Holder {
    let mut bytes = Vec::new();
    // The file may be anything by now; only its first words are asked for.
    let _ = file.take(256).read_to_end(&mut bytes);
    holder_of(&bytes)
}

/// Who a lock's file says has it.
pub(crate) fn holder_of(bytes: &[u8]) -> Holder {
    let text = String::from_utf8_lossy(bytes);
    let mut words = text.split_whitespace();
    Holder {
        instance: words.next().unwrap_or_default().to_owned(),
        pid: words.next().and_then(|pid| pid.parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn ips<const N: usize>(ips: [&str; N]) -> [IpAddr; N] {
        ips.map(|ip| ip.parse().unwrap())
    }

    #[test]
    fn a_name_is_taken_once() {
        let dir = TempDir::new();
        let first = InstanceLock::acquire(dir.path(), "a").unwrap();
        let _other = InstanceLock::acquire(dir.path(), "b").unwrap();
        let error = InstanceLock::acquire(dir.path(), "a").unwrap_err().to_string();
        let pid = std::process::id();
        assert!(error.contains(&format!("instance \"a\", pid {pid}")), "{error}");
        drop(first);
        InstanceLock::acquire(dir.path(), "a").unwrap();
    }

    #[test]
    fn a_vip_of_another_instance_is_refused_and_nothing_is_kept() {
        let dir = TempDir::new();
        let [first, second, third] = ips(["10.0.0.1", "fd00::1", "10.0.0.3"]);
        let _theirs = VipLocks::acquire(dir.path(), "services", [second]).unwrap();
        let error = VipLocks::acquire(dir.path(), "default", [first, second]).unwrap_err();
        let error = error.to_string();
        assert!(error.starts_with("VIP fd00::1 belongs to another instance"), "{error}");
        assert!(error.contains("\"services\""), "{error}");

        let mut ours = VipLocks::acquire(dir.path(), "default", [first]).unwrap();
        assert!(ours.change([third, second]).is_err());
        assert_eq!(ours.vips().collect::<Vec<_>>(), [first]);
        VipLocks::acquire(dir.path(), "x", [third]).unwrap();
    }

    #[test]
    fn a_change_lets_go_of_what_is_no_longer_named() {
        let dir = TempDir::new();
        let [first, second] = ips(["10.0.0.1", "10.0.0.2"]);
        let mut ours = VipLocks::acquire(dir.path(), "a", [first]).unwrap();
        ours.change([second]).unwrap();
        let _theirs = VipLocks::acquire(dir.path(), "b", [first]).unwrap();
        assert!(VipLocks::acquire(dir.path(), "b", [second]).is_err());
        drop(ours);
        VipLocks::acquire(dir.path(), "b", [second]).unwrap();
    }

    #[test]
    fn nothing_is_left_behind() {
        let dir = TempDir::new();
        let vips = VipLocks::acquire(dir.path(), "a", ips(["10.0.0.1", "fd00::1"])).unwrap();
        let name = InstanceLock::acquire(dir.path(), "a").unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        drop((vips, name));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_left_by_a_dead_agent_is_no_obstacle() {
        let dir = TempDir::new();
        fs::write(dir.path().join("a.lock"), "a 4000000000 and a long line of old words\n")
            .unwrap();
        let _lock = InstanceLock::acquire(dir.path(), "a").unwrap();
        let text = fs::read_to_string(dir.path().join("a.lock")).unwrap();
        assert_eq!(text, format!("a {}\n", std::process::id()));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let error = InstanceLock::acquire(Path::new("/dev/null/x"), "a").unwrap_err().to_string();
        assert!(error.starts_with("cannot lock /dev/null/x/a.lock: "), "{error}");
    }
}

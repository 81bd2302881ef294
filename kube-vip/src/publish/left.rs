//! Sockets and locks of agents that ended without taking leave.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::lock::{VipLocks, holder_of};
use super::socket;

/// A VIP's lock is named like this.
const VIP: &str = "vip-";
const LOCK: &str = ".lock";
const SOCKET: &str = ".sock";

/// The instances that have a socket or a lock, running ones among them.
///
/// # Errors
/// The directory cannot be read.
pub fn left_instances(dir: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for path in files(dir)? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let of_vip = name.starts_with(VIP) && name.ends_with(LOCK);
        let name = match name.strip_suffix(SOCKET).or_else(|| name.strip_suffix(LOCK)) {
            _ if of_vip => holder(&path),
            Some(name) => name.to_owned(),
            None => continue,
        };
        // What begins with a dot is a socket on its way to its name.
        if !name.is_empty() && !name.starts_with('.') {
            names.insert(name);
        }
    }
    Ok(names)
}

/// Removes what an instance that is not running left, and says what that was and what stays.
///
/// # Errors
/// The directory cannot be read.
pub fn remove_left(dir: &Path, instance: &str) -> io::Result<Vec<(PathBuf, Result<(), String>)>> {
    let mut done = Vec::new();
    for path in files(dir)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let vip = name.strip_prefix(VIP).and_then(|name| name.strip_suffix(LOCK));
        let vip: Option<IpAddr> = vip.and_then(|vip| vip.parse().ok());
        let result = if path == socket::path(dir, instance) {
            fs::remove_file(&path).map_err(|error| error.to_string())
        } else if let Some(vip) = vip.filter(|_| holder(&path) == instance) {
            // Letting go of it removes it.
            VipLocks::acquire(dir, instance, [vip]).map(drop).map_err(|error| error.to_string())
        } else {
            continue;
        };
        done.push((path, result));
    }
    Ok(done)
}

fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The instance that a lock's file names.
fn holder(path: &Path) -> String {
    holder_of(&fs::read(path).unwrap_or_default()).instance
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::InstanceLock;
    use crate::testing::TempDir;

    #[test]
    fn what_a_dead_instance_left_goes_and_nothing_else() {
        let dir = TempDir::new();
        for (name, text) in [
            ("a.sock", ""),
            ("a.lock", "a 4000000000\n"),
            ("vip-10.0.0.1.lock", "a 4000000000\n"),
            ("vip-fd00::1.lock", "b 4000000000\n"),
            ("b.sock", ""),
            (".77.sock", ""),
            ("notes", "a"),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let names: Vec<String> = left_instances(dir.path()).unwrap().into_iter().collect();
        assert_eq!(names, ["a", "b"]);
        let lock = InstanceLock::acquire(dir.path(), "a").unwrap();
        let mut removed: Vec<String> = Vec::new();
        for (path, result) in remove_left(dir.path(), "a").unwrap() {
            result.unwrap();
            removed.push(path.file_name().unwrap().to_string_lossy().into_owned());
        }
        removed.sort();
        assert_eq!(removed, ["a.sock", "vip-10.0.0.1.lock"]);
        drop(lock);
        let left = files(dir.path()).unwrap().len();
        assert_eq!(left, 4, "b's two, and what is nobody's");
    }

    #[test]
    fn a_directory_that_is_not_there_has_nothing_in_it() {
        let missing = Path::new("/nonexistent/kube-vip");
        assert!(left_instances(missing).unwrap().is_empty());
        assert!(remove_left(missing, "a").unwrap().is_empty());
    }
}

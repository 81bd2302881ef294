//! Where the cgroups of labs live, and how those of dead labs go.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

/// What the directories of all labs are called; the number of the lab's reaper follows.
pub(crate) const PREFIX: &str = "kube-vip-lab-";

/// The root of the cgroup2 hierarchy, wherever this machine has mounted it.
pub(crate) fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .map(|fields| PathBuf::from(fields[1]))
        .context(
            "no cgroup2 hierarchy is mounted, and every host of the lab needs a cgroup: \
             mount one (mkdir /sys/fs/cgroup/unified; mount -t cgroup2 cgroup2 \
             /sys/fs/cgroup/unified)",
        )
}

/// Removes what labs left whose reaper was killed as well.
pub(crate) fn sweep(root: &Path, directories: &Path) {
    for parent in [root, directories] {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(reaper) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
                continue;
            };
            if reaper.parse::<u32>().is_ok() && !reaper_lives(reaper) {
                remove(&entry.path(), parent == root);
            }
        }
    }
}

fn reaper_lives(pid: &str) -> bool {
    fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| String::from_utf8_lossy(&line).contains(PREFIX))
}

fn remove(path: &Path, cgroup: bool) {
    if !cgroup {
        // Another lab may sweep at the same moment: whoever comes second finds nothing.
        let _ = fs::remove_dir_all(path);
        return;
    }
    let _ = fs::write(path.join("cgroup.kill"), "1");
    for _ in 0..100 {
        remove_tree(path);
        if !path.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    eprintln!(
        "lab: {} of a dead lab cannot be removed, a process in it does not end",
        path.display()
    );
}

fn remove_tree(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

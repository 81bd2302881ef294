//! Where maps and links outlive the agent: `/sys/fs/bpf/kube-vip/<instance>/v<layout>/`.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use kube_vip_common::LAYOUT_VERSION;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use tracing::warn;

use super::object::MAP_NAMES;
use super::sys::{self, map_info};

/// Where bpffs is mounted.
const BPFFS: &str = "/sys/fs/bpf";

/// Marks an interface whose clsact qdisc is ours.
const CLSACT: &str = "clsact";

/// The pins of one instance.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    instance: PathBuf,
    version: PathBuf,
}

impl fmt::Display for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.instance.display().fmt(f)
    }
}

impl Pins {
    /// The pins of that instance, of this layout; nothing where bpffs is not mounted.
    pub(super) fn of(instance: &str) -> Option<Self> {
        if !statfs(BPFFS).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC) {
            return None;
        }
        let instance = Path::new(BPFFS).join("kube-vip").join(instance);
        let version = instance.join(format!("v{LAYOUT_VERSION}"));
        Some(Self { instance, version })
    }

    /// The instances that anything is pinned of; none where bpffs is not mounted.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub(super) fn instances() -> io::Result<BTreeSet<String>> {
        match std::fs::read_dir(Path::new(BPFFS).join("kube-vip")) {
            Ok(entries) => {
                let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
                names.filter_map(Result::transpose).collect()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(error) => Err(error),
        }
    }

    /// Whether an earlier agent left anything, of whatever layout.
    pub(super) fn anything(&self) -> bool {
        self.instance.exists()
    }

    /// The directory maps are pinned in.
    pub(super) fn maps(&self) -> &PathBuf {
        &self.version
    }

    /// Where the link of an interface is pinned. Interface names may hold dots, which bpffs keeps
    /// for itself, so it goes by number.
    pub(super) fn link(&self, hook: &str, ifindex: u32) -> PathBuf {
        self.version.join(format!("{hook}-{ifindex}"))
    }

    /// Where the link of a program for sockets is pinned, by the number of its cgroup.
    pub(super) fn socket_link(&self, program: &str, cgroup: u64) -> PathBuf {
        self.version.join(format!("{program}-{cgroup}"))
    }

    /// Where links of that program at other cgroups are pinned.
    pub(super) fn other_socket_links(&self, program: &str, cgroup: Option<u64>) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.version).into_iter().flatten().filter_map(Result::ok);
        let number = |name: &str| -> Option<u64> {
            name.strip_prefix(program)?.strip_prefix('-')?.parse().ok()
        };
        let other = |name: &str| number(name).is_some_and(|number| Some(number) != cgroup);
        entries
            .filter(|entry| entry.file_name().to_str().is_some_and(other))
            .map(|entry| entry.path())
            .collect()
    }

    /// Remembers that the interface's clsact qdisc is ours, for whoever comes after a `kill -9`.
    /// bpffs holds no files but pins, so it is a directory.
    pub(super) fn note_qdisc(&self, ifindex: u32) {
        let _ = std::fs::create_dir(self.link(CLSACT, ifindex));
    }

    /// The interfaces whose clsact qdisc is ours.
    pub(super) fn qdiscs(&self) -> BTreeSet<u32> {
        let entries = std::fs::read_dir(&self.version).into_iter().flatten().filter_map(Result::ok);
        let index = |name: &str| name.strip_prefix(CLSACT)?.strip_prefix('-')?.parse().ok();
        entries.filter_map(|entry| index(entry.file_name().to_str()?)).collect()
    }

    /// Removes the links of interfaces that are not among these: XDP's, egress'. That detaches what
    /// an earlier agent attached there.
    pub(super) fn keep_links(&self, xdp: &BTreeSet<u32>, egress: &BTreeSet<u32>) {
        let entries = std::fs::read_dir(&self.version).into_iter().flatten().filter_map(Result::ok);
        for entry in entries {
            let name = entry.file_name();
            let Some((hook, index)) = name.to_str().and_then(|name| name.rsplit_once('-')) else {
                continue;
            };
            let kept = match hook {
                "xdp-native" | "xdp-generic" => xdp,
                "egress-tcx" => egress,
                _ => continue,
            };
            let Ok(index) = index.parse::<u32>() else { continue };
            if !kept.contains(&index)
                && let Err(error) = std::fs::remove_file(entry.path())
            {
                warn!("{} stays behind: {error}", entry.path().display());
            }
        }
    }

    /// Makes the directory.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(super) fn create(&self) -> io::Result<()> {
        std::fs::create_dir_all(&self.version)
    }

    /// Whether an earlier agent of this layout left anything.
    pub(super) fn exist(&self) -> bool {
        self.version.join("VIPS").exists()
    }

    /// Whether each pinned map is of the type and size of the one given by that name. aya takes over
    /// whatever it finds at a pin, so this is asked first.
    pub(super) fn fit<'a>(&self, wanted: impl Fn(&str) -> Option<BorrowedFd<'a>>) -> bool {
        MAP_NAMES.iter().all(|name| {
            let pinned = MapData::from_pin(self.version.join(name)).ok();
            let infos = pinned.as_ref().zip(wanted(name)).map(|(pinned, wanted)| {
                (map_info(pinned.fd().as_fd(), "a pinned map"), map_info(wanted, "a new map"))
            });
            matches!(infos, Some((Ok(a), Ok(b))) if a.shape() == b.shape())
        })
    }

    /// Removes what other layouts and this one left, links first: what they attach goes with them.
    ///
    /// # Errors
    ///
    /// The first entry that could not be removed; the others are.
    pub(super) fn remove(&self) -> io::Result<()> {
        let result = remove_tree(&self.instance);
        // Shared with other instances: goes with the last one.
        if let Some(parent) = self.instance.parent() {
            let _ = std::fs::remove_dir(parent);
        }
        result
    }

    /// Removes what other layouts left.
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    pub(super) fn remove_others(&self) -> io::Result<()> {
        let Ok(versions) = std::fs::read_dir(&self.instance) else {
            return Ok(());
        };
        let others = versions.filter_map(Result::ok).map(|entry| entry.path());
        others.filter(|path| *path != self.version).try_for_each(|path| remove_tree(&path))
    }
}

/// The tables, by frontend id: only who may do everything can open a map by the number that `TABLES`
/// has of it, and histories are to outlive the agent.
#[derive(Debug, Default)]
pub(super) struct TablePins {
    directory: Option<PathBuf>,
}

impl TablePins {
    /// In a directory of its own beside the maps.
    pub(super) fn beside(pins: &Pins) -> Self {
        let directory = pins.version.join("tables");
        let made = std::fs::create_dir_all(&directory).inspect_err(|error| {
            warn!(
                "{}: {error}; slots forget where they led when the agent ends",
                directory.display()
            );
        });
        Self { directory: made.is_ok().then_some(directory) }
    }

    /// Pins a table in the place of the one before.
    pub(super) fn put(&self, id: u32, table: BorrowedFd<'_>) {
        let Some(directory) = &self.directory else { return };
        let (new, place) = (directory.join(format!("{id}-new")), directory.join(id.to_string()));
        // Of an agent that ended in between.
        let _ = std::fs::remove_file(&new);
        if let Err(error) = sys::pin(&new, table).and_then(|()| std::fs::rename(&new, &place)) {
            warn!("{}: {error}", place.display());
        }
    }

    /// The table with that number of the kernel's, if it is the one that is pinned.
    pub(super) fn get(&self, id: u32, number: u32) -> Option<OwnedFd> {
        let table = sys::pinned(&self.directory.as_ref()?.join(id.to_string())).ok()?;
        let found = map_info(table.as_fd(), "a pinned table").ok()?.id;
        (found == number).then_some(table)
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

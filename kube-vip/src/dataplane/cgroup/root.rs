//! Where the root of the cgroup2 hierarchy is: a pure v2 host mounts it at /sys/fs/cgroup, a hybrid
//! one below, a container sees its own part there and the host's where a manifest mounted it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// Finds the cgroup whose processes are led, or says why there is none.
pub(super) fn find(given: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(path) = given {
        return match look(path) {
            Place::Root | Place::Part => Ok(path.to_owned()),
            Place::Other => {
                Err(format!("cgroupRoot: {} is not a directory of cgroup2", path.display()))
            }
        };
    }
    let table = std::fs::read("/proc/self/mountinfo")
        .map_err(|error| format!("/proc/self/mountinfo: {error}"))?;
    // Some other mount's name may be anything.
    choose(&mounts(&String::from_utf8_lossy(&table)), look)
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The root of the hierarchy.
    Root,
    /// A cgroup below the root.
    Part,
    /// Something else, or nothing.
    Other,
}

fn look(path: &Path) -> Place {
    if !statfs(path).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC) {
        return Place::Other;
    }
    // Every cgroup has this file but the root (Linux Documentation/admin-guide/cgroup-v2.rst,
    // "Core Interface Files"), whatever a cgroup namespace shows as its root.
    if path.join("cgroup.events").exists() { Place::Part } else { Place::Root }
}

fn choose(mounts: &[PathBuf], look: impl Fn(&Path) -> Place) -> Result<PathBuf, String> {
    let find = |wanted| mounts.iter().find(|mount| look(mount) == wanted);
    if let Some(root) = find(Place::Root) {
        return Ok(root.clone());
    }
    Err(match find(Place::Part) {
        Some(part) => format!(
            "{} is only the part of the cgroup hierarchy that this container sees; mount the \
             host's into it (a hostPath of /sys/fs/cgroup, anywhere), or name this one as \
             cgroupRoot",
            part.display()
        ),
        None => "no cgroup2 hierarchy is mounted (mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified)"
            .to_owned(),
    })
}

/// Where cgroup2 is mounted, by `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`), in its order.
pub(crate) fn mounts(table: &str) -> Vec<PathBuf> {
    let mount = |line: &str| {
        // Optional fields stand before the dash, in any number.
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        (after.split(' ').next()? == "cgroup2").then(|| unescape(point))
    };
    table.lines().filter_map(mount).collect()
}

/// Blanks and the like are written as three octal digits behind a backslash.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| first == b'\\');
        let number = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(number.unwrap_or(first));
        rest = if number.is_some() { &tail[3..] } else { tail };
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts_of(table: &str) -> Vec<String> {
        mounts(table).iter().map(|path| path.display().to_string()).collect()
    }

    const PURE: &str = "\
22 29 0:21 / /proc rw,nosuid shared:12 - proc proc rw
32 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
33 23 0:27 / /sys/fs/pstore rw shared:10 - pstore pstore rw
";
    const HYBRID: &str = "\
30 23 0:26 / /sys/fs/cgroup ro,nosuid shared:4 - tmpfs tmpfs ro,size=4096k,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:5 - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/systemd rw shared:6 - cgroup cgroup rw,xattr,name=systemd
";
    /// With a private cgroup namespace, and the host's hierarchy through a hostPath volume.
    const CONTAINER: &str = "\
1471 1470 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw
1499 1450 0:26 /../../.. /host/cgroup\\040root rw - cgroup2 cgroup2 rw,nsdelegate
";
    const LEGACY: &str = "\
30 23 0:26 / /sys/fs/cgroup ro shared:4 - tmpfs tmpfs ro
35 30 0:31 / /sys/fs/cgroup/cpu rw shared:8 - cgroup cgroup rw,cpu
";

    #[test]
    fn mounts_are_read_from_any_kind_of_host() {
        let cases: [(&str, &[&str]); 7] = [
            (PURE, &["/sys/fs/cgroup"]),
            (HYBRID, &["/sys/fs/cgroup/unified"]),
            (CONTAINER, &["/sys/fs/cgroup", "/host/cgroup root"]),
            (LEGACY, &[]),
            // No optional fields, and many.
            ("1 2 0:3 / /a rw - cgroup2 none rw\n", &["/a"]),
            ("1 2 0:3 / /b rw shared:1 master:2 propagate_from:3 - cgroup2 none rw\n", &["/b"]),
            // Cut short, or something else in every place.
            ("\n1 2 0:3 / /c rw - \n1 2 0:3 / /c\ncgroup2\n1 2 - cgroup2 none rw\n", &[]),
        ];
        for (table, expected) in cases {
            assert_eq!(mounts_of(table), expected, "{table}");
        }
    }

    #[test]
    fn backslashes_that_begin_no_number_stay() {
        for (text, path) in [
            ("/a\\040b", "/a b"),
            ("/a\\134b", "/a\\b"),
            ("/a\\", "/a\\"),
            ("/a\\04", "/a\\04"),
            ("/a\\999", "/a\\999"),
            ("/ä\\011", "/ä\t"),
        ] {
            assert_eq!(unescape(text), Path::new(path), "{text}");
        }
    }

    #[test]
    fn the_root_of_the_hierarchy_is_preferred_wherever_it_is_mounted() {
        let container = mounts(CONTAINER);
        let host = |path: &Path| match path.to_str() {
            Some("/host/cgroup root") => Place::Root,
            _ => Place::Part,
        };
        assert_eq!(choose(&container, host), Ok("/host/cgroup root".into()));
        // Covered by something else since.
        assert!(choose(&container, |_| Place::Other).unwrap_err().contains("no cgroup2"));
        let refused = choose(&container, |_| Place::Part).unwrap_err();
        assert!(refused.starts_with("/sys/fs/cgroup is only the part"), "{refused}");
        assert!(choose(&mounts(LEGACY), |_| Place::Root).unwrap_err().contains("no cgroup2"));
    }

    #[test]
    fn a_given_path_must_be_a_cgroup() {
        let refused = find(Some(Path::new("/proc"))).unwrap_err();
        assert_eq!(refused, "cgroupRoot: /proc is not a directory of cgroup2");
        assert!(find(Some(Path::new("/nowhere"))).is_err());
    }
}

//! Knowing that nothing changed: a readable list of what went into a build and what came out.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// What a build depends on, or made: a name and the content (or its hash) by which it is told
/// apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fingerprint(BTreeMap<String, String>);

impl Fingerprint {
    /// Adds something whose value is short enough to be kept as it is.
    pub(crate) fn value(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.trim().replace('\n', "; "));
    }

    /// Adds the content of a file, or that it is missing.
    pub(crate) fn file(&mut self, name: &str, path: &Path) -> Result<()> {
        let hash = match fs::read(path) {
            Ok(content) => format!("{:032x}", fnv1a(&content)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => "missing".to_owned(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        self.0.insert(name.to_owned(), hash);
        Ok(())
    }

    /// Adds every file below a directory, except hidden ones and `target`.
    pub(crate) fn tree(&mut self, name: &str, dir: &Path) -> Result<()> {
        let entries = dir.read_dir().with_context(|| format!("cannot read {}", dir.display()))?;
        for entry in entries {
            let entry = entry?;
            let file_name = entry.file_name().to_string_lossy().into_owned();
            if file_name.starts_with('.') || file_name == "target" {
                continue;
            }
            let name = format!("{name}/{file_name}");
            if entry.file_type()?.is_dir() {
                self.tree(&name, &entry.path())?;
            } else {
                self.file(&name, &entry.path())?;
            }
        }
        Ok(())
    }

    /// The text kept beside the result.
    pub(crate) fn to_text(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, (name, value)| {
            let _ = writeln!(text, "{name}\t{value}");
            text
        })
    }

    /// Reads [`Fingerprint::to_text`] back; lines it does not understand count as a difference.
    pub(crate) fn from_text(text: &str) -> Self {
        let split = |line: &str| {
            let (name, value) = line.split_once('\t').unwrap_or((line, ""));
            (name.to_owned(), value.to_owned())
        };
        Self(text.lines().map(split).collect())
    }

    /// Why a build with `self` differs from one with `old`, in a few words; nothing if it does not.
    pub(crate) fn difference(&self, old: &Self) -> Option<String> {
        let changed = |name: &&String| old.0.get(*name) != self.0.get(*name);
        let gone = old.0.keys().filter(|name| !self.0.contains_key(*name));
        let names: Vec<&str> =
            self.0.keys().filter(changed).chain(gone).map(String::as_str).collect();
        match names[..] {
            [] => None,
            [one] => Some(format!("{one} changed")),
            [first, ..] => Some(format!("{first} and {} more changed", names.len() - 1)),
        }
    }
}

/// FNV-1a with 128 bits: enough to notice a change, and no dependency.
fn fnv1a(content: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    content.iter().fold(OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::{Fingerprint, fnv1a};
    use std::fs;

    #[test]
    fn the_hash_is_fnv1a() {
        assert_eq!(fnv1a(b""), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        assert_eq!(fnv1a(b"a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    }

    #[test]
    fn survives_being_written() {
        let mut print = Fingerprint::default();
        print.value("flags", "-C linker=bpf-linker");
        print.value("rustc", "rustc 1.96.0\nrelease: 1.96.0\n");
        assert_eq!(Fingerprint::from_text(&print.to_text()), print);
    }

    #[test]
    fn names_what_changed() {
        let mut old = Fingerprint::default();
        old.value("a", "1");
        old.value("b", "1");
        let mut new = old.clone();
        assert_eq!(new.difference(&old), None);
        new.value("b", "2");
        assert_eq!(new.difference(&old).unwrap(), "b changed");
        new.value("c", "1");
        assert_eq!(new.difference(&old).unwrap(), "b and 1 more changed");
        assert_eq!(Fingerprint::default().difference(&old).unwrap(), "a and 1 more changed");
    }

    #[test]
    fn a_tree_is_its_content_not_its_times() {
        let dir = std::env::temp_dir().join(format!("xtask-fingerprint-{}", std::process::id()));
        fs::create_dir_all(dir.join("src")).unwrap();
        fs::create_dir_all(dir.join("target")).unwrap();
        let print = || {
            let mut print = Fingerprint::default();
            print.tree("t", &dir).unwrap();
            print
        };
        fs::write(dir.join("src/main.rs"), "one").unwrap();
        let first = print();
        fs::write(dir.join("src/main.rs"), "one").unwrap();
        fs::write(dir.join("target/x"), "output").unwrap();
        assert_eq!(print(), first);
        fs::write(dir.join("src/main.rs"), "two").unwrap();
        assert_eq!(print().difference(&first).unwrap(), "t/src/main.rs changed");
        fs::remove_dir_all(&dir).unwrap();
    }
}

//! Everything that is read from outside, with random bytes: what `fuzz/` does for hours, for a
//! moment, so that neither the entries nor their targets are forgotten.

use std::fs;
use std::path::Path;

use kube_vip::fuzzing::ENTRIES;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// What gets past the first bytes, by the name of its entry.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    match name {
        "config" => vec![include_bytes!("../src/config/sample.yaml").to_vec()],
        "netlink" => messages(),
        "mountinfo" => vec![MOUNTS.to_vec()],
        "probe" => vec![b"kvip\x01\x02\x00\x01 a nonce and a digest    ".to_vec()],
        "lock" => vec![b"services 4711\n".to_vec()],
        "status" => vec![STATUS.as_bytes().to_vec()],
        _ => vec![],
    }
}

/// The shortest status there is.
const STATUS: &str = r#"{"instance":"a","version":"1","host":"h","pid":1,"ready":true,
"config":{"path":"f","refused":null},"uplinks":[],"vips":[],"frontends":[],"counters":{"a":1},
"notices":["b"]}"#;

/// Two mounts, one with an optional field and a name with a blank (`proc_pid_mountinfo(5)`).
const MOUNTS: &[u8] = b"22 29 0:21 / /proc rw shared:12 - proc proc rw
32 23 0:26 / /sys/fs/a\\040b rw - cgroup2 cgroup2 rw
";

/// Links, addresses, routes and neighbours as the kernel tells of them: a header (length, type, flags,
/// number, port), the fixed part and one attribute of each kind (linux/rtnetlink.h).
fn messages() -> Vec<Vec<u8>> {
    let fixed = [(16_u16, 16), (20, 8), (24, 12), (28, 12)];
    fixed
        .into_iter()
        .map(|(kind, length)| {
            let mut body = vec![2; length];
            for attribute in 0..24_u16 {
                let content = [10, 0, 0, 1, 0, 0, 0, 0];
                body.extend(12_u16.to_ne_bytes());
                body.extend(attribute.to_ne_bytes());
                body.extend(content);
            }
            let mut message = (body.len() as u32 + 16).to_ne_bytes().to_vec();
            message.extend(kind.to_ne_bytes());
            message.extend([0; 10]);
            message.extend(body);
            message
        })
        .collect()
}

/// A seed with some bytes changed and its end cut off.
fn near(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec((any::<Index>(), any::<u8>()), 0..6);
    (select(seeds), changes, any::<Index>(), any::<bool>()).prop_map(
        |(mut bytes, changes, end, cut)| {
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if cut {
                bytes.truncate(end.index(bytes.len()));
            }
            bytes
        },
    )
}

#[test]
fn no_bytes_make_anything_panic() {
    for (name, entry) in ENTRIES {
        let any = proptest::collection::vec(any::<u8>(), 0..300);
        let seeds = seeds(name);
        seeds.iter().for_each(|seed| entry(seed));
        let bytes =
            if seeds.is_empty() { any.boxed() } else { prop_oneof![any, near(seeds)].boxed() };
        proptest!(ProptestConfig::with_cases(2000), |(bytes in bytes)| entry(&bytes));
    }
}

#[test]
fn every_entry_has_its_fuzz_target() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).expect("fuzz/Cargo.toml");
    let mut targets: Vec<_> = manifest
        .lines()
        .filter_map(|line| Some(line.strip_prefix("name = \"")?.trim_end_matches('"')))
        .filter(|name| *name != "kube-vip-fuzz")
        .collect();
    targets.sort_unstable();
    let mut names: Vec<_> = ENTRIES.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    assert_eq!(targets, names);
    for name in names {
        let target = fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs")));
        assert!(target.expect("its file").contains(&format!("fuzzing::{name}(")));
    }
}

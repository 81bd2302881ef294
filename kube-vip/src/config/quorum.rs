//! How the hosts agree among themselves who owns what; `election: file` does without.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use kube_vip_quorum::node::even_number;
use kube_vip_quorum::time::Timing;
use kube_vip_quorum::transport::Secret;

use super::peers::Peers;
use super::reader::{Located, Section, address, quote};
use super::yaml::Value;

const KEYS: [&str; 7] =
    ["stateDir", "weight", "prefer", "heartbeat", "lease", "deadAfter", "election"];

/// Where an agent keeps what it must not forget.
const STATE_DIR: &str = "/var/lib/kube-vip";

/// Who says who owns the VIPs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Election {
    /// The files: `singleNode`, or `startAsLeader` on one of the hosts.
    #[default]
    File,
    /// A majority of the hosts.
    Quorum(Box<Quorum>),
}

/// How the hosts agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// What protects their talk.
    pub secret: SecretSource,
    /// Where each instance has a directory with what it has promised.
    pub state_dir: PathBuf,
    /// Share of the VIPs that are spread.
    pub weight: u32,
    /// Lengths of time, the same on all hosts.
    pub timing: Timing,
}

/// Where the shared secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// In the file itself.
    Text(Secret),
    /// In another file.
    File(PathBuf),
    /// In the environment, if anywhere.
    Environment,
    /// There is none: whoever reaches the port can take part.
    Insecure,
}

/// What the file says of it all.
#[derive(Default)]
pub(super) struct Written {
    pub(super) election: Election,
    /// Ids of the hosts that a VIP goes to first.
    pub(super) preferences: BTreeMap<IpAddr, Vec<String>>,
}

/// Reads `election` and what belongs to it. Hosts that have peers agree among themselves unless the
/// file says otherwise.
pub(super) fn read(
    section: &Section<'_>,
    single_node: bool,
    peers: Option<&Peers>,
    vips: &[IpAddr],
) -> Written {
    let alone = single_node || peers.is_some_and(|peers| peers.remote.is_empty());
    let way = section.text("election");
    let (quorum, preferences) = quorum(section, peers, vips);
    let many = peers.map_or(1, |peers| peers.remote.len() + 1);
    let by_quorum = Written { election: Election::Quorum(Box::new(quorum)), preferences };
    let agreed = || {
        if let Some(warning) = even_number(many) {
            section.findings.notice("remotePeers", &warning);
        }
        by_quorum
    };
    match way.as_ref().map(|text| text.value.as_str()) {
        None if !alone => agreed(),
        None | Some("file") => {
            for key in ["secret", "secretFile", "insecurePeers", "quorum"] {
                if section.has(key) && !section.is_blank(key) {
                    let why = match way {
                        Some(_) => "has no effect with `election: file`",
                        None => "has no effect without other hosts",
                    };
                    section.findings.notice(key, why);
                }
            }
            Written::default()
        }
        Some("quorum") if alone => {
            let message = "quorum takes other hosts: write them under remotePeers, or leave the \
                           key out";
            section.problem("election", message);
            Written::default()
        }
        Some("quorum") => agreed(),
        Some(other) => {
            let message = format!("{} is no election; write quorum or file", quote(other));
            section.problem("election", message);
            Written::default()
        }
    }
}

fn quorum(
    section: &Section<'_>,
    peers: Option<&Peers>,
    vips: &[IpAddr],
) -> (Quorum, BTreeMap<IpAddr, Vec<String>>) {
    let timing = Timing::default();
    let written = section
        .get("quorum")
        .and_then(|node| Section::new(node, section.path_of("quorum"), &KEYS, section.findings));
    let mut quorum =
        Quorum { secret: secret(section), state_dir: PathBuf::from(STATE_DIR), weight: 1, timing };
    let Some(written) = written else { return (quorum, BTreeMap::new()) };
    let bounds = Duration::from_millis(1)..=Duration::from_secs(60);
    let time = |key, usual| written.duration(key, bounds.clone()).unwrap_or(usual);
    quorum.timing = Timing {
        heartbeat: time("heartbeat", timing.heartbeat),
        lease: time("lease", timing.lease),
        dead_after: time("deadAfter", timing.dead_after),
        election: time("election", timing.election),
    };
    if let Err(error) = quorum.timing.checked() {
        written.problem(error.setting, format!("{:?} {}", error.value, error.problem));
    }
    quorum.weight = written.number("weight", 0, 1000).unwrap_or(1);
    if let Some(path) = path(&written, "stateDir") {
        quorum.state_dir = path;
    }
    let preferences = preferences(&written, peers, vips);
    (quorum, preferences)
}

/// `prefer`: ids for all VIPs, or for each VIP its own.
fn preferences(
    written: &Section<'_>,
    peers: Option<&Peers>,
    vips: &[IpAddr],
) -> BTreeMap<IpAddr, Vec<String>> {
    let mut found = BTreeMap::new();
    let Some(node) = written.get("prefer") else { return found };
    let ids = |section: &Section<'_>, key: &str| -> Vec<String> {
        let words = section.words(key);
        for Located { value, path, .. } in &words {
            let known = peers.is_none_or(|peers| {
                peers.remote.iter().chain([&peers.local]).any(|peer| peer.id == *value)
            });
            // It may join later.
            if !known {
                let shown = quote(value);
                section.findings.notice(path, &format!("{shown} is none of this file's hosts"));
            }
        }
        words.into_iter().map(|word| word.value).collect()
    };
    let Value::Map(entries) = &node.value else {
        let ids = ids(written, "prefer");
        return vips.iter().map(|vip| (*vip, ids.clone())).collect();
    };
    let keys: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
    let path = written.path_of("prefer");
    let Some(section) = Section::new(node, path, &keys, written.findings) else { return found };
    for entry in entries {
        let (line, path) = (entry.line, section.path_of(&entry.key));
        let vip = Located { value: entry.key.clone(), line, path };
        let Some(vip) = address(&vip, written.findings) else { continue };
        if vips.contains(&vip.value) {
            found.insert(vip.value, ids(&section, &entry.key));
        } else {
            let message = format!("{} is none of the file's VIPs", vip.value);
            written.findings.problem(line, &vip.path, message);
        }
    }
    found
}

fn secret(section: &Section<'_>) -> SecretSource {
    let insecure = section.boolean("insecurePeers").unwrap_or(false);
    let (text, file) = (section.text("secret"), path(section, "secretFile"));
    let text = text.filter(|text| !text.value.is_empty());
    match (text, file) {
        (Some(_), Some(_)) => {
            section.problem("secretFile", "there is a `secret` too; keep one of the two");
            SecretSource::Insecure
        }
        (Some(_), None) | (None, Some(_)) if insecure => {
            let message = "there is a secret too, which would not be used; keep one of the two";
            section.problem("insecurePeers", message);
            SecretSource::Insecure
        }
        (Some(text), None) => match text.value.parse::<Secret>() {
            Ok(secret) => SecretSource::Text(secret),
            Err(error) => {
                let said = error.to_string();
                section.problem("secret", said.trim_start_matches("secret: ").to_owned());
                SecretSource::Insecure
            }
        },
        (None, Some(file)) => SecretSource::File(file),
        (None, None) if insecure => SecretSource::Insecure,
        (None, None) => SecretSource::Environment,
    }
}

fn path(section: &Section<'_>, key: &str) -> Option<PathBuf> {
    let text = section.text(key)?.value;
    if text.starts_with('/') && !text.contains(char::is_control) {
        return Some(PathBuf::from(text));
    }
    section.problem(key, format!("{} is not an absolute path", quote(&text)));
    None
}

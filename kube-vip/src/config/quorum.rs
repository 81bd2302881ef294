//! `election: quorum`: how the hosts agree among themselves who owns what.

use std::path::PathBuf;
use std::time::Duration;

use kube_vip_quorum::time::Timing;
use kube_vip_quorum::transport::Secret;

use super::reader::{Section, quote};

const KEYS: [&str; 6] = ["stateDir", "weight", "heartbeat", "lease", "deadAfter", "election"];

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

/// Reads `election` and what belongs to it.
pub(super) fn read(section: &Section<'_>, single_node: bool, alone: bool) -> Election {
    let way = section.text("election");
    let quorum = quorum(section);
    match way.as_ref().map(|text| text.value.as_str()) {
        None | Some("file") => {
            for key in ["secret", "secretFile", "insecurePeers", "quorum"] {
                if section.has(key) && !section.is_blank(key) {
                    section.findings.notice(key, "has no effect without `election: quorum`");
                }
            }
            Election::File
        }
        Some("quorum") if single_node || alone => {
            let message = "quorum takes other hosts: write them under remotePeers, or leave the \
                           key out";
            section.problem("election", message);
            Election::File
        }
        Some("quorum") => Election::Quorum(Box::new(quorum)),
        Some(other) => {
            let message = format!("{} is no election; write quorum or file", quote(other));
            section.problem("election", message);
            Election::File
        }
    }
}

fn quorum(section: &Section<'_>) -> Quorum {
    let timing = Timing::default();
    let written = section
        .get("quorum")
        .and_then(|node| Section::new(node, section.path_of("quorum"), &KEYS, section.findings));
    let mut quorum =
        Quorum { secret: secret(section), state_dir: PathBuf::from(STATE_DIR), weight: 1, timing };
    let Some(written) = written else { return quorum };
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
    quorum
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

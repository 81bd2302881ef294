//! `healthCheck` of a load balancer: how its backends are looked at.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::reader::{Section, quote};
use super::{HealthCheck, HttpProbe, Probe, Protocol, Trust};

const KEYS: [&str; 11] = [
    "type",
    "port",
    "period",
    "timeout",
    "fall",
    "rise",
    "path",
    "host",
    "status",
    "caFile",
    "insecureSkipVerify",
];
/// They say something to types http and https only.
const HTTP_KEYS: [&str; 3] = ["path", "host", "status"];
/// They say something to type https only.
const TLS_KEYS: [&str; 2] = ["caFile", "insecureSkipVerify"];

const PERIOD: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(1);
const FALL: u32 = 3;
const RISE: u32 = 2;
const MOST_IN_A_ROW: u32 = 100;
const PERIODS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
/// What the kubelet takes for healthy.
const GOOD: (u16, u16) = (200, 399);
const LONGEST: usize = 1024;

/// Reads it; where there is none, TCP backends are connected to and others left alone.
pub(super) fn read(entry: &Section<'_>, protocol: Option<Protocol>) -> Option<HealthCheck> {
    let Some(node) = entry.get("healthCheck") else {
        return (protocol? == Protocol::Tcp).then_some(DEFAULT);
    };
    let path = entry.path_of("healthCheck");
    let section = Section::new(node, path, &KEYS, entry.findings)?;
    let kind = section.text("type");
    let kind = kind.as_ref().map_or("tcp", |kind| kind.value.as_str());
    let probe = match kind {
        "tcp" => Probe::Tcp,
        "http" => Probe::Http(http(&section, None)),
        "https" => Probe::Http(http(&section, Some(trust(&section)?))),
        "none" => return None,
        other => {
            let message = format!("{} is not known; write tcp, http, https or none", quote(other));
            section.problem("type", message);
            return None;
        }
    };
    if kind == "tcp" {
        without_effect(&section, &HTTP_KEYS, "http and https");
    }
    if kind != "https" {
        without_effect(&section, &TLS_KEYS, "https");
    }
    let period = section.duration("period", PERIODS).unwrap_or(PERIOD);
    let timeout = section.duration("timeout", Duration::from_millis(10)..=*PERIODS.end());
    if timeout.is_some_and(|timeout| timeout > period) {
        section.problem("timeout", "is longer than `period`; one check ends before the next");
    }
    Some(HealthCheck {
        probe,
        port: section.port("port"),
        period,
        timeout: timeout.unwrap_or(TIMEOUT.min(period)),
        fall: section.number("fall", 1, MOST_IN_A_ROW).unwrap_or(FALL),
        rise: section.number("rise", 1, MOST_IN_A_ROW).unwrap_or(RISE),
    })
}

/// A connection to the backend's own port.
pub(super) const DEFAULT: HealthCheck = HealthCheck {
    probe: Probe::Tcp,
    port: None,
    period: PERIOD,
    timeout: TIMEOUT,
    fall: FALL,
    rise: RISE,
};

fn without_effect(section: &Section<'_>, keys: &[&str], kinds: &str) {
    for key in keys.iter().filter(|key| section.has(key)) {
        section.problem(key, format!("belongs to type {kinds}; take it out, or set that type"));
    }
}

fn http(section: &Section<'_>, tls: Option<Trust>) -> HttpProbe {
    // What goes into the request's head as it is must not end a line of it.
    let fit = |text: &str| text.len() <= LONGEST && text.chars().all(|c| c.is_ascii_graphic());
    let path = section.text("path").map_or("/".to_owned(), |path| path.value);
    if !path.starts_with('/') || !fit(&path) {
        let message = format!(
            "{} is not a path; begin it with \"/\", up to {LONGEST} visible ASCII characters",
            quote(&path)
        );
        section.problem("path", message);
    }
    let host = section.text("host").map(|host| host.value);
    if let Some(host) = host.as_ref().filter(|host| !fit(host)) {
        let message = format!("{} is not a host name; write one like example.com", quote(host));
        section.problem("host", message);
    }
    HttpProbe { path, host, status: status(section).unwrap_or(GOOD), tls }
}

/// One status, or the first and the last one.
fn status(section: &Section<'_>) -> Option<(u16, u16)> {
    let text = section.text("status")?.value;
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    let number = |text: &str| text.trim().parse().ok().filter(|n| (100..=599).contains(n));
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Some((first, last)),
        _ => {
            let message = format!(
                "{} is not an HTTP status; write one like 200, or the first and the last like \
                 200-299",
                quote(&text)
            );
            section.problem("status", message);
            None
        }
    }
}

/// Whom a server must be known to; said, because a check that trusts anybody proves less than it
/// seems to.
pub(super) fn trust(section: &Section<'_>) -> Option<Trust> {
    let file = section.text("caFile").map(|text| PathBuf::from(text.value));
    let anybody = section.boolean("insecureSkipVerify").unwrap_or(false);
    let (key, message) = match (file, anybody) {
        (Some(file), false) if file.is_absolute() => return Some(Trust::CaFile(file)),
        (None, true) => return Some(Trust::Anybody),
        (Some(file), false) => {
            ("caFile", format!("{} is no absolute path", quote(&file.display().to_string())))
        }
        (Some(_), true) => {
            ("insecureSkipVerify", "is true, and there is a caFile; keep one of the two".into())
        }
        (None, false) => (
            "caFile",
            "missing; name the file with the certificates to trust, or write \
             `insecureSkipVerify: true`"
                .into(),
        ),
    };
    section.problem(key, message);
    None
}

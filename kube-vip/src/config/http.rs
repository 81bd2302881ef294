//! Load balancers of type http: a proxy in this process, and backends by URL.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use hyper::Uri;
use hyper::http::uri::{Authority, Scheme};

use super::balancers::{BACKEND_KEYS, Defaults, MOST_WEIGHT, all_down, refusal};
use super::reader::{Findings, Located, Section, address, quote};
use super::{AllDown, HealthCheck, Protocol, Trust, health};

/// They say something to what the kernel balances only.
const OTHERS: [&str; 6] =
    ["tableSize", "sessionAffinity", "noBackend", "rateLimit", "forwardingMethod", "natSource"];

/// A port whose HTTP requests are proxied by the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpBalancer {
    /// Name for people.
    pub name: String,
    /// Port clients connect to.
    pub port: u16,
    /// On the VIPs, by their owner; otherwise on all of each host's addresses.
    pub bind_to_vip: bool,
    /// What is done while all backends fail their checks.
    pub all_down: AllDown,
    /// How they are looked at; nothing where they are not.
    pub health_check: Option<HealthCheck>,
    /// Which certificates of https backends are believed.
    pub trust: Option<Trust>,
    /// Who serves it.
    pub backends: Vec<HttpBackend>,
}

/// A server behind a proxy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HttpBackend {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it is called: name or address, with the port if that is written.
    pub authority: String,
    /// It speaks HTTPS.
    pub tls: bool,
    /// What is put before each request's path; without a slash at its end.
    pub prefix: String,
    /// Its share relative to the others'; 0 takes no new requests.
    pub weight: u16,
}

impl HttpBackend {
    /// Its URL.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, self.prefix)
    }

    /// Name or address without the port.
    pub fn host(&self) -> &str {
        let parsed = self.authority.rsplit_once(':');
        let host = match parsed {
            Some((host, port)) if !port.contains(']') => host,
            _ => &self.authority,
        };
        host.trim_start_matches('[').trim_end_matches(']')
    }
}

/// Reads one; nothing only with a problem on record.
pub(super) fn read(entry: &Section<'_>, defaults: &Defaults<'_>) -> Option<HttpBalancer> {
    for key in OTHERS.iter().filter(|key| entry.has(key)) {
        entry.findings.notice(&entry.path_of(key), "has no effect with type http");
    }
    let port = entry.port("port");
    if !entry.has("port") {
        entry.missing("port", "missing; write the port clients connect to");
    }
    let bind_to_vip = entry.boolean("bindToVip").unwrap_or(false);
    let all_down = all_down(entry);
    let health_check = health::read(entry, Some(Protocol::Tcp));
    let backends = backends(entry, defaults);
    let trust = trust(entry, backends.iter().any(|backend| backend.tls));
    let name = entry.text("name").map(|name| name.value);
    let path = entry.path_of("backends");
    if backends.is_empty() {
        entry.findings.notice(&path, "there are none; clients get 503 until there are");
    } else if backends.iter().all(|backend| backend.weight == 0) {
        entry.findings.notice(&path, "all have weight 0; clients get 503 until one has more");
    }
    let port = port?;
    let name = name.unwrap_or_else(|| format!("http-{port}"));
    Some(HttpBalancer { name, port, bind_to_vip, all_down, health_check, trust, backends })
}

/// Whom https backends must be known to. A proxy that trusts anybody is said to.
fn trust(entry: &Section<'_>, https: bool) -> Option<Trust> {
    if https {
        return health::trust(entry);
    }
    for key in ["caFile", "insecureSkipVerify"].into_iter().filter(|key| entry.has(key)) {
        entry.findings.notice(&entry.path_of(key), "has no effect without a backend at https://");
    }
    None
}

fn backends(entry: &Section<'_>, defaults: &Defaults<'_>) -> Vec<HttpBackend> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for (node, path) in entry.list("backends") {
        let Some(section) = Section::new(node, path, &BACKEND_KEYS, entry.findings) else {
            continue;
        };
        let Some(backend) = backend(&section, defaults) else { continue };
        if seen.insert(backend.url()) {
            found.push(backend);
        } else {
            let shown = quote(&backend.url());
            let message = format!("{shown} is in this list twice; keep one (`weight` gives more)");
            section.problem("url", message);
        }
    }
    found
}

fn backend(section: &Section<'_>, defaults: &Defaults<'_>) -> Option<HttpBackend> {
    let way_out = "type http sends requests to a URL, like http://192.168.0.1:8080";
    let text = section.required_text("url", way_out)?;
    let place = section.text("address");
    let url = Url::read(&text, section.findings)?;
    let ip = match (url.ip(), place) {
        (Some(ip), None) => ip,
        (written, Some(place)) => {
            let ip = address(&place, section.findings)?.value;
            if written.is_some_and(|written| written != ip) {
                let message = format!("{ip} is not the address in the url; keep one of the two");
                section.problem("address", message);
                return None;
            }
            ip
        }
        (None, None) => {
            let message = format!(
                "{} names its host, and names come later; write where it is under `address` too",
                quote(&text.value)
            );
            section.problem("url", message);
            return None;
        }
    };
    if let Some(why) = refusal(ip, defaults) {
        section.problem("url", format!("{ip} {why}"));
        return None;
    }
    let weight = section.number("weight", 0, MOST_WEIGHT).unwrap_or(1);
    let weight = if section.boolean("drain") == Some(true) { 0 } else { weight };
    Some(HttpBackend {
        address: SocketAddr::new(ip, url.port()),
        authority: url.authority.to_string(),
        tls: url.tls,
        prefix: url.prefix,
        weight: u16::try_from(weight).ok()?,
    })
}

struct Url {
    tls: bool,
    authority: Authority,
    prefix: String,
}

impl Url {
    fn read(text: &Located<String>, findings: &Findings) -> Option<Self> {
        let refuse = |why: &str| {
            findings.problem(text.line, &text.path, format!("{} {why}", quote(&text.value)));
            None
        };
        let way_out = "is not a URL; write one like http://192.168.0.1:8080";
        let Ok(uri) = text.value.parse::<Uri>() else { return refuse(way_out) };
        let parts = uri.into_parts();
        let tls = match parts.scheme.as_ref().map(Scheme::as_str) {
            Some("http") => false,
            Some("https") => true,
            _ => return refuse(way_out),
        };
        let Some(authority) = parts.authority.filter(|it| !it.host().is_empty()) else {
            return refuse(way_out);
        };
        if authority.as_str().contains('@') {
            return refuse("holds a user's name or password, which is not sent; take it out");
        }
        let written = authority.as_str().len() > authority.host().len();
        if written && authority.port_u16().is_none_or(|port| port == 0) {
            return refuse("has a port that is none; ports are 1 to 65535");
        }
        let path = parts.path_and_query;
        if path.as_ref().is_some_and(|path| path.query().is_some()) {
            return refuse("has a query, but requests bring their own; take it out");
        }
        let prefix = path.map_or(String::new(), |path| path.path().trim_end_matches('/').into());
        Some(Self { tls, authority, prefix })
    }

    fn ip(&self) -> Option<IpAddr> {
        let host = self.authority.host();
        host.trim_start_matches('[').trim_end_matches(']').parse().ok()
    }

    fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(if self.tls { 443 } else { 80 })
    }
}

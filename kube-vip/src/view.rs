//! Everything that is known on this host at one moment, as plain data.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::time::Instant;

use crate::config::{self, Config, HealthCheck, HttpProbe};

/// The input of the plan.
#[derive(Clone, Debug)]
pub struct View {
    /// The configuration in force; a refused change never gets here.
    pub config: Arc<Config>,
    /// This host's interfaces by name.
    pub links: BTreeMap<String, Link>,
    /// How each peer's address is reached, for every address the configuration names.
    pub hops: BTreeMap<IpAddr, Hop>,
    /// What the data plane at each peer's address answers; addresses not asked yet are not there.
    pub probes: Probes,
    /// What this host's own probes say of backends. A check that is not there yet says nothing.
    pub health: BTreeMap<Check, Health>,
    /// A number that stands for the secret that the hosts share, where they share one.
    pub secret: Option<u64>,
    /// Where this host stands, by lease; a lease that is not there is nobody's.
    pub standings: Standings,
}

/// A look at a backend, from time to time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Check {
    /// The backend.
    pub backend: SocketAddr,
    /// How it is looked at.
    pub how: HealthCheck,
}

impl Check {
    /// Where it is looked at.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.backend.ip(), self.how.port.unwrap_or(self.backend.port()))
    }
}

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.how.probe {
            config::Probe::Tcp => write!(f, "connecting to {}", self.address()),
            config::Probe::Http(HttpProbe { path, tls, .. }) => {
                let scheme = if tls.is_some() { "https" } else { "http" };
                write!(f, "GET {scheme}://{}{path}", self.address())
            }
        }
    }
}

/// What a check says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The backend serves, as far as is known.
    pub up: bool,
    /// Since when it does, or does not.
    pub since: Instant,
    /// Why the last look failed, where it did.
    pub error: Option<String>,
}

impl Health {
    /// Before the first look: up, so that the start of an agent drops nothing that works.
    pub fn unknown(now: Instant) -> Self {
        Self { up: true, since: now, error: None }
    }
}

/// An interface of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Hardware address; all zero where the link has none.
    pub mac: Mac,
    /// What the kernel calls its kind (`veth`, `bridge`, `bond` …); empty for a device of its own.
    pub kind: String,
    /// Largest packet in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Something is plugged in (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// Addresses with their prefix lengths, as the kernel lists them.
    pub addresses: Vec<ipnet::IpNet>,
}

/// The way to an address, as routes and neighbours have it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hop {
    /// It is one of this host's own addresses.
    Here,
    /// On a network this host is on, with a known hardware address.
    Neighbour {
        /// Its hardware address.
        mac: Mac,
        /// The interface it is reached through.
        interface: u32,
    },
    /// On a network this host is on, but nobody answers for it (yet).
    Unresolved {
        /// The interface it would be reached through.
        interface: u32,
    },
    /// Behind a router.
    Routed {
        /// The router.
        gateway: IpAddr,
        /// The interface it is reached through.
        interface: u32,
        /// The router's hardware address; absent while it does not answer.
        mac: Option<Mac>,
        /// Largest packet in bytes that the route says fits, a learnt path MTU included; absent
        /// where it says nothing, so that the interface's counts.
        mtu: Option<u32>,
    },
    /// No route.
    Unreachable,
}

/// What is known of each address that is asked.
pub type Probes = BTreeMap<IpAddr, Probe>;

/// Who is asked, and from where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// This host's addresses, one of each family; the others know it by these.
    pub from: Vec<IpAddr>,
    /// The port that notices come to, and questions from.
    pub port: u16,
    /// The addresses that are asked.
    pub peers: BTreeMap<IpAddr, Target>,
}

/// How an address is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its UDP port.
    pub port: u16,
    /// Largest packet that is sent there, in bytes, if it is to be seen whether such packets arrive.
    pub size: Option<u16>,
}

/// What is known of another host's data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It has not been asked for long enough to be judged.
    Pending,
    /// It answers.
    Answered(Answer),
    /// It does not answer.
    Silent,
    /// Its agent has said that it leaves.
    Left,
}

/// What a data plane says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// When it said so last.
    pub at: Instant,
    /// Version of its program: major, minor, patch.
    pub version: [u8; 3],
    /// Version of its flow hash.
    pub hash: u16,
    /// Of what its seeds come from.
    pub digest: u64,
    /// Seconds since its agent last moved the clock.
    pub age: u32,
    /// Packets of full size do not get there, and nobody says so.
    pub narrow: bool,
}

/// A data plane without an agent works, but of what changes it learns nothing.
const AGENT_GONE: u32 = 30;

impl Answer {
    /// Whether there is an agent that keeps the data plane up to date.
    pub fn has_agent(&self) -> bool {
        self.age <= AGENT_GONE
    }
}

impl Probe {
    /// Whether it says the same, whenever it said so.
    pub fn says(&self, other: &Self) -> bool {
        let timeless = |probe: &Self| match *probe {
            Self::Answered(answer) => {
                let Answer { version, hash, digest, narrow, .. } = answer;
                (1, Some((version, hash, digest, narrow, answer.has_agent())))
            }
            Self::Pending => (0, None),
            Self::Silent => (2, None),
            Self::Left => (3, None),
        };
        timeless(self) == timeless(other)
    }
}

/// Where this host stands, by the name of the lease.
pub type Standings = BTreeMap<String, Standing>;

/// What the election says of this host and a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// This host holds it, and owns its VIPs.
    Owner {
        /// Number of the grant; a later grant has a higher one.
        epoch: u64,
    },
    /// Somebody else does, or nobody.
    Follower {
        /// The owner's id, where it is known.
        owner: Option<String>,
    },
}

/// An Ethernet address.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::fmt::Debug for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

//! Everything that is known on this host at one moment, as plain data.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::Config;

/// The input of the plan.
#[derive(Clone, Debug)]
pub struct View {
    /// The configuration in force; a refused change never gets here.
    pub config: Arc<Config>,
    /// This host's interfaces by name.
    pub links: BTreeMap<String, Link>,
    /// How each peer's address is reached, for every address the configuration names.
    pub hops: BTreeMap<IpAddr, Hop>,
    /// Who owns the VIPs.
    pub standing: Standing,
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

/// What the election says of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// This host owns the VIPs.
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

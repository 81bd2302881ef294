//! What a host is told before it starts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::cluster::Vip;
use crate::time::{Timing, TimingError};
use crate::transport::Protection;

/// Another host, as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub name: String,
    /// Where it is reached.
    pub addresses: Vec<SocketAddr>,
}

/// What a host is told before it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it keeps its state.
    pub directory: PathBuf,
    /// Its id.
    pub name: String,
    /// Where it listens for its peers.
    pub listen: SocketAddr,
    /// Where its peers reach it; empty for where it listens.
    pub addresses: Vec<SocketAddr>,
    /// Its share of the VIPs.
    pub weight: u32,
    /// The other hosts.
    pub peers: Vec<Peer>,
    /// The VIPs.
    pub vips: BTreeMap<IpAddr, Vip>,
    /// What protects the hosts' talk.
    pub protection: Protection,
    /// Lengths of time; the same on all hosts.
    pub timing: Timing,
    /// It may begin a new cluster if no peer that it reaches knows of one.
    pub bootstrap: bool,
    /// For how long it looks for such a peer first.
    pub bootstrap_wait: Duration,
}

/// A setting that does not work, and the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A length of time.
    #[error(transparent)]
    Timing(#[from] TimingError),
    /// Two hosts with one name.
    #[error("remotePeers: {0:?} is there twice or is this host's own id; give each host its own")]
    Name(String),
    /// A host without address.
    #[error("remotePeers: {0:?} has no address; write the one that this host reaches it at")]
    Address(String),
}

impl Settings {
    /// Checks what does not need the system.
    ///
    /// # Errors
    ///
    /// The first setting that does not work.
    pub fn check(&self) -> Result<(), SettingsError> {
        self.timing.checked()?;
        let mut names = BTreeSet::from([&self.name]);
        for peer in &self.peers {
            if !names.insert(&peer.name) {
                return Err(SettingsError::Name(peer.name.clone()));
            }
            if peer.addresses.is_empty() {
                return Err(SettingsError::Address(peer.name.clone()));
            }
        }
        Ok(())
    }
}

/// What is worth a warning: a number of hosts that survives no more losses than one host fewer.
pub fn even_number(hosts: usize) -> Option<String> {
    match hosts {
        2 => Some(
            "two hosts: when one is lost the other may not go on alone, and no VIP has an owner; \
             a third host, if only to vote, changes that"
                .to_owned(),
        ),
        _ if hosts > 0 && hosts.is_multiple_of(2) => Some(format!(
            "{hosts} hosts survive the loss of {}, as {} do; take an odd number",
            (hosts - 1) / 2,
            hosts - 1
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(peers: &[&str]) -> Settings {
        let address = SocketAddr::from(([127, 0, 0, 1], 10000));
        let peer = |name: &&str| Peer { name: (*name).to_owned(), addresses: vec![address] };
        Settings {
            directory: PathBuf::new(),
            name: "n1".to_owned(),
            listen: address,
            addresses: Vec::new(),
            weight: 1,
            peers: peers.iter().map(peer).collect(),
            vips: BTreeMap::new(),
            protection: Protection::Insecure,
            timing: Timing::default(),
            bootstrap: false,
            bootstrap_wait: Duration::ZERO,
        }
    }

    #[test]
    fn settings_are_checked() {
        assert_eq!(settings(&["n2", "n3"]).check(), Ok(()));
        assert_eq!(settings(&["n1"]).check(), Err(SettingsError::Name("n1".to_owned())));
        assert_eq!(settings(&["n2", "n2"]).check(), Err(SettingsError::Name("n2".to_owned())));
        let mut homeless = settings(&["n2"]);
        homeless.peers[0].addresses.clear();
        assert_eq!(homeless.check(), Err(SettingsError::Address("n2".to_owned())));
        let mut hasty = settings(&[]);
        hasty.timing.lease = Duration::from_millis(1);
        assert!(matches!(hasty.check(), Err(SettingsError::Timing(_))));
    }

    #[test]
    fn even_numbers_are_warned_of() {
        assert_eq!((even_number(1), even_number(3)), (None, None));
        assert!(even_number(2).unwrap().starts_with("two hosts: "));
        let four = even_number(4).unwrap();
        assert_eq!(four, "4 hosts survive the loss of 1, as 3 do; take an odd number");
    }
}

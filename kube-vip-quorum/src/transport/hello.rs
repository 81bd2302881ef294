//! What two hosts tell each other first.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cluster::NodeId;

/// The versions of the protocol that this program speaks.
pub const VERSIONS: Versions = Versions { oldest: 1, newest: 1 };

/// A range of versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The oldest that is spoken.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
}

impl Versions {
    /// The newest version that both speak.
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest && newest >= other.oldest).then_some(newest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { oldest, newest } = self;
        if oldest == newest { write!(f, "{newest}") } else { write!(f, "{oldest} to {newest}") }
    }
}

/// Which cluster a host belongs to; drawn when a cluster begins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub u64);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a host says of itself. Fields that a later version adds are ignored by an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What it speaks.
    pub versions: Versions,
    /// Its cluster, if it belongs to one yet.
    pub cluster: Option<ClusterId>,
    /// Its number.
    pub node: NodeId,
    /// Its id in the configuration.
    pub name: String,
    /// Length of a lease in nanoseconds. Voters withhold their votes by it.
    pub lease: u64,
}

/// Why two hosts do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// No version is spoken by both.
    #[error(
        "{name} speaks version {theirs} of the protocol between hosts, this host {ours}; \
         run releases of kube-vip on both that are no further apart"
    )]
    Versions {
        /// The other host.
        name: String,
        /// What it speaks.
        theirs: Versions,
        /// What we speak.
        ours: Versions,
    },
    /// They belong to different clusters.
    #[error(
        "{name} belongs to cluster {theirs}, this host to {ours}; empty the state directory of \
         the one that is to join the other's cluster"
    )]
    Cluster {
        /// The other host.
        name: String,
        /// Its cluster.
        theirs: ClusterId,
        /// Ours.
        ours: ClusterId,
    },
    /// Their leases have different lengths: a voter would vote before a grant has ended.
    #[error(
        "{name} has a lease of {theirs:?}, this host one of {ours:?}; set the same `lease` on all \
         hosts"
    )]
    Lease {
        /// The other host.
        name: String,
        /// Its lease.
        theirs: Duration,
        /// Ours.
        ours: Duration,
    },
    /// Two hosts have one name.
    #[error("another host calls itself {name} too; give each host an id of its own")]
    Name {
        /// The name of both.
        name: String,
    },
    /// Two hosts have one number: one's state directory is a copy of the other's.
    #[error(
        "{name} has the same number {node:x} as this host; its state directory is a copy: empty \
         it on one of them"
    )]
    Node {
        /// The other host.
        name: String,
        /// The number.
        node: NodeId,
    },
    /// It is not what a host says.
    #[error("what the other host said of itself cannot be read: {0}")]
    Unreadable(String),
}

impl Hello {
    /// The version to speak with that host.
    ///
    /// # Errors
    ///
    /// They do not go together.
    pub fn meet(&self, other: &Self) -> Result<u16, HelloError> {
        let name = || other.name.clone();
        if self.node == other.node && self.name != other.name {
            return Err(HelloError::Node { name: name(), node: self.node });
        }
        if self.node != other.node && self.name == other.name {
            return Err(HelloError::Name { name: name() });
        }
        if let (Some(ours), Some(theirs)) = (self.cluster, other.cluster)
            && ours != theirs
        {
            return Err(HelloError::Cluster { name: name(), theirs, ours });
        }
        let (ours, theirs) = (self.versions, other.versions);
        let version = ours.common(theirs).ok_or_else(|| HelloError::Versions {
            name: name(),
            theirs,
            ours,
        })?;
        if self.lease != other.lease {
            let (ours, theirs) = (self.lease, other.lease);
            let (ours, theirs) = (Duration::from_nanos(ours), Duration::from_nanos(theirs));
            return Err(HelloError::Lease { name: name(), theirs, ours });
        }
        Ok(version)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers")
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HelloError> {
        serde_json::from_slice(bytes).map_err(|error| HelloError::Unreadable(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(node: NodeId, name: &str, cluster: Option<u64>, versions: (u16, u16)) -> Hello {
        Hello {
            versions: Versions { oldest: versions.0, newest: versions.1 },
            cluster: cluster.map(ClusterId),
            node,
            name: name.to_owned(),
            lease: 5,
        }
    }

    #[test]
    fn hosts_agree_on_the_newest_common_version() {
        let ours = hello(1, "n1", Some(7), (2, 4));
        for (theirs, version) in [((1, 2), 2), ((2, 4), 4), ((3, 3), 3), ((4, 9), 4)] {
            for cluster in [None, Some(7)] {
                let other = hello(2, "n2", cluster, theirs);
                assert_eq!((ours.meet(&other), other.meet(&ours)), (Ok(version), Ok(version)));
            }
        }
    }

    #[test]
    fn hosts_that_do_not_go_together_say_why() {
        let ours = hello(1, "n1", Some(7), (2, 4));
        let slow = Hello { lease: 1_000_000, ..hello(2, "n2", Some(7), (2, 4)) };
        let cases = [
            (slow, "n2 has a lease of 1ms, this host one of 5ns; set the same"),
            (hello(2, "n2", Some(7), (5, 9)), "n2 speaks version 5 to 9 of the protocol"),
            (hello(2, "n2", Some(7), (1, 1)), "n2 speaks version 1 of the protocol"),
            (hello(2, "n2", Some(8), (2, 4)), "n2 belongs to cluster 0000000000000008, this"),
            (hello(2, "n1", Some(7), (2, 4)), "another host calls itself n1 too"),
            (hello(1, "n2", Some(7), (2, 4)), "n2 has the same number 1 as this host"),
        ];
        for (other, begins) in cases {
            let error = ours.meet(&other).unwrap_err().to_string();
            assert!(error.starts_with(begins), "{error}");
            assert!(other.meet(&ours).is_err());
        }
    }

    #[test]
    fn later_fields_are_ignored() {
        let text = r#"{"versions":{"oldest":1,"newest":9,"odd":1},"cluster":null,"node":3,
                       "name":"n3","lease":5,"colour":"blue"}"#;
        assert_eq!(Hello::decode(text.as_bytes()), Ok(hello(3, "n3", None, (1, 9))));
        assert!(matches!(Hello::decode(b"{}"), Err(HelloError::Unreadable(_))));
        let hello = hello(3, "n3", Some(u64::MAX), (1, 9));
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
    }
}

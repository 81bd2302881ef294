//! The file says who owns the VIPs: `singleNode`, or `startAsLeader` on one of the hosts.
//!
//! Nothing keeps two files from both saying it; that takes an election.

use std::time::Duration;

use crate::config::Config;
use crate::view::Standing;

/// How long ownership outlasts its last extension: past it the programs fall silent by themselves.
pub const TERM: Duration = Duration::from_secs(3);

/// Time between two extensions: two may be late or lost.
pub const EXTENSION: Duration = Duration::from_secs(1);

/// The only grant there is.
const EPOCH: u64 = 1;

/// Where this host stands.
pub fn standing(config: &Config) -> Standing {
    if config.single_node || config.start_as_leader {
        Standing::Owner { epoch: EPOCH }
    } else {
        Standing::Follower { owner: None }
    }
}

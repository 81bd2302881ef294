//! The file says who owns the VIPs: `singleNode`, or `startAsLeader` on one of the hosts.
//!
//! Nothing keeps two files from both saying it; that takes an election.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::error;

use crate::config::Config;
use crate::dataplane::{Fence, LEASE};
use crate::plan::Grant;
use crate::view::Standing;

/// How long ownership outlasts its last extension: past it the programs fall silent by themselves.
pub const TERM: Duration = Duration::from_secs(3);

/// An agent whose main loop has not come round for this long hangs, and owns nothing any more. The
/// longest work it does in one go, ten thousand tables, takes less.
const PATIENCE: Duration = Duration::from_secs(10);

/// Time between two extensions: two may be late or lost.
pub const EXTENSION: Duration = Duration::from_secs(1);

/// The only grant there is.
const EPOCH: u64 = 1;

/// What the main loop tells at each turn.
#[derive(Clone, Copy, Debug)]
pub struct Pulse {
    /// What this host was granted and has taken up.
    pub grant: Option<Grant>,
    /// When it told.
    pub at: Instant,
}

/// Extends ownership in the kernel while the main loop lives; ends when it does.
pub async fn extend(fence: Fence, mut pulse: watch::Receiver<Pulse>) {
    let mut ticks = interval(EXTENSION);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if pulse.has_changed().is_err() {
            return;
        }
        let Pulse { grant, at } = *pulse.borrow_and_update();
        let grant = grant.filter(|_| at.elapsed() <= PATIENCE);
        if let Some(Err(error)) = grant.map(|grant| fence.extend(LEASE, grant, TERM)) {
            error!("{error}");
        }
    }
}

/// Where this host stands.
pub fn standing(config: &Config) -> Standing {
    if config.single_node || config.start_as_leader {
        Standing::Owner { epoch: EPOCH }
    } else {
        Standing::Follower { owner: None }
    }
}

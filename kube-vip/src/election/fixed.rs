//! The file says who owns the VIPs: `singleNode`, or `startAsLeader` on one of the hosts.
//!
//! Nothing keeps two files from both saying it; that takes an election.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::error;

use super::PATIENCE;
use crate::config::Config;
use crate::dataplane::{Fence, Term, boot_time};
use crate::plan;
use crate::view::{Standing, Standings};

/// How long ownership outlasts its last extension: past it the programs fall silent by themselves.
pub const TERM: Duration = Duration::from_secs(3);

/// Time between two extensions: two may be late or lost.
pub const EXTENSION: Duration = Duration::from_secs(1);

/// The only grant there is.
const EPOCH: u64 = 1;

/// What the main loop tells at each turn.
#[derive(Clone, Debug)]
pub struct Pulse {
    /// The leases that the file gives this host.
    pub leases: Vec<String>,
    /// They end only when taken back.
    pub forever: bool,
    /// When it told.
    pub at: Instant,
}

impl Pulse {
    /// As the file has it.
    pub fn of(config: &Config) -> Self {
        let standings = standings(config).into_iter();
        let owned = standings.filter(|(_, standing)| matches!(standing, Standing::Owner { .. }));
        Self {
            leases: owned.map(|(lease, _)| lease).collect(),
            forever: config.single_node,
            at: Instant::now(),
        }
    }

    /// Offers a term of each lease, from now.
    pub fn offer(&self, fence: &Fence) {
        let end = boot_time() + TERM.as_nanos() as u64;
        let term = Term { epoch: EPOCH, until: if self.forever { u64::MAX } else { end } };
        for lease in &self.leases {
            if let Err(error) = fence.offer(lease, term) {
                error!("{error}");
            }
        }
    }
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
        let pulse = pulse.borrow_and_update().clone();
        if pulse.at.elapsed() <= PATIENCE {
            pulse.offer(&fence);
        }
    }
}

/// Where this host stands.
pub fn standings(config: &Config) -> Standings {
    let standing = if config.single_node || config.start_as_leader {
        Standing::Owner { epoch: EPOCH }
    } else {
        Standing::Follower { owner: None }
    };
    config.vips.iter().map(|vip| (plan::lease(vip), standing.clone())).collect()
}

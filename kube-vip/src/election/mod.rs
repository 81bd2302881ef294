//! Who owns the VIPs.
//!
//! An election says where this host stands ([`Standing`](crate::view::Standing)), which becomes part
//! of the view, and offers terms to the [`Fence`] for as long as its own right lasts. An election by
//! Kubernetes Lease comes in as a file beside [`fixed`] and [`quorum`].

pub mod fixed;
pub mod quorum;

use std::sync::Arc;
use std::time::Duration;

use kube_vip_quorum::node::Orders;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::fixed::Pulse;
use self::quorum::Member;
use crate::config::{self, Config, Peer};
use crate::dataplane::Fence;
use crate::view::Standings;

/// An agent whose main loop has not come round for this long hangs, and owns nothing any more. The
/// longest work it does in one go, ten thousand tables, takes less.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who says who owns the VIPs, at work.
pub struct Election {
    by: By,
    config: Arc<Config>,
}

enum By {
    File { pulse: watch::Sender<Pulse>, fence: Fence, extension: JoinHandle<()> },
    Quorum(Box<Member>),
}

/// Checks what an election needs and what can be seen before anything is touched.
///
/// # Errors
/// There is no secret that protects the hosts' talk, or none that is one.
pub fn check(config: &Config) -> anyhow::Result<()> {
    match &config.election {
        config::Election::File => Ok(()),
        config::Election::Quorum(quorum) => quorum::check(quorum),
    }
}

impl Election {
    /// Begins.
    ///
    /// # Errors
    /// This host cannot take part; nothing was changed then.
    pub async fn start(config: &Arc<Config>, fence: Fence) -> anyhow::Result<Self> {
        let by = match &config.election {
            config::Election::File => {
                let pulse = watch::Sender::new(Pulse::of(config));
                pulse.borrow().offer(&fence);
                let extension = tokio::spawn(fixed::extend(fence.clone(), pulse.subscribe()));
                By::File { pulse, fence, extension }
            }
            config::Election::Quorum(quorum) => {
                By::Quorum(Box::new(Member::start(config, quorum, fence).await?))
            }
        };
        Ok(Self { by, config: Arc::clone(config) })
    }

    /// Where this host stands now.
    pub fn standings(&self) -> Standings {
        match &self.by {
            By::File { .. } => fixed::standings(&self.config),
            By::Quorum(member) => member.standings(&self.config),
        }
    }

    /// What this host is among the others, where they agree among themselves.
    pub fn member(&self) -> Option<&Member> {
        match &self.by {
            By::File { .. } => None,
            By::Quorum(member) => Some(member),
        }
    }

    /// The same, to change it.
    pub fn member_mut(&mut self) -> Option<&mut Member> {
        match &mut self.by {
            By::File { .. } => None,
            By::Quorum(member) => Some(member),
        }
    }

    /// The other hosts that take part and that the file does not name.
    pub fn unnamed(&self) -> Vec<Peer> {
        match &self.by {
            By::File { .. } => Vec::new(),
            By::Quorum(member) => member.unnamed(&self.config),
        }
    }

    /// A number that stands for the secret that the hosts share, where they share one.
    pub fn secret(&self) -> Option<u64> {
        match &self.by {
            By::File { .. } => None,
            By::Quorum(member) => member.secret(),
        }
    }

    /// A way to the leader, where there is one.
    pub fn orders(&self) -> Option<watch::Receiver<Option<Orders>>> {
        match &self.by {
            By::File { .. } => None,
            By::Quorum(member) => Some(member.orders()),
        }
    }

    /// Takes part again, if this host's log has ended.
    pub async fn revive(&mut self) {
        if let By::Quorum(member) = &mut self.by {
            member.revive().await;
        }
    }

    /// Waits until the standings may be others.
    pub async fn changed(&mut self) {
        match &mut self.by {
            By::File { .. } => std::future::pending().await,
            By::Quorum(member) => member.changed().await,
        }
    }

    /// Goes by a changed file.
    pub fn take_up(&mut self, config: &Arc<Config>) {
        let before = std::mem::replace(&mut self.config, Arc::clone(config));
        self.beat();
        match &mut self.by {
            // What is new need not wait for the next extension.
            By::File { pulse, fence, .. } => pulse.borrow().offer(fence),
            By::Quorum(member) => member.take_up(&before, config),
        }
    }

    /// The main loop has come round.
    pub fn beat(&self) {
        match &self.by {
            By::File { pulse, .. } => drop(pulse.send_replace(Pulse::of(&self.config))),
            By::Quorum(member) => member.beat(),
        }
    }

    /// Whether this host can answer for VIPs: its uplink has a carrier, and a fence.
    pub fn set_fit(&mut self, fit: bool) {
        if let By::Quorum(member) = &mut self.by {
            member.set_fit(fit);
        }
    }

    /// Whether this host owns anything that others may take over.
    pub fn owns(&self) -> bool {
        match &self.by {
            By::File { .. } => false,
            By::Quorum(member) => !member.standing().holding.is_empty(),
        }
    }

    /// Hands over what is owned, where somebody else can take it, and ends. What the file gives this
    /// host the next agent may go on with until it runs out.
    pub async fn stop(self) {
        match self.by {
            By::File { extension, .. } => extension.abort(),
            By::Quorum(member) => member.stop().await,
        }
    }
}

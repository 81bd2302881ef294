//! A majority of the hosts says who owns which VIP, and for how long.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use kube_vip_quorum::cluster::Vip;
use kube_vip_quorum::grant::Lease;
use kube_vip_quorum::node::{self, Node, Settings};
use kube_vip_quorum::raft::Applied;
use kube_vip_quorum::time::{Boot, Clock};
use kube_vip_quorum::transport::{Protection, Secret};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::PATIENCE;
use crate::config::{Config, Peer, Quorum, SecretSource};
use crate::dataplane::{Fence, Term, boot_time};
use crate::plan;
use crate::view::{Standing, Standings};

/// Names the secret, where the file does not.
const SECRET_VARIABLE: &str = "vip_secret";

/// A host that may begin a new cluster looks for one that long first.
const BOOTSTRAP_WAIT: Duration = Duration::from_secs(3);

/// This host among the others.
pub struct Member {
    node: Arc<Node>,
    standing: watch::Receiver<node::Standing>,
    applied: watch::Receiver<Applied>,
    /// What the uplink says, and when the main loop came round last.
    state: watch::Sender<State>,
    watch: JoinHandle<()>,
}

#[derive(Clone, Copy)]
struct State {
    fit: bool,
    beat: Instant,
}

impl Member {
    /// Takes part from now on.
    ///
    /// # Errors
    /// The secret, the state directory or the port does not work.
    pub async fn start(config: &Config, quorum: &Quorum, fence: Fence) -> anyhow::Result<Self> {
        let protection = protection(&quorum.secret)?;
        let addresses = addresses(&config.local_peer);
        let listen = addresses.first().context("localPeer has no address to listen at")?;
        let settings = Settings {
            directory: quorum.state_dir.join(&config.instance),
            name: config.local_peer.id.clone(),
            listen: *listen,
            addresses: addresses.clone(),
            weight: quorum.weight,
            peers: config.remote_peers.iter().map(peer).collect(),
            vips: vips(config),
            protection,
            timing: quorum.timing,
            bootstrap: config.start_as_leader,
            bootstrap_wait: BOOTSTRAP_WAIT,
        };
        let node = Node::start(settings, Arc::new(KernelClock), Arc::new(Writer(fence))).await?;
        // Not before the main loop says so.
        node.set_fit(false);
        let node = Arc::new(node);
        let (standing, applied) = (node.standing(), node.applied());
        let state = watch::Sender::new(State { fit: false, beat: Instant::now() });
        let watch = tokio::spawn(watch_over(Arc::clone(&node), state.subscribe()));
        Ok(Self { node, standing, applied, state, watch })
    }

    /// Where this host stands.
    pub fn standings(&self, config: &Config) -> Standings {
        let (standing, applied) = (self.standing.borrow(), self.applied.borrow());
        let cluster = &applied.cluster;
        let of = |vip| {
            if let Some(epoch) = standing.holding.get(vip) {
                return Standing::Owner { epoch: *epoch };
            }
            // What is assigned to this host is not owned before it is granted.
            let assigned = cluster.assignments.get(vip);
            let host = assigned.filter(|it| it.node != self.node.id());
            let host = host.and_then(|it| cluster.hosts.get(&it.node));
            Standing::Follower { owner: host.map(|host| host.name.clone()) }
        };
        config.vips.iter().map(|vip| (plan::lease(vip), of(vip))).collect()
    }

    /// What this host is among the others.
    pub fn standing(&self) -> node::Standing {
        self.standing.borrow().clone()
    }

    /// Waits until the standings may be others.
    pub async fn changed(&mut self) {
        tokio::select! {
            changed = self.standing.changed() => if changed.is_err() { std::future::pending().await },
            changed = self.applied.changed() => if changed.is_err() { std::future::pending().await },
        }
    }

    /// The VIPs of a changed file.
    pub fn take_up(&self, config: &Config) {
        self.node.set_vips(vips(config));
    }

    /// Whether this host can answer for VIPs now.
    pub fn set_fit(&mut self, fit: bool) {
        self.state.send_if_modified(|state| std::mem::replace(&mut state.fit, fit) != fit);
    }

    /// The main loop has come round.
    pub fn beat(&self) {
        // Nobody has to wake up for that.
        self.state.send_if_modified(|state| {
            state.beat = Instant::now();
            false
        });
    }

    /// Hands over what this host owns, and ends.
    pub async fn stop(self) {
        let Self { node, watch, .. } = self;
        watch.abort();
        let _ = watch.await;
        match Arc::try_unwrap(node) {
            Ok(node) => node.stop().await,
            Err(_) => tracing::warn!("what this host owns ends by its deadline"),
        }
    }
}

/// Says whether this host can answer for VIPs: not before its data plane is there, and not with an
/// agent that hangs while this task goes on.
async fn watch_over(node: Arc<Node>, mut state: watch::Receiver<State>) {
    let mut told = false;
    loop {
        let State { fit, beat } = *state.borrow_and_update();
        let hangs = beat.elapsed() > PATIENCE;
        if hangs && told {
            tracing::error!("the agent has not come round for {PATIENCE:?}: other hosts take over");
        }
        let now = fit && !hangs;
        if std::mem::replace(&mut told, now) != now {
            node.set_fit(now);
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            () = sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// The kernel programs' time.
struct KernelClock;

impl Clock for KernelClock {
    fn now(&self) -> Boot {
        Boot(boot_time())
    }
}

/// Leases go to the fence.
struct Writer(Fence);

impl node::Fence for Writer {
    fn write(&self, lease: &Lease) -> io::Result<()> {
        let name = plan::lease(&lease.vip);
        let result = match lease.until {
            Boot(0) => self.0.withdraw(&name),
            Boot(until) => self.0.offer(&name, Term { epoch: lease.epoch, until }),
        };
        result.map_err(io::Error::other)
    }
}

fn vips(config: &Config) -> BTreeMap<std::net::IpAddr, Vip> {
    let of = |vip| Vip { prefer: config.preferences.get(vip).cloned().unwrap_or_default() };
    config.vips.iter().map(|vip| (*vip, of(vip))).collect()
}

fn addresses(peer: &Peer) -> Vec<SocketAddr> {
    peer.addresses.iter().map(|ip| SocketAddr::new(*ip, peer.port)).collect()
}

fn peer(peer: &Peer) -> node::Peer {
    node::Peer { name: peer.id.clone(), addresses: addresses(peer) }
}

/// Checks the secret.
pub(super) fn check(quorum: &Quorum) -> anyhow::Result<()> {
    protection(&quorum.secret).map(drop)
}

fn protection(source: &SecretSource) -> anyhow::Result<Protection> {
    let from = |text: &str| text.parse::<Secret>().map(Protection::Secret);
    match source {
        SecretSource::Text(secret) => Ok(Protection::Secret(secret.clone())),
        SecretSource::File(path) => {
            let text = std::fs::read_to_string(path).with_context(|| {
                let path = path.display();
                format!(
                    "secretFile: {path} cannot be read; `kube-vip secret > {path}` on one host \
                     makes it, then copy it to the others"
                )
            })?;
            from(&text).with_context(|| format!("secretFile: {}", path.display()))
        }
        SecretSource::Environment => match std::env::var(SECRET_VARIABLE) {
            Ok(text) if !text.is_empty() => from(&text).context(SECRET_VARIABLE),
            _ => Err(anyhow!(
                "secret: missing, so anybody who reaches this host could take the VIPs; write what \
                 `kube-vip secret` prints under `secret` (or in a file under `secretFile`, or in \
                 the variable {SECRET_VARIABLE}), the same on all hosts, or `insecurePeers: true`"
            )),
        },
        SecretSource::Insecure => Ok(Protection::Insecure),
    }
}

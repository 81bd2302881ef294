//! A majority of the hosts says who owns which VIP, and for how long.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use kube_vip_quorum::cluster::Vip;
use kube_vip_quorum::grant::Lease;
use kube_vip_quorum::node::{self, Node, Order, OrderError, Orders, Post, Settings};
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

/// A host whose log has ended (a full disk, for instance) tries this often to take part again.
const REVIVAL: Duration = Duration::from_secs(5);

/// This host among the others.
pub struct Member {
    settings: Settings,
    fence: Fence,
    node: Option<Arc<Node>>,
    /// Where a node is not there, the last one's.
    standing: watch::Receiver<node::Standing>,
    applied: watch::Receiver<Applied>,
    orders: watch::Sender<Option<Orders>>,
    post: watch::Sender<Option<Post>>,
    receiver: Option<Arc<dyn node::Receiver>>,
    /// What the uplink says, and when the main loop came round last.
    state: watch::Sender<State>,
    watch: JoinHandle<()>,
    /// When this host tried last to take part again.
    revived: Instant,
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
        // A process that was killed may have left a lease that its successor knows nothing of, and
        // would say it has given back.
        fence.end_left()?;
        let node = start(&settings, &fence).await?;
        let (standing, applied) = (node.standing(), node.applied());
        let orders = watch::Sender::new(Some(node.orders()));
        let post = watch::Sender::new(Some(node.post()));
        let state = watch::Sender::new(State { fit: false, beat: Instant::now() });
        let watch = tokio::spawn(watch_over(Arc::clone(&node), state.subscribe()));
        Ok(Self {
            settings,
            fence,
            node: Some(node),
            standing,
            applied,
            orders,
            post,
            receiver: None,
            state,
            watch,
            revived: Instant::now(),
        })
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
            let host = cluster.assignments.get(vip).and_then(|it| cluster.hosts.get(&it.node));
            let host = host.filter(|host| host.name != self.settings.name);
            Standing::Follower { owner: host.map(|host| host.name.clone()) }
        };
        config.vips.iter().map(|vip| (plan::lease(vip), of(vip))).collect()
    }

    /// What this host is among the others.
    pub fn standing(&self) -> node::Standing {
        self.standing.borrow().clone()
    }

    /// The way to the other hosts, for what agents say to each other besides.
    pub fn post(&self) -> watch::Receiver<Option<Post>> {
        self.post.subscribe()
    }

    /// Who takes that here.
    pub fn set_receiver(&mut self, receiver: Arc<dyn node::Receiver>) {
        if let Some(node) = &self.node {
            node.set_receiver(Arc::clone(&receiver));
        }
        self.receiver = Some(receiver);
    }

    /// The other hosts that take part and that the file does not name.
    pub fn unnamed(&self, config: &Config) -> Vec<Peer> {
        let applied = self.applied.borrow();
        let hosts = applied.cluster.hosts.values();
        let mut unnamed: Vec<_> = hosts
            .filter(|host| config.peers().all(|peer| peer.id != host.name))
            .map(|host| Peer {
                id: host.name.clone(),
                addresses: host.addresses.iter().map(SocketAddr::ip).collect(),
                port: host.addresses.first().map_or(config.local_peer.port, SocketAddr::port),
                pods: Vec::new(),
            })
            .collect();
        unnamed.sort_by(|a, b| a.id.cmp(&b.id));
        unnamed
    }

    /// A number that stands for the secret that the hosts share, where they share one.
    pub fn secret(&self) -> Option<u64> {
        match &self.settings.protection {
            Protection::Secret(secret) => Some(secret.number("kube-vip: the seed of tables")),
            Protection::Insecure => None,
        }
    }

    /// A way to the leader.
    pub fn orders(&self) -> watch::Receiver<Option<Orders>> {
        self.orders.subscribe()
    }

    /// Waits until the standings may be others.
    pub async fn changed(&mut self) {
        tokio::select! {
            changed = self.standing.changed() => if changed.is_err() { std::future::pending().await },
            changed = self.applied.changed() => if changed.is_err() { std::future::pending().await },
        }
    }

    /// The VIPs and peers of a changed file. Hosts that it names and did not name before may join,
    /// those that it names no more are removed.
    pub fn take_up(&mut self, before: &Config, config: &Config) {
        self.settings.vips = vips(config);
        self.settings.peers = config.remote_peers.iter().map(peer).collect();
        if let Some(node) = &self.node {
            node.set_vips(self.settings.vips.clone());
            node.set_peers(self.settings.peers.clone());
        }
        let added = missing(config, before).map(|host| Order::Admit { host });
        let removed = missing(before, config).map(|host| Order::Remove { host });
        let changes: Vec<_> = added.chain(removed).collect();
        if changes.is_empty() {
            return;
        }
        match self.orders.borrow().clone() {
            Some(orders) => drop(tokio::spawn(change_hosts(orders, changes))),
            None => tracing::error!(
                ?changes,
                "not done, because this host takes no part now; repeat it by `kube-vip peers`"
            ),
        }
    }

    /// Takes part again, if this host's log has ended.
    pub async fn revive(&mut self) {
        let failed = self.node.is_none() || self.standing.borrow().failed;
        if !failed || self.revived.elapsed() < REVIVAL {
            return;
        }
        self.revived = Instant::now();
        self.watch.abort();
        self.orders.send_replace(None);
        self.post.send_replace(None);
        match self.node.take().map(Arc::try_unwrap) {
            Some(Ok(node)) => node.abort().await,
            // The task that watches has not ended yet.
            Some(Err(node)) => {
                self.node = Some(node);
                return;
            }
            None => {}
        }
        match start(&self.settings, &self.fence).await {
            Ok(node) => {
                tracing::info!("taking part again");
                (self.standing, self.applied) = (node.standing(), node.applied());
                self.orders.send_replace(Some(node.orders()));
                if let Some(receiver) = &self.receiver {
                    node.set_receiver(Arc::clone(receiver));
                }
                self.post.send_replace(Some(node.post()));
                self.watch = tokio::spawn(watch_over(Arc::clone(&node), self.state.subscribe()));
                self.node = Some(node);
            }
            Err(error) => tracing::error!("cannot take part again yet: {error:#}"),
        }
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
        match node.map(Arc::try_unwrap) {
            Some(Ok(node)) => node.stop().await,
            Some(Err(_)) => tracing::warn!("what this host owns ends by its deadline"),
            None => {}
        }
    }
}

async fn start(settings: &Settings, fence: &Fence) -> anyhow::Result<Arc<Node>> {
    let (clock, writer) = (Arc::new(KernelClock), Arc::new(Writer(fence.clone())));
    let node = Node::start(settings.clone(), clock, writer).await?;
    // Not before the main loop says so.
    node.set_fit(false);
    Ok(Arc::new(node))
}

/// The peers that one file names and another does not.
fn missing<'a>(named: &'a Config, other: &'a Config) -> impl Iterator<Item = String> + 'a {
    let missing = |id: &&String| other.remote_peers.iter().all(|peer| peer.id != **id);
    named.remote_peers.iter().map(|peer| &peer.id).filter(missing).cloned()
}

/// Carries out what a changed file says of the hosts. Each host's agent does that for its own file,
/// so that most find it done.
async fn change_hosts(orders: Orders, changes: Vec<Order>) {
    for order in changes {
        match orders.give(order.clone()).await {
            Ok(()) => tracing::info!(?order, "as the changed file says"),
            Err(OrderError::Refused(why)) => tracing::info!(?order, "nothing to do: {why}"),
            Err(error) => {
                tracing::error!(?order, "not done, repeat it by `kube-vip peers`: {error}");
            }
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

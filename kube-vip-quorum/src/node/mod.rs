//! A host that takes part: the machines of [`crate::grant`] over openraft, the transport and the
//! store.
//!
//! ```text
//! drive      one task: heartbeats, questions, elections, plans, as their times come
//! answering  what peers ask: votes pass the voter's refusal first
//! orders     what users and hosts ask of the leader
//! joining    how a cluster begins, and how hosts come and go
//! aside      what is somebody else's, by the same ways
//! links      the ways to the other hosts, and openraft's use of them
//! ```

mod answering;
mod aside;
mod drive;
mod joining;
mod links;
mod orders;
mod settings;
mod standing;
mod wire;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::{Raft, SnapshotPolicy};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use self::links::{Links, Network};
use crate::cluster::{NodeId, Vip};
use crate::grant::{Election, Holder, Lease, Tenure, Voter};
use crate::raft::{Applied, Types};
use crate::store::{Store, StoreError};
use crate::time::{Boot, Clock};
use crate::transport::{Limits, Server};

pub use aside::{Post, Receiver};
pub use orders::{Order, OrderError};
pub use settings::{Peer, Settings, SettingsError, even_number};
pub use standing::{Role, Standing, Taking};

/// openraft's own lease and timeouts. It withholds votes by them, too, but from the last entry on,
/// where ours count from the last heartbeat and are longer.
const REPLICATION_TIMEOUT: Duration = Duration::from_millis(100);

/// Where leases are written: the kernel's map, in the agent.
pub trait Fence: Send + Sync + 'static {
    /// Writes a lease; when this returns, the kernel goes by it. It must not take long.
    ///
    /// # Errors
    ///
    /// The kernel still goes by the last one. A VIP that is to be given back is not, then.
    fn write(&self, lease: &Lease) -> io::Result<()>;
}

/// Why a host cannot take part.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting does not work.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The state directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Peers cannot reach this host.
    #[error(
        "cannot listen for peers at {address}: {cause}; `localPeer` must name an address of this \
         host and a port that is free"
    )]
    Listen {
        /// The address and port.
        address: SocketAddr,
        /// What the system said.
        cause: io::Error,
    },
    /// The consensus log did not start.
    #[error("cannot start the log of this host: {0}")]
    Raft(String),
}

/// A host that takes part. Dropping it is as if the process had been killed: what it holds ends by
/// its deadline.
pub struct Node {
    inner: Arc<Inner>,
    server: Server,
    tasks: JoinSet<()>,
    ended: bool,
}

/// Gives orders through a host that takes part; after its end they are not carried out.
#[derive(Clone)]
pub struct Orders(Arc<Inner>);

impl Orders {
    /// Has the leader do something, wherever it is.
    ///
    /// # Errors
    ///
    /// There is no leader, it refused, or it did not confirm.
    pub async fn give(&self, order: Order) -> Result<(), OrderError> {
        self.0.order(order).await
    }
}

struct Inner {
    settings: Settings,
    store: Store,
    raft: Raft<Types>,
    clock: Arc<dyn Clock>,
    fence: Arc<dyn Fence>,
    links: Arc<Links>,
    started: Boot,
    /// Held while a vote is given or this host stands: in between nothing may be acknowledged.
    voter: tokio::sync::Mutex<Voter>,
    election: Mutex<Election>,
    lead: Mutex<Option<Tenure>>,
    holder: Mutex<Holder>,
    vips: Mutex<BTreeMap<IpAddr, Vip>>,
    /// Takes what is not for this crate.
    receiver: Mutex<Option<Arc<dyn Receiver>>>,
    /// The other hosts that the configuration names.
    peers: Mutex<Vec<Peer>>,
    applied: watch::Receiver<Applied>,
    standing: watch::Sender<Standing>,
    /// One change of the voters at a time.
    membership: tokio::sync::Mutex<()>,
    /// When this host last stood as a named successor.
    named: Mutex<Option<Boot>>,
    wake: Notify,
    ask: Notify,
    /// Nothing is sent that would renew openraft's own lease.
    quiet: AtomicBool,
    /// A planned stop is under way.
    leaving: AtomicBool,
    /// The leader has said that this host takes no part; its own log may not.
    refused: AtomicBool,
    /// The log has ended; nothing is promised any more.
    failed: AtomicBool,
    /// Questions to others that are under way.
    tasks: Mutex<JoinSet<()>>,
}

impl Node {
    /// Starts to take part.
    ///
    /// # Errors
    ///
    /// The settings, the state directory or the address do not work. Nothing has changed then.
    pub async fn start(
        settings: Settings,
        clock: Arc<dyn Clock>,
        fence: Arc<dyn Fence>,
    ) -> Result<Self, StartError> {
        settings.check()?;
        let store = Store::open(&settings.directory, &settings.name)?;
        let timing = settings.timing;
        let earlier = store.lease();
        if timing.lease > earlier {
            store.set_lease(timing.lease)?;
        }
        let started = clock.now();
        let voter = Voter::new(&timing, earlier, started);
        let links = Arc::new(Links::new(&settings, store.clone()));
        let raft = start_raft(&store, Network(Arc::clone(&links))).await?;
        let inner = Arc::new(Inner {
            voter: tokio::sync::Mutex::new(voter),
            election: Mutex::new(Election::new(&timing)),
            lead: Mutex::default(),
            holder: Mutex::new(Holder::new(store.node())),
            vips: Mutex::new(settings.vips.clone()),
            receiver: Mutex::default(),
            peers: Mutex::new(settings.peers.clone()),
            applied: store.machine().applied(),
            standing: watch::Sender::new(Standing::default()),
            membership: tokio::sync::Mutex::default(),
            named: Mutex::default(),
            wake: Notify::new(),
            ask: Notify::new(),
            quiet: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            tasks: Mutex::default(),
            settings,
            store,
            raft,
            clock,
            fence,
            links,
            started,
        });
        let (listen, protection) = (inner.settings.listen, inner.settings.protection.clone());
        let server = Server::listen(listen, protection, Limits::default(), Arc::clone(&inner));
        let server = server.await.map_err(|cause| StartError::Listen { address: listen, cause });
        let server = match server {
            Ok(server) => server,
            Err(error) => {
                let _ = inner.raft.shutdown().await;
                inner.store.close();
                return Err(error);
            }
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(drive::run(Arc::clone(&inner)));
        tasks.spawn(joining::run(Arc::clone(&inner)));
        Ok(Self { inner, server, tasks, ended: false })
    }

    /// This host's number.
    pub fn id(&self) -> NodeId {
        self.inner.store.node()
    }

    /// Where this host listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// How many connections were turned away at its port.
    pub fn refused(&self) -> u64 {
        self.server.refused()
    }

    /// Follows what this host is and holds.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.inner.standing.subscribe()
    }

    /// Follows what the hosts have agreed on, as far as this one knows.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.inner.applied.clone()
    }

    /// Whether this host can answer for VIPs: its uplink has a carrier. If not, others get them.
    pub fn set_fit(&self, fit: bool) {
        let leaving = self.inner.leaving.load(Ordering::Relaxed);
        self.inner.holder().set_fit(fit && !leaving);
        self.inner.ask.notify_one();
    }

    /// The VIPs that this host's configuration names from now on. The leader's list holds for all.
    pub fn set_vips(&self, vips: BTreeMap<IpAddr, Vip>) {
        *self.inner.vips.lock().unwrap_or_else(PoisonError::into_inner) = vips;
        self.inner.wake.notify_one();
    }

    /// The other hosts that this host's configuration names from now on. The cluster's hosts stay
    /// what they are; [`Order::Admit`] and [`Order::Remove`] change them.
    pub fn set_peers(&self, peers: Vec<Peer>) {
        *self.inner.peers.lock().unwrap_or_else(PoisonError::into_inner) = peers;
    }

    /// Has the leader do something, wherever it is.
    ///
    /// # Errors
    ///
    /// There is no leader, it refused, or it did not confirm.
    pub async fn order(&self, order: Order) -> Result<(), OrderError> {
        self.inner.order(order).await
    }

    /// A way to give orders that does not keep this host.
    pub fn orders(&self) -> Orders {
        Orders(Arc::clone(&self.inner))
    }

    /// A planned stop: what is held goes to other hosts, then the leadership. Takes a few hundred
    /// milliseconds; VIPs move within the first few of them.
    pub async fn stop(mut self) {
        self.inner.leave().await;
        self.end().await;
    }

    /// Ends at once, as if killed, but leaves the state directory free when it returns.
    pub async fn abort(mut self) {
        self.end().await;
    }

    async fn end(&mut self) {
        self.ended = true;
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
        self.server.close().await;
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(%error, "the log did not end well");
        }
        self.inner.tasks().abort_all();
        // Not on this thread: it may wait for a disk.
        let store = self.inner.store.clone();
        let _ = tokio::task::spawn_blocking(move || store.close()).await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // openraft's tasks go on without anybody who drives them.
        if !self.ended
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            self.inner.tasks().abort_all();
            let raft = self.inner.raft.clone();
            runtime.spawn(async move { raft.shutdown().await });
        }
    }
}

async fn start_raft(store: &Store, network: Network) -> Result<Raft<Types>, StartError> {
    let timeout = REPLICATION_TIMEOUT.as_millis() as u64;
    let config = openraft::Config {
        cluster_name: String::from("kube-vip"),
        // The drive decides when; these are timeouts of requests and openraft's lease.
        enable_tick: false,
        enable_heartbeat: false,
        enable_elect: false,
        heartbeat_interval: timeout,
        election_timeout_min: timeout + 1,
        election_timeout_max: timeout + 2,
        install_snapshot_timeout: 5000,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(1000),
        max_in_snapshot_log_to_keep: 200,
        purge_batch_size: 100,
        snapshot_max_chunk_size: 256 << 10,
        ..openraft::Config::default()
    };
    let config = config.validate().map_err(|error| StartError::Raft(error.to_string()))?;
    let raft = Raft::new(store.node(), Arc::new(config), network, store.log(), store.machine());
    raft.await.map_err(|error| StartError::Raft(error.to_string()))
}

impl Inner {
    /// Runs something that ends with this host.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lead(&self) -> MutexGuard<'_, Option<Tenure>> {
        self.lead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn configured(&self) -> Vec<Peer> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn holder(&self) -> MutexGuard<'_, Holder> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn election(&self) -> MutexGuard<'_, Election> {
        self.election.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A random number; where the kernel has none, hosts differ less.
fn random() -> u64 {
    getrandom::u64().unwrap_or(0)
}

//! What agents tell each other of connections, so that those outlive the host that owns the VIP and
//! the tables that led to them. It travels beside the hosts' own talk ([`Post`]), as protected as that.
//!
//! ```text
//! programs ─> NAT_CHANGES ─> listen ─> outbox of each host ─> courier ══> inbox ─> NAT4, NAT6
//! FLOWS4, FLOWS6 ────────> strays ───────────┘                                └─> STRAYS4, STRAYS6
//! ```
//!
//! Nothing here is needed to own a VIP or to balance: where it is late or fails, connections that
//! depend on it break, and `kube-vip status` says how late it is.

mod courier;
mod inbox;
mod listen;
mod message;
mod outbox;
mod strays;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube_vip_quorum::cluster::NodeId;
use kube_vip_quorum::node::{Post, Receiver};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use self::outbox::Outbox;
pub use self::outbox::Progress;
use crate::dataplane::{Records, Travels, World};

/// How often it is looked which hosts there are.
const LOOK: Duration = Duration::from_millis(200);

/// The talk of this host's agent with the others.
pub struct Peers {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

/// What all tasks have in common.
struct Shared {
    /// Nothing while this host takes no part.
    post: watch::Receiver<Option<Post>>,
    records: Records,
    world: watch::Sender<Arc<World>>,
    outboxes: Mutex<BTreeMap<NodeId, (String, Arc<Outbox>)>>,
    /// Tells one life of an agent from the next: what was said to an earlier one may be forgotten.
    life: u64,
    /// Connections may be strays that were none before.
    moved: Notify,
    tally: Tally,
}

/// What came from other hosts.
#[derive(Default)]
struct Tally {
    translations: AtomicU64,
    strays: AtomicU64,
    refused: AtomicU64,
}

/// How the talk goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// To each other host, by id.
    pub sent: BTreeMap<String, Progress>,
    /// Translated flows that other hosts told of, each time one was told.
    pub translations: u64,
    /// Strays that other hosts told of, each time one was told.
    pub strays: u64,
    /// Records that this host could not use: of ports that its file does not name, or in the place
    /// of its own.
    pub refused: u64,
}

impl Peers {
    /// Begins to talk. Nothing is taken before [`show`](Self::show).
    pub fn start(post: watch::Receiver<Option<Post>>, travels: Travels) -> Self {
        let Travels { records, changes } = travels;
        let shared = Arc::new(Shared {
            post,
            records,
            world: watch::Sender::new(Arc::default()),
            outboxes: Mutex::default(),
            life: RandomState::new().build_hasher().finish(),
            moved: Notify::new(),
            tally: Tally::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(listen::run(Arc::clone(&shared), changes));
        tasks.spawn(listen::count(Arc::clone(&shared)));
        tasks.spawn(strays::run(Arc::clone(&shared)));
        tasks.spawn(meet(Arc::clone(&shared)));
        Self { shared, _tasks: tasks }
    }

    /// Who takes what other agents say.
    pub fn receiver(&self) -> Arc<dyn Receiver> {
        Arc::new(inbox::Inbox(Arc::clone(&self.shared)))
    }

    /// What the maps say from now on.
    pub fn show(&self, world: World) {
        let before = self.shared.world.send_replace(Arc::new(world));
        let world = self.shared.world();
        if !world.owned.is_subset(&before.owned) {
            // The last owner may not have come to say everything to everybody.
            self.shared.each(Outbox::sweep);
        }
        self.shared.moved.notify_one();
    }

    /// How the talk goes.
    pub fn report(&self) -> Report {
        let outboxes = self.shared.outboxes();
        let tally = &self.shared.tally;
        Report {
            sent: outboxes.values().map(|(name, it)| (name.clone(), it.progress())).collect(),
            translations: tally.translations.load(Ordering::Relaxed),
            strays: tally.strays.load(Ordering::Relaxed),
            refused: tally.refused.load(Ordering::Relaxed),
        }
    }

    /// Waits until the others know of everything that happens before this call, so long at most.
    pub async fn flush(&self, within: Duration) {
        let deadline = Instant::now() + within;
        // What the programs have just said is on its way.
        sleep(2 * listen::GATHER).await;
        while Instant::now() < deadline {
            if self.shared.outboxes().values().all(|(_, outbox)| outbox.is_settled()) {
                return;
            }
            sleep(Duration::from_millis(2)).await;
        }
        tracing::warn!("other hosts may not know of all translated connections");
    }
}

impl Shared {
    fn world(&self) -> Arc<World> {
        Arc::clone(&self.world.borrow())
    }

    fn post(&self) -> Option<Post> {
        self.post.borrow().clone()
    }

    fn outboxes(&self) -> MutexGuard<'_, BTreeMap<NodeId, (String, Arc<Outbox>)>> {
        self.outboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn each(&self, mut work: impl FnMut(&Outbox)) {
        self.outboxes().values().for_each(|(_, outbox)| work(outbox));
    }
}

/// Keeps a courier for each other host.
async fn meet(shared: Arc<Shared>) {
    let mut couriers = JoinSet::new();
    let mut under_way = BTreeMap::new();
    loop {
        let hosts = shared.post().map(|post| post.hosts()).unwrap_or_default();
        under_way.retain(|node, courier: &mut tokio::task::AbortHandle| {
            let stays = hosts.contains_key(node);
            if !stays {
                courier.abort();
            }
            stays
        });
        while couriers.try_join_next().is_some() {}
        shared.outboxes().retain(|node, _| hosts.contains_key(node));
        for (node, name) in hosts {
            under_way.entry(node).or_insert_with(|| {
                let outbox = Arc::new(Outbox::default());
                shared.outboxes().insert(node, (name, Arc::clone(&outbox)));
                couriers.spawn(courier::run(Arc::clone(&shared), node, outbox))
            });
        }
        sleep(LOOK).await;
    }
}

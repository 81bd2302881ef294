//! How a cluster begins, how hosts come and go, and how one leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::ChangeMembers;
use tokio::time::{Instant, sleep, timeout};

use super::orders::{Order, OrderError, not_leading};
use super::wire::{Joined, Request, Response};
use super::{Inner, Peer, REPLICATION_TIMEOUT};
use crate::cluster::{Command, Host, NodeId};
use crate::grant::Voters;
use crate::raft::Member;
use crate::time::lengthened;
use crate::transport::{CallError, Client, ClusterId, Lane};

/// Between two attempts to join.
const PAUSE: Duration = Duration::from_millis(200);
/// A host that has heard no leader for so long asks to be taken in again.
const SILENCE: Duration = Duration::from_secs(1);
/// How long a peer may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// A new host gets so long to catch up with the log before it may vote.
const CATCH_UP: Duration = Duration::from_secs(30);
/// How long a planned stop waits for others to take over.
const HANDOVER: Duration = Duration::from_secs(1);

/// Joins or begins a cluster, and keeps what the cluster knows of this host right.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut peers = Vec::new();
    let mut configured = Vec::new();
    let started = Instant::now();
    while !inner.failed.load(Ordering::Relaxed) {
        let now = inner.configured();
        if peers != now {
            peers = now;
            let client = |peer: &Peer| (peer.name.clone(), inner.links.stranger(&peer.addresses));
            configured = peers.iter().map(client).collect();
        }
        if inner.takes_part().await {
            inner.refused.store(false, Ordering::Relaxed);
            inner.trouble(None);
            inner.keep_house().await;
        } else {
            inner.knock(&configured, started).await;
        }
        sleep(PAUSE).await;
    }
}

impl Inner {
    /// Whether this host votes, and leads or has heard a leader lately. One that was removed while
    /// it was away does not know it: the log that says so is no longer sent to it.
    async fn takes_part(&self) -> bool {
        if self.lead().is_some() {
            return true;
        }
        let free = self.voter.lock().await.until();
        let heard = self.clock.now() < free.plus(SILENCE);
        heard && self.is_voter() && self.store.follows().is_some()
    }

    /// Asks all peers to be taken in; begins a cluster if that is allowed and none knows of one.
    async fn knock(self: &Arc<Self>, configured: &[(String, Client)], started: Instant) {
        let request = Request::Join { node: self.store.node(), host: self.description() };
        let mut known = None;
        let mut reached = 0;
        let mut problems = Vec::new();
        // One after the other: the first that leads is enough.
        for (name, client) in configured {
            match self.links.call(client, Lane::Bulk, &request, PATIENCE).await {
                Ok(Response::Joined(Joined::Welcome { cluster })) => {
                    reached += 1;
                    self.refused.store(false, Ordering::Relaxed);
                    known = Some(cluster);
                    self.enter(cluster);
                }
                Ok(Response::Joined(Joined::Elsewhere { cluster })) => {
                    reached += 1;
                    known = known.or(cluster);
                }
                Ok(Response::Joined(Joined::Refused(why))) => {
                    reached += 1;
                    self.refused.store(true, Ordering::Relaxed);
                    known = known.or(client.met().and_then(|hello| hello.cluster));
                    problems.push(format!("{name}: {why}"));
                }
                Ok(_) | Err(CallError::Broken | CallError::Timeout(_) | CallError::TooLong(_)) => {}
                Err(error @ CallError::Unreachable { .. }) => {
                    // It does not go together with this host, but may well know a cluster.
                    known = known.or(client.met().and_then(|hello| hello.cluster));
                    problems.push(format!("{name}: {error}"));
                }
            }
        }
        let settings = &self.settings;
        let waited = started.elapsed() >= settings.bootstrap_wait;
        let all = reached == configured.len();
        if self.store.cluster().is_none()
            && settings.bootstrap
            && known.is_none()
            && (waited || all)
        {
            self.begin().await;
        } else if waited {
            self.trouble(Some(self.why_outside(known, &problems)));
        }
    }

    fn why_outside(&self, known: Option<ClusterId>, problems: &[String]) -> String {
        let state = match (self.store.cluster(), known) {
            (Some(_), _) if self.is_voter() => "no leader: too few hosts reach each other",
            (Some(_), _) => "this host is not yet, or no longer, one of its cluster's voters",
            (None, Some(_)) => "not yet taken in by the cluster",
            (None, None) if self.settings.bootstrap => "cannot begin a cluster yet",
            (None, None) => {
                "no peer knows of a cluster, and this host is not the one that may begin one \
                 (`startAsLeader: true` on exactly one host)"
            }
        };
        if problems.is_empty() {
            state.to_owned()
        } else {
            format!("{state} ({})", problems.join("; "))
        }
    }

    /// Remembers the cluster before anything of it is taken.
    fn enter(&self, cluster: ClusterId) {
        if self.store.cluster().is_none()
            && let Err(error) = self.store.set_cluster(cluster)
        {
            self.trouble(Some(error.to_string()));
        }
    }

    async fn begin(&self) {
        let host = self.description();
        let member = Member { name: host.name, addresses: host.addresses };
        self.enter(ClusterId(super::random()));
        if self.store.cluster().is_none() {
            return;
        }
        tracing::info!("no peer knows of a cluster; beginning one");
        let members = BTreeMap::from([(self.store.node(), member)]);
        if let Err(error) = self.raft.initialize(members).await {
            self.trouble(Some(format!("cannot begin a cluster: {error}")));
        }
    }

    /// Answers a host that wants to take part.
    pub(super) async fn join(self: &Arc<Self>, node: NodeId, host: Host) -> Joined {
        let applied = self.applied.borrow().clone();
        let elsewhere = Joined::Elsewhere { cluster: self.store.cluster() };
        let Some(cluster) = self.store.cluster() else { return elsewhere };
        let refused = {
            let lead = self.lead();
            let leads = lead.as_ref().filter(|tenure| applied.tenure == Some(tenure.id()));
            let Some(tenure) = leads else { return elsewhere };
            let configured = self.configured().iter().any(|peer| peer.name == host.name);
            let named = applied.cluster.named(&host.name).map(|(other, _)| other);
            let admitted = applied.cluster.admission.get(&host.name).copied();
            if !admitted.unwrap_or(configured || named.is_some()) {
                Some(format!(
                    "{:?} is none of this cluster's hosts; name it in `remotePeers`, or let it in \
                     with `kube-vip peers add {}`",
                    host.name, host.name
                ))
            } else {
                let twin = named.filter(|other| *other != node);
                let twin = twin.filter(|other| {
                    *other == self.store.node() || tenure.alive(*other, self.clock.now())
                });
                twin.map(|_| {
                    let name = &host.name;
                    format!("another host takes part as {name:?}; give each host its own id")
                })
            }
        };
        if let Some(why) = refused {
            return Joined::Refused(why);
        }
        let inner = Arc::clone(self);
        self.spawn(async move {
            let name = host.name.clone();
            if let Err(error) = inner.admit(node, host).await {
                tracing::warn!(name, %error, "a host could not be taken in");
            }
        });
        Joined::Welcome { cluster }
    }

    /// Takes a host in: first it follows the log, then it gets a vote, in the place of an older
    /// host of that name.
    async fn admit(self: &Arc<Self>, node: NodeId, host: Host) -> Result<(), OrderError> {
        // One at a time; it will knock again.
        let Ok(_changing) = self.membership.try_lock() else { return Ok(()) };
        if self.voters().contains(node) {
            return Ok(());
        }
        let unconfirmed = |error: String| OrderError::Unconfirmed(error);
        let member = Member { name: host.name.clone(), addresses: host.addresses.clone() };
        self.links.note(node, &host.addresses);
        let name = host.name.clone();
        let added = self.raft.add_learner(node, member, false).await;
        added.map_err(|error| unconfirmed(error.to_string()))?;
        let cluster = Arc::clone(&self.applied.borrow().cluster);
        let replaced = cluster.named(&name).map(|(other, _)| other);
        self.write(Command::Host { node, host }).await?;
        let deadline = Instant::now() + CATCH_UP;
        while !self.has_caught_up(node) {
            if Instant::now() > deadline || self.lead().is_none() {
                return Err(unconfirmed(format!("{name} does not catch up with the log")));
            }
            sleep(Duration::from_millis(10)).await;
        }
        let kept = self.voters().all().into_iter().filter(|it| Some(*it) != replaced);
        self.change_voters(kept.chain([node]).collect()).await
    }

    fn has_caught_up(&self, node: NodeId) -> bool {
        let metrics = self.raft.metrics().borrow().clone();
        let matched = metrics.replication.and_then(|all| all.get(&node).copied().flatten());
        let matched = matched.map_or(0, |log_id| log_id.index);
        matched > 0 && matched + 10 >= metrics.last_log_index.unwrap_or(0)
    }

    fn voters(&self) -> Voters {
        let metrics = self.raft.server_metrics().borrow().clone();
        Voters::new(metrics.membership_config.membership().get_joint_config().clone())
    }

    /// Changes the voters by way of a joint set. From before the change until after it grants need
    /// a majority of both.
    async fn change_voters(&self, next: BTreeSet<NodeId>) -> Result<(), OrderError> {
        let new = Voters::new([next.clone()]);
        let both = self.voters().and(&new);
        self.set_ledger(both)?;
        let changed =
            self.raft.change_membership(ChangeMembers::ReplaceAllVoters(next), false).await;
        changed.map_err(|error| OrderError::Unconfirmed(error.to_string()))?;
        self.set_ledger(new)
    }

    fn set_ledger(&self, voters: Voters) -> Result<(), OrderError> {
        let mut lead = self.lead();
        let tenure = lead.as_mut().ok_or_else(not_leading)?;
        tenure.ledger().set_voters(voters);
        Ok(())
    }

    /// Removes a host, voter or not.
    pub(super) async fn remove(&self, node: NodeId) -> Result<(), OrderError> {
        let _changing = self.membership.lock().await;
        let mut rest = self.voters().all();
        if rest.remove(&node) {
            if rest.is_empty() {
                let why = "it is the only voter; a cluster needs one".to_owned();
                return Err(OrderError::Refused(why));
            }
            return self.change_voters(rest).await;
        }
        let removal = ChangeMembers::RemoveNodes(BTreeSet::from([node]));
        let removed = self.raft.change_membership(removal, false).await;
        removed.map(drop).map_err(|error| OrderError::Unconfirmed(error.to_string()))
    }

    /// What a host that takes part sees to now and then.
    async fn keep_house(self: &Arc<Self>) {
        self.shorten_lease();
        let applied = self.applied.borrow().clone();
        let node = self.store.node();
        let tenure = self.lead().as_ref().map(crate::grant::Tenure::id);
        let leads = tenure.is_some() && applied.tenure == tenure;
        let own = self.description();
        match applied.cluster.hosts.get(&node) {
            None if leads => {
                let _ = self.write(Command::Host { node, host: own }).await;
            }
            Some(known) if (Host { drained: false, ..known.clone() }) != own => {
                let _ = self.order(Order::Describe { node, host: own }).await;
            }
            _ => {}
        }
        if !leads {
            return;
        }
        let vips = self.configured_vips();
        if applied.cluster.vips != vips {
            let _ = self.write(Command::Vips(vips)).await;
        }
        // A change of voters that an earlier leader did not bring to its end.
        let voters = self.voters();
        if let ([_, .., last], Ok(_changing)) = (voters.sets(), self.membership.try_lock()) {
            let _ = self.change_voters(last.clone()).await;
        }
    }

    /// Remembers a shorter lease once nothing is left of what was acknowledged under a longer one.
    fn shorten_lease(&self) {
        let lease = self.settings.timing.lease;
        let store = &self.store;
        let ended = self.clock.now() >= self.started.plus(lengthened(store.lease()));
        if store.lease() > lease
            && ended
            && let Err(error) = store.set_lease(lease)
        {
            self.trouble(Some(error.to_string()));
        }
    }

    /// Gives back what is held, then hands over the leadership.
    pub(super) async fn leave(self: &Arc<Self>) {
        self.leaving.store(true, Ordering::Relaxed);
        self.holder().set_fit(false);
        self.ask.notify_one();
        let emptied = async {
            loop {
                let holds = self.holder().holding(self.clock.now()).next().is_some();
                if !holds && self.applied.borrow().cluster.of(self.store.node()).next().is_none() {
                    return;
                }
                sleep(Duration::from_millis(2)).await;
            }
        };
        let alone = self.voters().all().len() < 2;
        if alone || timeout(HANDOVER, emptied).await.is_err() {
            tracing::warn!("nobody has taken over what this host holds");
        }
        if alone || self.lead().is_none() {
            return;
        }
        // openraft withholds votes, too, for a while after its last message: grants go on, but it
        // falls silent.
        self.quiet.store(true, Ordering::Relaxed);
        sleep(REPLICATION_TIMEOUT + Duration::from_millis(10)).await;
        let id = self.lead().as_mut().map(|tenure| {
            tenure.close();
            tenure.id()
        });
        let (Some(id), Some(successor)) = (id, self.successor()) else { return };
        if let Some(client) = self.links.peer(successor) {
            let request = Request::Successor { tenure: id };
            let _ = self.links.call(&client, self.links.urgent(), &request, PATIENCE).await;
        }
        let followed = async {
            while self.store.follows() == Some(id) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        let _ = timeout(HANDOVER, followed).await;
    }

    /// The voter that is alive and has most of the log.
    fn successor(&self) -> Option<NodeId> {
        let now = self.clock.now();
        let metrics = self.raft.metrics().borrow().clone();
        let matched = metrics.replication.unwrap_or_default();
        let lead = self.lead();
        let tenure = lead.as_ref()?;
        let voters = self.voters().all().into_iter();
        let others = voters.filter(|node| *node != self.store.node() && tenure.alive(*node, now));
        others.max_by_key(|node| matched.get(node).copied().flatten())
    }
}

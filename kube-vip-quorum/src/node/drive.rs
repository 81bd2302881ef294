//! The one task that acts as times come: heartbeats, questions, elections, plans.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use openraft::ServerState;
use tokio::time::sleep;

use super::wire::{Request, Response};
use super::{Inner, random};
use crate::cluster::{Command, Host, NodeId, TenureId};
use crate::grant::{Claim, Lease, Tenure, Voters};
use crate::raft::{Applied, elected};
use crate::time::Boot;

/// With every so many heartbeats openraft sends one of its own, so that a host that has missed the
/// last entry gets it.
const SPREAD_EVERY: u32 = 5;

/// When things are due, by this host's clock.
struct Times {
    heartbeat: Boot,
    ask: Boot,
    beats: u32,
    follows: Option<TenureId>,
    assigned: Vec<(IpAddr, u64)>,
    /// The leader that was followed before this host began to lead.
    predecessor: Option<NodeId>,
}

/// Runs until it is aborted or the log has ended.
pub(super) async fn run(inner: Arc<Inner>) {
    let now = inner.clock.now();
    let mut times = Times {
        heartbeat: now,
        ask: now,
        beats: 0,
        follows: None,
        assigned: Vec::new(),
        predecessor: None,
    };
    let mut applied = inner.applied.clone();
    let mut metrics = inner.raft.server_metrics();
    loop {
        inner.turn(&mut times).await;
        if let Some(failure) = inner.failure() {
            // Nothing can be promised any more. What is held ends by its deadline.
            inner.failed.store(true, Ordering::Relaxed);
            inner.lead().take();
            inner.trouble(Some(failure));
            inner.publish();
            return;
        }
        let pause = inner.pause(&times).await;
        tokio::select! {
            () = sleep(pause) => {}
            () = inner.wake.notified() => {}
            () = inner.ask.notified() => times.ask = Boot(0),
            changed = applied.changed() => if changed.is_err() { return },
            changed = metrics.changed() => if changed.is_err() { return },
        }
    }
}

impl Inner {
    async fn turn(self: &Arc<Self>, times: &mut Times) {
        let now = self.clock.now();
        self.know_hosts();
        let follows = self.store.follows();
        if follows != times.follows {
            let other = follows.filter(|leader| leader.leader != self.store.node());
            times.predecessor = other.map(|leader| leader.leader).or(times.predecessor);
            (times.follows, times.ask) = (follows, now);
        }
        if self.begin_or_end(times.predecessor, now) {
            times.heartbeat = now;
        }
        let applied = self.applied.borrow().clone();
        let assigned: Vec<_> = applied.cluster.of(self.store.node()).collect();
        if self.end_lost(&applied) || assigned != times.assigned {
            (times.assigned, times.ask) = (assigned, now);
        }
        if now >= times.heartbeat {
            times.heartbeat = now.plus(self.settings.timing.heartbeat);
            times.beats = times.beats.wrapping_add(1);
            self.heartbeat(times.beats).await;
        }
        if now >= times.ask {
            times.ask = now.plus(self.settings.timing.heartbeat);
            if self.lacks(&applied, now) {
                times.ask = now.plus(self.settings.timing.heartbeat / 4);
            }
            self.ask_leader(follows);
        }
        self.canvass(now).await;
        self.plan();
        self.publish();
    }

    /// How long nothing is due.
    async fn pause(&self, times: &Times) -> Duration {
        let now = self.clock.now();
        let mut due = times.ask;
        if let Some(tenure) = &*self.lead() {
            due = due.min(times.heartbeat).min(tenure.wake(now).unwrap_or(due));
        }
        // What is held may end before the next question.
        let ends = self.holder().holding(now).map(|lease| lease.until).min();
        due = due.min(ends.unwrap_or(due));
        let free = self.voter.lock().await.until();
        let may_stand = self.lead().is_none() && self.is_voter();
        if may_stand && free > now {
            due = due.min(free);
        }
        let pause = due.since(now).max(Duration::from_millis(1));
        if may_stand && free <= now { pause.min(Duration::from_millis(5)) } else { pause }
    }

    /// Why the log has ended, if it has.
    fn failure(&self) -> Option<String> {
        if let Some(failure) = self.store.log().failure() {
            return Some(failure);
        }
        let running = self.raft.metrics().borrow().running_state.clone();
        running.err().map(|error| format!("the log of this host has ended: {error}"))
    }

    /// Begins or ends a tenure with openraft's leadership; true if one has begun.
    fn begin_or_end(&self, predecessor: Option<NodeId>, now: Boot) -> bool {
        let metrics = self.raft.server_metrics().borrow().clone();
        let leads = metrics.state == ServerState::Leader;
        let id = elected(&metrics.vote).filter(|id| leads && id.leader == self.store.node());
        // Only the vote on disk counts, as for every other voter.
        let id = id.filter(|id| self.store.follows() == Some(*id));
        let mut lead = self.lead();
        if lead.as_ref().map(Tenure::id) == id {
            return false;
        }
        *lead = id.map(|id| {
            let named = *self.named.lock().unwrap_or_else(PoisonError::into_inner);
            let withheld = self.settings.timing.withheld();
            // Later than that, nothing is left of what the one that named us has granted.
            let claim = match named {
                Some(named) if now < named.plus(withheld) => Claim::Named,
                _ => Claim::Elected { after: predecessor },
            };
            let voters = metrics.membership_config.membership().get_joint_config().clone();
            tracing::info!(tenure = %id, ?claim, "this host leads");
            Tenure::new(id, self.settings.timing, Voters::new(voters), claim, now)
        });
        lead.is_some()
    }

    /// Sends a heartbeat to every voter; their acknowledgements go to the ledger with the moment
    /// of sending.
    async fn heartbeat(self: &Arc<Self>, beats: u32) {
        let begun = {
            let mut lead = self.lead();
            lead.as_mut().map(|tenure| {
                let sent = self.clock.now();
                tenure.ledger().sending(sent);
                (tenure.id(), sent, tenure.ledger().voters().all())
            })
        };
        let Some((id, sent, voters)) = begun else { return };
        if self.acknowledge(id).await {
            self.acknowledged(id, id.leader, sent);
        }
        for node in voters.into_iter().filter(|node| *node != id.leader) {
            let Some(client) = self.links.peer(node) else { continue };
            let inner = Arc::clone(self);
            self.spawn(async move {
                let request = Request::Heartbeat { tenure: id };
                let lane = inner.links.urgent();
                let within = inner.settings.timing.lease;
                let answer = inner.links.call(&client, lane, &request, within).await;
                if let Ok(Response::Acknowledged(true)) = answer {
                    inner.acknowledged(id, node, sent);
                }
            });
        }
        if beats.is_multiple_of(SPREAD_EVERY) {
            self.spread();
        }
    }

    fn acknowledged(&self, id: TenureId, node: NodeId, sent: Boot) {
        if let Some(tenure) = self.lead().as_mut().filter(|tenure| tenure.id() == id) {
            tenure.ledger().acknowledged(node, sent);
        }
    }

    /// Has openraft tell everybody how far the log is.
    pub(super) fn spread(self: &Arc<Self>) {
        if self.quiet.load(Ordering::Relaxed) {
            return;
        }
        let inner = Arc::clone(self);
        self.spawn(async move {
            let _ = inner.raft.trigger().heartbeat().await;
        });
    }

    /// Asks the leader, who may be this host.
    fn ask_leader(self: &Arc<Self>, follows: Option<TenureId>) {
        let Some(leader) = follows else { return };
        let inner = Arc::clone(self);
        self.spawn(async move {
            // Before the question leaves; only this process knows it.
            let asked = inner.clock.now();
            let index = inner.applied.borrow().index;
            let ask = inner.holder().ask(index);
            let answer = if leader.leader == inner.store.node() {
                inner.answer(&ask)
            } else {
                let Some(client) = inner.links.peer(leader.leader) else { return };
                let (lane, within) = (inner.links.urgent(), inner.settings.timing.lease);
                match inner.links.call(&client, lane, &Request::Ask(ask), within).await {
                    Ok(Response::Answer(answer)) => Some(answer),
                    _ => None,
                }
            };
            let Some(answer) = answer else { return };
            let applied = inner.applied.borrow().clone();
            let mut holder = inner.holder();
            let leases = holder.answered(asked, &answer, &applied.cluster, inner.clock.now());
            let gave_back = inner.write_leases(&mut holder, leases);
            drop(holder);
            if gave_back {
                inner.ask.notify_one();
            } else {
                inner.wake.notify_one();
            }
        });
    }

    /// Whether this host is to hold something that it does not hold.
    fn lacks(&self, applied: &Applied, now: Boot) -> bool {
        let holder = self.holder();
        let mut assigned = applied.cluster.of(self.store.node());
        assigned.any(|(vip, _)| !holder.holding(now).any(|lease| lease.vip == vip))
    }

    /// Ends what the log gives to others by now; true if that was something.
    fn end_lost(&self, applied: &Applied) -> bool {
        let mut holder = self.holder();
        let leases = holder.applied(&applied.cluster);
        self.write_leases(&mut holder, leases)
    }

    /// Writes leases into the kernel, in order, while nobody else does; true if one has ended.
    fn write_leases(
        &self,
        holder: &mut crate::grant::Holder,
        leases: impl IntoIterator<Item = Lease>,
    ) -> bool {
        let mut ended = false;
        for lease in leases {
            match self.fence.write(&lease) {
                Ok(()) => {
                    holder.written(lease);
                    ended |= lease.until == Boot(0);
                }
                Err(error) => {
                    tracing::error!(vip = %lease.vip, %error, "cannot write a lease");
                }
            }
        }
        ended
    }

    /// Asks the voters whether they would vote, when it is time to.
    async fn canvass(self: &Arc<Self>, now: Boot) {
        let metrics = self.raft.server_metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        let node = self.store.node();
        if self.lead().is_some() || !membership.voter_ids().any(|id| id == node) {
            return;
        }
        let free = self.voter.lock().await.until();
        let Some(round) = self.election().canvass(node, free, random(), now) else { return };
        let voters = Voters::new(membership.get_joint_config().clone());
        if self.election().willing(node, round, &voters) {
            self.stand(None).await;
            return;
        }
        let last = self.last_log_id().await;
        for peer in voters.all().into_iter().filter(|peer| *peer != node) {
            let Some(client) = self.links.peer(peer) else { continue };
            let (inner, voters) = (Arc::clone(self), voters.clone());
            self.spawn(async move {
                let (lane, within) = (inner.links.urgent(), inner.settings.timing.lease);
                let request = Request::Canvass { last };
                let answer = inner.links.call(&client, lane, &request, within).await;
                let enough = matches!(answer, Ok(Response::Canvassed(true)))
                    && inner.election().willing(peer, round, &voters);
                if enough {
                    inner.stand(None).await;
                }
            });
        }
    }

    /// What a leader has to propose, and whom to tell that it should ask.
    pub(super) fn plan(self: &Arc<Self>) {
        let applied = self.applied.borrow().clone();
        let now = self.clock.now();
        let (id, commands, nudge) = {
            let mut lead = self.lead();
            let tenure = lead.as_mut().filter(|tenure| applied.tenure == Some(tenure.id()));
            let Some(tenure) = tenure else { return };
            let commands = tenure.plan(&applied.cluster, now);
            (tenure.id(), commands, tenure.to_nudge(&applied.cluster, now))
        };
        for command in commands {
            tracing::info!(?command, "proposing");
            let inner = Arc::clone(self);
            self.spawn(async move { inner.propose(id, command).await });
        }
        for node in nudge {
            if node == self.store.node() {
                self.ask.notify_one();
                continue;
            }
            let Some(client) = self.links.peer(node) else { continue };
            let inner = Arc::clone(self);
            self.spawn(async move {
                let (lane, within) = (inner.links.urgent(), inner.settings.timing.lease);
                let _ = inner.links.call(&client, lane, &Request::Nudge, within).await;
            });
        }
    }

    async fn propose(self: &Arc<Self>, id: TenureId, command: Command) {
        let written = self.raft.client_write(command.clone()).await;
        // Without an answer it may be committed yet; this tenure then does not touch the VIP again.
        if let Ok(written) = written
            && written.data.is_err()
            && let Some(tenure) = self.lead().as_mut().filter(|tenure| tenure.id() == id)
        {
            tenure.refused(&command);
        }
        self.wake.notify_one();
    }

    /// Notes where the hosts are.
    fn know_hosts(&self) {
        let metrics = self.raft.server_metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        let cluster = Arc::clone(&self.applied.borrow().cluster);
        for (node, member) in membership.nodes() {
            let agreed = cluster.hosts.get(node).map(|host| &host.addresses);
            self.links.note(*node, agreed.unwrap_or(&member.addresses));
        }
        self.links.keep(|node| membership.get_node(&node).is_some());
    }

    /// What this host says of itself to the cluster.
    pub(super) fn description(&self) -> Host {
        let settings = &self.settings;
        let listens = [settings.listen];
        let addresses =
            if settings.addresses.is_empty() { &listens[..] } else { &settings.addresses };
        Host {
            name: settings.name.clone(),
            addresses: addresses.to_vec(),
            weight: settings.weight,
            drained: false,
            vips: Some(self.configured_vips().into_keys().collect()),
        }
    }
}

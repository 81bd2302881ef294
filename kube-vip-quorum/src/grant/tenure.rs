//! The leader: what it grants, and when it gives a VIP to somebody else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::{Answer, Ask, Granted, Held, Ledger, Voters};
use crate::assign::{self, Candidate};
use crate::cluster::{Cluster, Command, Host, NodeId, TenureId};
use crate::time::{Boot, Timing};

/// How the leadership came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The voters had withheld their votes long enough: nothing is granted any more. The leader
    /// that they followed before is taken for dead until it asks.
    Elected {
        /// That leader.
        after: Option<NodeId>,
    },
    /// The last leader named this one its successor: what it granted may still hold.
    Named,
}

/// Why a VIP cannot be moved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    /// It is none of the VIPs.
    #[error("{0} is not in the cluster's list of VIPs")]
    NoSuchVip(IpAddr),
    /// The host is none of those that take part.
    #[error("no host is called {0:?}; `kube-vip peers list` shows those that take part")]
    NoSuchHost(String),
    /// The host cannot hold it now.
    #[error("{0:?} cannot hold a VIP now: it is drained, unfit, or has not been heard")]
    Unfit(String),
}

/// One leader's time in office. It begins with an election, never with a restart: what an earlier
/// process granted is not known to this one.
#[derive(Clone, Debug)]
pub struct Tenure {
    id: TenureId,
    timing: Timing,
    ledger: Ledger,
    began: Boot,
    /// Until then only assignments in the log are renewed.
    frozen_until: Boot,
    closed: bool,
    heard: BTreeMap<NodeId, Heard>,
    issued: BTreeMap<IpAddr, Issued>,
    moving: BTreeMap<IpAddr, Moving>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    at: Option<Boot>,
    fit: bool,
}

/// The latest grant of a VIP, by the heartbeat it rests on.
#[derive(Clone, Copy, Debug)]
struct Issued {
    node: NodeId,
    epoch: u64,
    basis: Boot,
}

/// A VIP that its holder is to lose; nothing is granted under the epoch it has.
#[derive(Clone, Copy, Debug)]
struct Moving {
    epoch: u64,
    to: NodeId,
    /// Somebody has asked for this very host.
    asked: bool,
    released: bool,
    proposed: bool,
    nudge_at: Boot,
}

impl Moving {
    fn new(epoch: u64, to: NodeId) -> Self {
        Self { epoch, to, asked: false, released: false, proposed: false, nudge_at: Boot(0) }
    }
}

impl Tenure {
    /// A tenure that begins now. `voters` are those of the newest set in the log, in force or not.
    pub fn new(id: TenureId, timing: Timing, voters: Voters, claim: Claim, now: Boot) -> Self {
        let (frozen_until, gone) = match claim {
            Claim::Elected { after } => (now, after.filter(|after| *after != id.leader)),
            Claim::Named => (now.plus(timing.withheld()), None),
        };
        let silent = Heard { at: None, fit: true };
        Self {
            id,
            timing,
            ledger: Ledger::new(voters),
            began: now,
            frozen_until,
            closed: false,
            heard: gone.map(|gone| (gone, silent)).into_iter().collect(),
            issued: BTreeMap::new(),
            moving: BTreeMap::new(),
        }
    }

    /// Whose tenure this is.
    pub fn id(&self) -> TenureId {
        self.id
    }

    /// Which heartbeats have been acknowledged.
    pub fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// Grants nothing more, ever: the last thing before a successor is named.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Until when grants that are given now hold at most, by this host's clock; nothing where none
    /// can be given.
    pub fn grants_until(&self, now: Boot) -> Option<Boot> {
        let end = self.ledger.majority()?.plus(self.timing.lease);
        (!self.closed && end > now).then_some(end)
    }

    /// Answers a host. `cluster` is the state after an entry of this tenure has been applied;
    /// before that a leader does not know what is committed, and must not answer.
    pub fn answer(&mut self, ask: &Ask, cluster: &Cluster, now: Boot) -> Answer {
        self.heard.insert(ask.node, Heard { at: Some(now), fit: ask.fit });
        for held in &ask.released {
            self.released(ask.node, held, cluster);
        }
        let end = self.grants_until(now);
        let mut answer = Answer { tenure: self.id, granted: Vec::new(), release: Vec::new() };
        for (vip, epoch) in cluster.of(ask.node) {
            let held = Held { vip, epoch };
            if let Some(moving) = self.moving.get(&vip).filter(|moving| moving.epoch == epoch) {
                if !moving.released {
                    answer.release.push(held);
                }
                continue;
            }
            let Some(end) = end else { continue };
            let basis = self.ledger.majority().unwrap_or_default();
            self.issued.insert(vip, Issued { node: ask.node, epoch, basis });
            let remaining = u64::try_from(end.since(now).as_nanos()).unwrap_or(u64::MAX);
            answer.granted.push(Granted { held, remaining });
        }
        answer
    }

    fn released(&mut self, node: NodeId, held: &Held, cluster: &Cluster) {
        let assignment = cluster.assignments.get(&held.vip);
        if !assignment.is_some_and(|it| it.node == node && it.epoch == held.epoch) {
            return;
        }
        // Given back without having been asked to: it needs a new epoch, if only on the same host.
        let moving = self.moving.entry(held.vip).or_insert(Moving::new(held.epoch, node));
        moving.released |= moving.epoch == held.epoch;
        if self.issued.get(&held.vip).is_some_and(|it| it.node == node && it.epoch <= held.epoch) {
            self.issued.remove(&held.vip);
        }
    }

    /// Moves a VIP to the host of that name.
    ///
    /// # Errors
    ///
    /// There is no such VIP or host, or the host cannot hold it.
    pub fn move_to(
        &mut self,
        vip: IpAddr,
        name: &str,
        cluster: &Cluster,
        now: Boot,
    ) -> Result<(), MoveError> {
        if !cluster.vips.contains_key(&vip) {
            return Err(MoveError::NoSuchVip(vip));
        }
        let Some((to, _)) = cluster.named(name) else {
            return Err(MoveError::NoSuchHost(name.to_owned()));
        };
        let candidates = self.candidates(cluster, now);
        if !candidates.iter().any(|candidate| candidate.node == to && candidate.can_hold(&vip)) {
            return Err(MoveError::Unfit(name.to_owned()));
        }
        let assignment = cluster.assignments.get(&vip);
        if assignment.is_some_and(|it| it.node == to) && !self.moving.contains_key(&vip) {
            return Ok(());
        }
        let epoch = assignment.map_or(0, |it| it.epoch);
        let moving = self.moving.entry(vip).or_insert(Moving::new(epoch, to));
        if !moving.proposed {
            (moving.to, moving.asked) = (to, true);
        }
        Ok(())
    }

    /// What to propose now: assignments whose VIP nobody can hold any more. Each is put out once
    /// and must then be proposed. `cluster` as for [`Tenure::answer`].
    pub fn plan(&mut self, cluster: &Cluster, now: Boot) -> Vec<Command> {
        if self.closed {
            return Vec::new();
        }
        let epoch_of = |vip: &IpAddr| cluster.assignments.get(vip).map_or(0, |it| it.epoch);
        self.moving
            .retain(|vip, moving| cluster.vips.contains_key(vip) && moving.epoch == epoch_of(vip));
        self.issued.retain(|_, issued| now < issued.basis.plus(self.timing.withheld()));
        let candidates = self.candidates(cluster, now);
        let wishes = self.moving.iter().filter(|(_, moving)| moving.asked);
        let wishes: BTreeMap<_, _> = wishes.map(|(vip, moving)| (*vip, moving.to)).collect();
        let holders = cluster.assignments.iter().map(|(vip, it)| (*vip, it.node)).collect();
        let targets = assign::place(&cluster.vips, &holders, &wishes, &candidates);

        let mut commands = Vec::new();
        for vip in cluster.vips.keys() {
            let assigned = cluster.assignments.get(vip).map(|it| it.node);
            let target = targets.get(vip).copied();
            match (target, self.moving.get_mut(vip)) {
                (_, Some(moving)) if moving.proposed => continue,
                // The host it was to leave may keep it after all, or there is no other.
                (to, Some(moving)) if (to.is_none() || to == assigned) && !moving.released => {
                    self.moving.remove(vip);
                    continue;
                }
                (Some(to), Some(moving)) => moving.to = to,
                (Some(to), None) if Some(to) != assigned => {
                    self.moving.insert(*vip, Moving::new(epoch_of(vip), to));
                }
                _ => continue,
            }
            let Some(moving) = self.moving.get_mut(vip) else { continue };
            let nobody_holds =
                !self.issued.contains_key(vip) && (moving.released || now >= self.frozen_until);
            if nobody_holds {
                moving.proposed = true;
                commands.push(Command::Assign { vip: *vip, after: moving.epoch, to: moving.to });
            }
        }
        commands
    }

    /// A proposal of this tenure was applied and changed nothing: it is planned anew.
    pub fn refused(&mut self, command: &Command) {
        if let Command::Assign { vip, after, .. } = command
            && let Some(moving) = self.moving.get_mut(vip)
            && moving.epoch == *after
        {
            moving.proposed = false;
        }
    }

    /// Hosts to be told now that they should ask, because they are to give something back; each
    /// again with every heartbeat.
    pub fn to_nudge(&mut self, cluster: &Cluster, now: Boot) -> BTreeSet<NodeId> {
        let mut nodes = BTreeSet::new();
        for (vip, moving) in &mut self.moving {
            let waits = !moving.released && !moving.proposed && now >= moving.nudge_at;
            if let (true, Some(assignment)) = (waits, cluster.assignments.get(vip)) {
                moving.nudge_at = now.plus(self.timing.heartbeat);
                nodes.insert(assignment.node);
            }
        }
        nodes
    }

    /// When [`Tenure::plan`] may come to something new without anything having been heard.
    pub fn wake(&self, now: Boot) -> Option<Boot> {
        let ends = self.issued.values().map(|issued| issued.basis.plus(self.timing.withheld()));
        let deaths = self.heard.values().filter_map(|heard| heard.at);
        let deaths = deaths.chain([self.began]).map(|at| at.plus(self.timing.dead_after));
        ends.chain(deaths).chain([self.frozen_until]).filter(|at| *at > now).min()
    }

    /// Whether a host has been heard lately, and says that it can hold VIPs.
    pub fn alive(&self, node: NodeId, now: Boot) -> bool {
        let fresh = |at| now < Boot::plus(at, self.timing.dead_after);
        match self.heard.get(&node) {
            Some(Heard { at, fit }) => *fit && at.is_some_and(fresh),
            // Not heard yet: every host gets the time in which it would have asked.
            None => fresh(self.began),
        }
    }

    fn candidates<'a>(&self, cluster: &'a Cluster, now: Boot) -> Vec<Candidate<'a>> {
        let able =
            cluster.hosts.iter().filter(|(node, host)| !host.drained && self.alive(**node, now));
        let candidate = |(node, host): (&NodeId, &'a Host)| Candidate {
            node: *node,
            name: &host.name,
            weight: host.weight,
            vips: host.vips.as_ref(),
        };
        able.map(candidate).collect()
    }

    /// How long ago the newest heartbeat was sent that a majority has acknowledged.
    pub fn majority_age(&self, now: Boot) -> Option<Duration> {
        Some(now.since(self.ledger.majority()?))
    }
}

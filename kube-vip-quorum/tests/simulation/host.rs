//! One host's process: the pure machines of the crate over the small log, as the agent runs them
//! over openraft.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use kube_vip_quorum::cluster::{Cluster, Command, NodeId, TenureId};
use kube_vip_quorum::grant::{Answer, Ask, Claim, Election, Holder, Lease, Tenure, Voter, Voters};
use kube_vip_quorum::time::{Boot, Timing};

use crate::raft::{Disk, Entry, Last, Payload, Raft};
use crate::rng::Rng;
use crate::world::Mutation;

/// In place of a host's number: all hosts that the configuration names.
pub(crate) const EVERYBODY: NodeId = 0;

#[derive(Clone, Debug)]
pub(crate) enum Message {
    Canvass { round: u64, last: Last },
    Canvassed { round: u64, yes: bool },
    Vote { vote: TenureId, last: Last, claim: Option<TenureId> },
    Voted { vote: TenureId, granted: bool, theirs: TenureId },
    Append { tenure: TenureId, prev: Last, entries: Vec<Entry>, commit: usize },
    Appended { tenure: TenureId, theirs: TenureId, matched: Option<usize>, hint: usize },
    Heartbeat { tenure: TenureId, sent: Boot },
    Acknowledged { tenure: TenureId, sent: Boot },
    Ask { number: u64, ask: Ask },
    Answered { number: u64, answer: Answer },
    Nudge,
    Successor { tenure: TenureId },
    Join { name: String },
}

impl Message {
    /// Whether something has to be on disk before it leaves.
    pub(crate) fn waits_for_disk(&self) -> bool {
        matches!(
            self,
            Self::Vote { .. } | Self::Voted { granted: true, .. } | Self::Appended { .. }
        )
    }
}

/// What a step of a process leads to.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub(crate) send: Vec<(NodeId, Message)>,
    /// To be written into the kernel, in this order.
    pub(crate) write: Vec<Lease>,
}

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) raft: Raft,
    pub(crate) cluster: Cluster,
    pub(crate) applied: usize,
    pub(crate) holder: Holder,
    pub(crate) rng: Rng,
    name: String,
    timing: Timing,
    mutation: Option<Mutation>,
    voter: Voter,
    tenure: Option<Tenure>,
    /// An entry of the tenure has been applied.
    ready: bool,
    claim: Option<TenureId>,
    predecessor: Option<NodeId>,
    election: Election,
    next_heartbeat: Boot,
    next_ask: Boot,
    asked: BTreeMap<u64, Boot>,
    leaving: Option<Boot>,
    /// It has handed over; the process ends.
    pub(crate) left: bool,
}

impl Process {
    pub(crate) fn start(
        id: NodeId,
        name: &str,
        disk: Disk,
        timing: Timing,
        mutation: Option<Mutation>,
        now: Boot,
        rng: Rng,
    ) -> Self {
        let mut voter = Voter::new(&timing, Duration::ZERO, now);
        if mutation == Some(Mutation::VotersForgetAtStart) {
            voter = Voter::new(&timing, Duration::ZERO, Boot(0));
        }
        Self {
            raft: Raft::new(id, disk),
            cluster: Cluster::default(),
            applied: 0,
            holder: Holder::new(id),
            rng,
            name: name.to_owned(),
            timing,
            mutation,
            voter,
            tenure: None,
            ready: false,
            claim: None,
            predecessor: None,
            election: Election::new(&timing),
            next_heartbeat: now,
            next_ask: now,
            asked: BTreeMap::new(),
            leaving: None,
            left: false,
        }
    }

    /// A planned stop: give back what is held, then name a successor.
    pub(crate) fn leave(&mut self, now: Boot) -> Effects {
        self.holder.set_fit(false);
        self.leaving = Some(now.plus(Duration::from_millis(300)));
        let mut effects = Effects::default();
        self.ask(now, &mut effects);
        effects
    }

    pub(crate) fn set_fit(&mut self, fit: bool) {
        self.holder.set_fit(fit && self.leaving.is_none());
    }

    pub(crate) fn move_to(&mut self, vip: IpAddr, name: &str, now: Boot) {
        if let (true, Some(tenure)) = (self.ready, &mut self.tenure) {
            let _ = tenure.move_to(vip, name, &self.cluster, now);
        }
    }

    /// The kernel knows these leases now.
    pub(crate) fn written(&mut self, leases: &[Lease], now: Boot) -> Effects {
        let mut effects = Effects::default();
        let given_back = leases.iter().any(|lease| lease.until == Boot(0));
        for lease in leases {
            self.holder.written(*lease);
        }
        if given_back {
            self.ask(now, &mut effects);
        }
        effects
    }

    /// Called every few milliseconds.
    pub(crate) fn tick(&mut self, now: Boot) -> Effects {
        let mut effects = Effects::default();
        if now >= self.next_heartbeat {
            self.next_heartbeat = now.plus(self.timing.heartbeat);
            self.heartbeat(now, &mut effects);
        }
        if now >= self.next_ask {
            self.ask(now, &mut effects);
        }
        if !self.raft.voters().0.contains(self.raft.id) {
            if self.rng.permille(50) {
                effects.send.push((EVERYBODY, Message::Join { name: self.name.clone() }));
            }
        } else if !self.raft.leads() {
            self.election(now, &mut effects);
        }
        self.lead(now, &mut effects);
        self.stop(now, &mut effects);
        effects
    }

    fn election(&mut self, now: Boot, effects: &mut Effects) {
        let free = if self.careless() { Boot(0) } else { self.voter.until() };
        let random = self.rng.next();
        let Some(round) = self.election.canvass(self.raft.id, free, random, now) else { return };
        let last = self.raft.last();
        let others = self.raft.voters().0.all().into_iter().filter(|it| *it != self.raft.id);
        effects.send.extend(others.map(|node| (node, Message::Canvass { round, last })));
        if self.election.willing(self.raft.id, round, &self.raft.voters().0) {
            self.stand(None, now, effects);
        }
    }

    fn careless(&self) -> bool {
        self.mutation == Some(Mutation::VotersDoNotWithhold)
    }

    fn may_vote(&self, claim: Option<TenureId>, now: Boot) -> bool {
        self.careless() || self.voter.may_vote(claim, self.raft.follows(), now).is_ok()
    }

    fn stand(&mut self, claim: Option<TenureId>, now: Boot, effects: &mut Effects) {
        if self.raft.leads() || !self.may_vote(claim, now) {
            return;
        }
        self.voter.stands(self.raft.follows());
        self.claim = claim;
        self.predecessor = self.raft.follows().map(|it| it.leader).or(self.predecessor);
        let out = self.raft.stand(claim);
        effects.send.extend(out);
        self.elected(now);
    }

    /// Begins or ends the tenure with the leadership.
    fn elected(&mut self, now: Boot) {
        let own = self.raft.leads().then_some(self.raft.disk.vote);
        if self.tenure.as_ref().map(Tenure::id) == own {
            return;
        }
        self.ready = false;
        self.tenure = own.map(|id| {
            let claim = match self.claim {
                Some(_) if self.mutation != Some(Mutation::SuccessorMovesAtOnce) => Claim::Named,
                _ => Claim::Elected { after: self.predecessor },
            };
            self.next_heartbeat = now;
            Tenure::new(id, self.timing, self.raft.voters().0, claim, now)
        });
    }

    fn heartbeat(&mut self, now: Boot, effects: &mut Effects) {
        let follows = self.raft.follows();
        let Some(tenure) = &mut self.tenure else { return };
        let id = tenure.id();
        tenure.ledger().sending(now);
        let voters = tenure.ledger().voters().all();
        if self.voter.heartbeat(id, follows, now) {
            tenure.ledger().acknowledged(id.leader, now);
        }
        for node in voters.into_iter().filter(|node| *node != id.leader) {
            if self.mutation == Some(Mutation::LeaderNeedsNoQuorum) {
                tenure.ledger().acknowledged(node, now);
            }
            effects.send.push((node, Message::Heartbeat { tenure: id, sent: now }));
        }
        let out = self.raft.replicate();
        effects.send.extend(out);
    }

    fn ask(&mut self, now: Boot, effects: &mut Effects) {
        self.next_ask = now.plus(self.timing.heartbeat);
        if let Some(leader) = self.raft.follows() {
            let ask = self.holder.ask(self.applied as u64);
            // The answer names the question; when that was asked, only this process knows.
            let number = self.rng.next();
            self.asked.insert(number, now);
            effects.send.push((leader.leader, Message::Ask { number, ask }));
        }
    }

    /// What the leader does besides heartbeats.
    fn lead(&mut self, now: Boot, effects: &mut Effects) {
        let (true, Some(tenure)) = (self.ready, &mut self.tenure) else { return };
        for command in tenure.plan(&self.cluster, now) {
            let out = self.raft.propose(Payload::Command(command));
            effects.send.extend(out);
        }
        let nudge = tenure.to_nudge(&self.cluster, now);
        effects.send.extend(nudge.into_iter().map(|node| (node, Message::Nudge)));
        let (voters, index) = self.raft.voters();
        if index <= self.raft.commit {
            if voters == Voters::new([voters.all()]) {
                tenure.ledger().set_voters(voters);
            } else if let Some(last) = newest(&voters) {
                let out = self.raft.propose(Payload::Voters(Voters::new([last])));
                effects.send.extend(out);
            }
        }
        self.apply(now, effects);
    }

    fn join(&mut self, from: NodeId, name: &str, effects: &mut Effects) {
        let (true, Some(tenure)) = (self.ready, &mut self.tenure) else { return };
        self.raft.add_learner(from);
        let (voters, index) = self.raft.voters();
        let old: BTreeSet<_> = voters.all();
        let settled = index <= self.raft.commit && voters == Voters::new([old.clone()]);
        if !settled || old.contains(&from) || self.raft.matched(from) < self.raft.commit {
            return;
        }
        let replaced = self.cluster.named(name).map(|(node, _)| node);
        let new: BTreeSet<_> =
            old.iter().copied().filter(|it| Some(*it) != replaced).chain([from]).collect();
        let joint = Voters::new([old, new]);
        tenure.ledger().set_voters(joint.clone());
        let host = kube_vip_quorum::cluster::Host {
            name: name.to_owned(),
            weight: 1,
            ..Default::default()
        };
        let out = self.raft.propose(Payload::Command(Command::Host { node: from, host }));
        effects.send.extend(out);
        let out = self.raft.propose(Payload::Voters(joint));
        effects.send.extend(out);
    }

    fn stop(&mut self, now: Boot, effects: &mut Effects) {
        let Some(latest) = self.leaving else { return };
        let empty = self.holder.holding(now).next().is_none();
        if !empty && now < latest {
            return;
        }
        self.left = true;
        if let Some(tenure) = &mut self.tenure {
            tenure.close();
            let others = self.raft.voters().0.all().into_iter().filter(|it| *it != self.raft.id);
            let best = others.max_by_key(|node| self.raft.matched(*node));
            let id = tenure.id();
            effects.send.extend(best.map(|node| (node, Message::Successor { tenure: id })));
        }
    }

    fn apply(&mut self, now: Boot, effects: &mut Effects) {
        let before: Vec<_> = self.cluster.of(self.raft.id).collect();
        while self.applied < self.raft.commit {
            let entry = &self.raft.disk.log[self.applied];
            self.applied += 1;
            let own = self.tenure.as_mut().filter(|tenure| tenure.id() == entry.tenure);
            self.ready |= own.is_some();
            if let Payload::Command(command) = &entry.payload
                && self.cluster.apply(command).is_err()
                && let Some(tenure) = own
            {
                tenure.refused(command);
            }
        }
        if self.cluster.of(self.raft.id).collect::<Vec<_>>() != before {
            effects.write.extend(self.holder.applied(&self.cluster));
            self.ask(now, effects);
        }
    }

    pub(crate) fn receive(&mut self, from: NodeId, message: Message, now: Boot) -> Effects {
        let mut effects = Effects::default();
        let mut reply = |message| effects.send.push((from, message));
        match message {
            Message::Canvass { round, last } => {
                let yes =
                    !self.raft.leads() && last >= self.raft.last() && self.may_vote(None, now);
                if yes {
                    self.election.encouraged(self.rng.next(), now);
                }
                reply(Message::Canvassed { round, yes });
            }
            Message::Canvassed { round, yes } => {
                if yes && self.election.willing(from, round, &self.raft.voters().0) {
                    self.stand(None, now, &mut effects);
                }
            }
            Message::Vote { vote, last, claim } => {
                let granted = self.may_vote(claim, now) && self.raft.vote(vote, last);
                if granted {
                    self.election.voted(self.rng.next(), now);
                }
                reply(Message::Voted { vote, granted, theirs: self.raft.disk.vote });
            }
            Message::Voted { vote, granted, theirs } => {
                effects.send.extend(self.raft.voted(from, vote, granted, theirs));
            }
            Message::Append { tenure, prev, entries, commit } => {
                let answer = self.raft.appended(tenure, prev, &entries, commit);
                reply(answer);
            }
            Message::Appended { tenure, theirs, matched, hint } => {
                effects.send.extend(self.raft.replicated(from, tenure, theirs, matched, hint));
            }
            Message::Heartbeat { tenure, sent } => {
                if self.voter.heartbeat(tenure, self.raft.follows(), now) {
                    reply(Message::Acknowledged { tenure, sent });
                }
            }
            Message::Acknowledged { tenure, sent } => {
                if let Some(own) = self.tenure.as_mut().filter(|own| own.id() == tenure) {
                    own.ledger().acknowledged(from, sent);
                }
            }
            Message::Ask { number, ask } => {
                if let (true, Some(tenure)) = (self.ready, &mut self.tenure) {
                    let answer = tenure.answer(&ask, &self.cluster, now);
                    reply(Message::Answered { number, answer });
                }
            }
            Message::Answered { number, answer } => {
                let Some(asked) = self.asked.remove(&number) else { return effects };
                let asked =
                    if self.mutation == Some(Mutation::CountsFromTheAnswer) { now } else { asked };
                effects.write.extend(self.holder.answered(asked, &answer, &self.cluster, now));
            }
            Message::Nudge => self.ask(now, &mut effects),
            Message::Successor { tenure } => self.stand(Some(tenure), now, &mut effects),
            Message::Join { name } => self.join(from, &name, &mut effects),
        }
        self.elected(now);
        self.apply(now, &mut effects);
        self.lead(now, &mut effects);
        effects
    }
}

/// The set that a change of voters leads to.
fn newest(voters: &Voters) -> Option<BTreeSet<NodeId>> {
    voters.sets().last().cloned()
}

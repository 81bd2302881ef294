//! A small consensus log: votes ordered as openraft orders them, elections, replication, joint
//! voters. No time and no I/O; what comes back of a call has to be sent.

use std::collections::{BTreeMap, BTreeSet};

use kube_vip_quorum::cluster::{Command, NodeId, TenureId};
use kube_vip_quorum::grant::Voters;

use crate::host::Message;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Payload {
    Blank,
    Command(Command),
    Voters(Voters),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) tenure: TenureId,
    pub(crate) payload: Payload,
}

/// What survives the process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) vote: TenureId,
    pub(crate) elected: bool,
    /// Entry 1 is at place 0.
    pub(crate) log: Vec<Entry>,
}

/// Tenure and index of a log's last entry; the greater one has more of what is committed.
pub(crate) type Last = (TenureId, usize);

#[derive(Debug)]
enum Role {
    Follower,
    Candidate(BTreeSet<NodeId>),
    Leader(BTreeMap<NodeId, Progress>),
}

#[derive(Clone, Copy, Debug)]
struct Progress {
    next: usize,
    matched: usize,
}

#[derive(Debug)]
pub(crate) struct Raft {
    pub(crate) id: NodeId,
    pub(crate) disk: Disk,
    pub(crate) commit: usize,
    role: Role,
}

type Out = Vec<(NodeId, Message)>;

impl Raft {
    /// After a start. One that led before the stop has to be elected anew.
    pub(crate) fn new(id: NodeId, mut disk: Disk) -> Self {
        if disk.vote.leader == id {
            disk.elected = false;
        }
        Self { id, disk, commit: 0, role: Role::Follower }
    }

    pub(crate) fn last(&self) -> Last {
        (self.disk.log.last().map_or(TenureId::default(), |it| it.tenure), self.disk.log.len())
    }

    pub(crate) fn leads(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// The leader that the vote on disk names.
    pub(crate) fn follows(&self) -> Option<TenureId> {
        self.disk.elected.then_some(self.disk.vote)
    }

    /// The newest set of voters in the log, and its index.
    pub(crate) fn voters(&self) -> (Voters, usize) {
        let found = self.disk.log.iter().enumerate().rev().find_map(|(at, entry)| {
            let Payload::Voters(voters) = &entry.payload else { return None };
            Some((voters.clone(), at + 1))
        });
        found.unwrap_or_default()
    }

    pub(crate) fn stand(&mut self, claim: Option<TenureId>) -> Out {
        self.disk.vote = TenureId { term: self.disk.vote.term + 1, leader: self.id };
        self.disk.elected = false;
        self.role = Role::Candidate(BTreeSet::from([self.id]));
        let (vote, last) = (self.disk.vote, self.last());
        let others = self.voters().0.all();
        let mut out: Out = others
            .into_iter()
            .filter(|node| *node != self.id)
            .map(|node| (node, Message::Vote { vote, last, claim }))
            .collect();
        out.extend(self.count());
        out
    }

    /// Whether the candidate gets this vote.
    pub(crate) fn vote(&mut self, vote: TenureId, last: Last) -> bool {
        if last < self.last()
            || vote < self.disk.vote
            || (vote == self.disk.vote && self.disk.elected)
        {
            return false;
        }
        self.yield_to(vote);
        true
    }

    pub(crate) fn voted(
        &mut self,
        from: NodeId,
        vote: TenureId,
        granted: bool,
        theirs: TenureId,
    ) -> Out {
        if theirs > self.disk.vote {
            self.yield_to(theirs);
        }
        match &mut self.role {
            Role::Candidate(votes) if granted && vote == self.disk.vote => {
                votes.insert(from);
                self.count()
            }
            _ => Vec::new(),
        }
    }

    fn count(&mut self) -> Out {
        let Role::Candidate(votes) = &self.role else { return Vec::new() };
        if !self.voters().0.agree(|node| votes.contains(&node)) {
            return Vec::new();
        }
        self.disk.elected = true;
        self.role = Role::Leader(BTreeMap::new());
        self.propose(Payload::Blank)
    }

    fn yield_to(&mut self, vote: TenureId) {
        if vote > self.disk.vote {
            self.disk.vote = vote;
            self.disk.elected = false;
            self.role = Role::Follower;
        }
    }

    /// Appends an entry of the leader and sends it to everybody.
    pub(crate) fn propose(&mut self, payload: Payload) -> Out {
        assert!(self.leads(), "only a leader proposes");
        self.disk.log.push(Entry { tenure: self.disk.vote, payload });
        self.advance();
        self.replicate()
    }

    /// The leader replicates to that host, voter or not.
    pub(crate) fn add_learner(&mut self, node: NodeId) {
        let next = self.disk.log.len() + 1;
        if let Role::Leader(progress) = &mut self.role {
            progress.entry(node).or_insert(Progress { next, matched: 0 });
        }
    }

    pub(crate) fn matched(&self, node: NodeId) -> usize {
        let Role::Leader(progress) = &self.role else { return 0 };
        progress.get(&node).map_or(0, |it| it.matched)
    }

    /// What every other host still lacks, or a sign of life.
    pub(crate) fn replicate(&mut self) -> Out {
        for node in self.voters().0.all() {
            if node != self.id {
                self.add_learner(node);
            }
        }
        let Role::Leader(progress) = &self.role else { return Vec::new() };
        progress.iter().map(|(node, it)| (*node, self.append(it.next))).collect()
    }

    fn append(&self, next: usize) -> Message {
        let prev = next - 1;
        let tenure = prev.checked_sub(1).map_or(TenureId::default(), |at| self.disk.log[at].tenure);
        Message::Append {
            tenure: self.disk.vote,
            prev: (tenure, prev),
            entries: self.disk.log[prev..].iter().take(50).cloned().collect(),
            commit: self.commit,
        }
    }

    /// A leader's entries have come; what is answered.
    pub(crate) fn appended(
        &mut self,
        tenure: TenureId,
        prev: Last,
        entries: &[Entry],
        commit: usize,
    ) -> Message {
        let refuse = |raft: &Self, hint| Message::Appended {
            tenure,
            theirs: raft.disk.vote,
            matched: None,
            hint,
        };
        if tenure < self.disk.vote {
            return refuse(self, 0);
        }
        self.yield_to(tenure);
        self.disk.elected = true;
        if !matches!(self.role, Role::Follower) {
            self.role = Role::Follower;
        }
        let known = prev.1 == 0
            || self.disk.log.get(prev.1 - 1).is_some_and(|entry| entry.tenure == prev.0);
        if !known {
            return refuse(self, prev.1.min(self.disk.log.len() + 1).max(1));
        }
        for (at, entry) in (prev.1..).zip(entries) {
            if self.disk.log.get(at).is_some_and(|old| old.tenure != entry.tenure) {
                assert!(at >= self.commit, "a committed entry is replaced");
                self.disk.log.truncate(at);
            }
            if at == self.disk.log.len() {
                self.disk.log.push(entry.clone());
            }
        }
        let matched = prev.1 + entries.len();
        self.commit = self.commit.max(commit.min(matched));
        Message::Appended { tenure, theirs: self.disk.vote, matched: Some(matched), hint: 0 }
    }

    /// A host has answered; what to send it next.
    pub(crate) fn replicated(
        &mut self,
        from: NodeId,
        tenure: TenureId,
        theirs: TenureId,
        matched: Option<usize>,
        hint: usize,
    ) -> Out {
        if theirs > self.disk.vote {
            self.yield_to(theirs);
        }
        if tenure != self.disk.vote {
            return Vec::new();
        }
        let length = self.disk.log.len();
        let Role::Leader(progress) = &mut self.role else { return Vec::new() };
        let Some(it) = progress.get_mut(&from) else { return Vec::new() };
        match matched {
            Some(matched) => {
                it.matched = it.matched.max(matched);
                it.next = it.matched + 1;
            }
            None if hint == 0 => return Vec::new(),
            None => it.next = hint.max(it.matched + 1).min(it.next.saturating_sub(1).max(1)),
        }
        let next = it.next;
        let before = self.commit;
        self.advance();
        if self.commit > before {
            return self.replicate();
        }
        if next <= length { vec![(from, self.append(next))] } else { Vec::new() }
    }

    /// What a majority has is committed, if it is of this tenure.
    fn advance(&mut self) {
        let Role::Leader(progress) = &self.role else { return };
        let length = self.disk.log.len();
        let reached = self.voters().0.agreed(|node| {
            if node == self.id { Some(length) } else { progress.get(&node).map(|it| it.matched) }
        });
        let reached = reached.unwrap_or(0);
        if reached > self.commit && self.disk.log[reached - 1].tenure == self.disk.vote {
            self.commit = reached;
        }
    }
}

//! What peers ask, and what this host answers.

use std::net::IpAddr;
use std::sync::Arc;

use openraft::raft::{VoteRequest, VoteResponse};
use openraft::storage::RaftLogStorage as _;

use super::wire::{Request, Response};
use super::{Inner, random};
use crate::cluster::{NodeId, TenureId};
use crate::grant::{Answer, Ask};
use crate::raft::LogId;
use crate::transport::{Answering, Handler, Hello};

impl Handler for Inner {
    fn hello(&self) -> Hello {
        self.links.hello()
    }

    fn knows(&self, address: IpAddr) -> bool {
        let configured = self.settings.peers.iter().flat_map(|peer| &peer.addresses);
        let applied = self.applied.borrow();
        let agreed = applied.cluster.hosts.values().flat_map(|host| &host.addresses);
        configured.chain(agreed).any(|known| known.ip() == address)
    }

    fn handle(self: Arc<Self>, peer: Arc<Hello>, request: Vec<u8>) -> Answering {
        Box::pin(async move {
            let request = match serde_json::from_slice(&request) {
                Ok(request) => request,
                Err(error) => {
                    tracing::warn!(peer = peer.name, %error, "a question that is not understood");
                    return None;
                }
            };
            let response = self.respond(&peer, request).await?;
            serde_json::to_vec(&response).ok()
        })
    }

    fn aside(self: Arc<Self>, peer: Arc<Hello>, body: Vec<u8>) -> Answering {
        let answer = self.hand_over(&peer, body);
        Box::pin(async move {
            match answer {
                Some(answer) => answer.await,
                None => None,
            }
        })
    }
}

impl Inner {
    async fn respond(self: &Arc<Self>, peer: &Hello, request: Request) -> Option<Response> {
        // A host that belongs to no cluster takes nothing from one before it has asked to join.
        let outside = self.store.cluster().is_none();
        Some(match request {
            Request::Join { node, host } => Response::Joined(self.join(node, host).await),
            Request::Canvass { last } => Response::Canvassed(self.would_vote(last).await),
            _ if outside => return None,
            Request::Append(request) => Response::Append(self.raft.append_entries(request).await),
            Request::Snapshot(request) => {
                Response::Snapshot(self.raft.install_snapshot(request).await)
            }
            Request::Vote { request, claim } => Response::Vote(self.vote(request, claim).await),
            Request::Heartbeat { tenure } => Response::Acknowledged(self.acknowledge(tenure).await),
            Request::Ask(ask) if ask.node == peer.node => Response::Answer(self.answer(&ask)?),
            Request::Ask(_) => return None,
            Request::Nudge => {
                self.ask.notify_one();
                Response::Done
            }
            Request::Successor { tenure } => {
                if self.store.follows() == Some(tenure) {
                    self.stand(Some(tenure)).await;
                }
                Response::Done
            }
            Request::Order(order) => Response::Ordered(self.carry_out(&order).await),
        })
    }

    /// Acknowledges a leader's heartbeat, if this host follows it.
    pub(super) async fn acknowledge(&self, tenure: TenureId) -> bool {
        let mut voter = self.voter.lock().await;
        voter.heartbeat(tenure, self.store.follows(), self.clock.now())
    }

    /// Gives this host's vote, or withholds it. The voter stays locked until the vote is on disk:
    /// in between no heartbeat is acknowledged.
    async fn vote(
        &self,
        request: VoteRequest<NodeId>,
        claim: Option<TenureId>,
    ) -> Result<VoteResponse<NodeId>, openraft::error::RaftError<NodeId>> {
        let voter = self.voter.lock().await;
        let may = voter.may_vote(claim, self.store.follows(), self.clock.now());
        if let Err(withheld) = may {
            tracing::debug!(candidate = %request.vote, "{withheld}");
            let vote = self.store.log().vote().unwrap_or_default();
            return Ok(VoteResponse::new(vote, None, false));
        }
        let response = self.raft.vote(request).await?;
        drop(voter);
        if response.vote_granted {
            self.election().voted(random(), self.clock.now());
        }
        Ok(response)
    }

    /// Whether this host would vote for one with such a log.
    async fn would_vote(&self, last: Option<LogId>) -> bool {
        let now = self.clock.now();
        let may = self.voter.lock().await.may_vote(None, self.store.follows(), now).is_ok();
        let would = may && self.lead().is_none() && last >= self.last_log_id().await;
        if would {
            self.election().encouraged(random(), now);
        }
        would
    }

    /// Stands for leader, if this host's own vote is free.
    pub(super) async fn stand(&self, claim: Option<TenureId>) {
        let mut voter = self.voter.lock().await;
        let follows = self.store.follows();
        let now = self.clock.now();
        let may = voter.may_vote(claim, follows, now).is_ok();
        if !may || self.lead().is_some() || !self.is_voter() {
            return;
        }
        voter.stands(follows);
        self.links.set_claim(claim);
        if claim.is_some() {
            *self.named.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(now);
        }
        if let Err(error) = self.raft.trigger().elect().await {
            tracing::warn!(%error, "cannot stand for leader");
        }
    }

    /// Answers a host as the leader; nothing where this host does not lead, or does not know yet
    /// what is committed.
    pub(super) fn answer(self: &Arc<Self>, ask: &Ask) -> Option<Answer> {
        let applied = self.applied.borrow().clone();
        let answer = {
            let mut lead = self.lead();
            let tenure = lead.as_mut().filter(|tenure| applied.tenure == Some(tenure.id()))?;
            tenure.answer(ask, &applied.cluster, self.clock.now())
        };
        if ask.applied < applied.index {
            self.spread();
        }
        self.plan();
        Some(answer)
    }

    pub(super) fn is_voter(&self) -> bool {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        let node = self.store.node();
        metrics.membership_config.membership().voter_ids().any(|id| id == node)
    }

    pub(super) async fn last_log_id(&self) -> Option<LogId> {
        self.store.log().get_log_state().await.ok()?.last_log_id
    }
}

//! The ways to the other hosts, and openraft's use of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::AnyError;
use openraft::error::{
    InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};

use super::Settings;
use super::wire::{Request, Response};
use crate::cluster::{NodeId, TenureId};
use crate::raft::{Member, Types};
use crate::store::Store;
use crate::transport::{CallError, Client, Hello, Lane, Protection, VERSIONS};

/// How long openraft waits before it tries a peer again that cannot be reached.
const PAUSE: Duration = Duration::from_millis(50);

/// Each host's addresses, and the way there.
type Clients = BTreeMap<NodeId, (Vec<SocketAddr>, Arc<Client>)>;

/// The ways to the other hosts.
pub(super) struct Links {
    protection: Protection,
    store: Store,
    name: String,
    lease: Duration,
    clients: Mutex<Clients>,
    /// The leader that has named this host its successor.
    claim: Mutex<Option<TenureId>>,
    number: AtomicU64,
}

impl Links {
    pub(super) fn new(settings: &Settings, store: Store) -> Self {
        Self {
            protection: settings.protection.clone(),
            store,
            name: settings.name.clone(),
            lease: settings.timing.lease,
            clients: Mutex::default(),
            claim: Mutex::default(),
            number: AtomicU64::new(0),
        }
    }

    /// What this host says of itself.
    pub(super) fn hello(&self) -> Hello {
        self.greeter()()
    }

    /// A host that is known by its address alone.
    pub(super) fn stranger(&self, addresses: &[SocketAddr]) -> Client {
        Client::new(addresses, None, &self.protection, self.greeter())
    }

    /// Says what is true at the time it is called.
    fn greeter(&self) -> impl Fn() -> Hello + Clone + Send + Sync + 'static {
        let (store, name) = (self.store.clone(), self.name.clone());
        let lease = u64::try_from(self.lease.as_nanos()).unwrap_or(u64::MAX);
        move || Hello {
            versions: VERSIONS,
            cluster: store.cluster(),
            node: store.node(),
            name: name.clone(),
            lease,
        }
    }

    /// A host whose number and addresses are known.
    pub(super) fn peer(&self, node: NodeId) -> Option<Arc<Client>> {
        self.clients().get(&node).map(|(_, client)| Arc::clone(client))
    }

    /// Notes where a host is.
    pub(super) fn note(&self, node: NodeId, addresses: &[SocketAddr]) {
        let mut clients = self.clients();
        if clients.get(&node).is_some_and(|(known, _)| known == addresses) || addresses.is_empty() {
            return;
        }
        let addresses = addresses.to_vec();
        let client = Client::new(&addresses, Some(node), &self.protection, self.greeter());
        clients.insert(node, (addresses, Arc::new(client)));
    }

    /// Forgets all hosts but these.
    pub(super) fn keep(&self, is_kept: impl Fn(NodeId) -> bool) {
        self.clients().retain(|node, _| is_kept(*node));
    }

    pub(super) fn set_claim(&self, claim: Option<TenureId>) {
        *self.claim.lock().unwrap_or_else(PoisonError::into_inner) = claim;
    }

    /// The lane for the next urgent request.
    pub(super) fn urgent(&self) -> Lane {
        Lane::Urgent(self.number.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) async fn call(
        &self,
        client: &Client,
        lane: Lane,
        request: &Request,
        within: Duration,
    ) -> Result<Response, CallError> {
        let body = serde_json::to_vec(request).map_err(|_| CallError::Broken)?;
        let answer = client.call(lane, body, within).await?;
        serde_json::from_slice(&answer).map_err(|error| {
            tracing::warn!(%error, "an answer that this version does not understand");
            CallError::Broken
        })
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// openraft's network.
#[derive(Clone)]
pub(super) struct Network(pub(super) Arc<Links>);

/// openraft's way to one host.
pub(super) struct Way {
    links: Arc<Links>,
    node: NodeId,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Way;

    async fn new_client(&mut self, node: NodeId, member: &Member) -> Way {
        // Addresses that the log tells later are better than those that the host joined with.
        if self.0.peer(node).is_none() {
            self.0.note(node, &member.addresses);
        }
        Way { links: Arc::clone(&self.0), node }
    }
}

type Failure<E> = RPCError<NodeId, Member, E>;

impl Way {
    async fn call<E: std::error::Error>(
        &self,
        lane: Lane,
        request: &Request,
        option: &RPCOption,
    ) -> Result<Response, Failure<E>> {
        let Some(client) = self.links.peer(self.node) else {
            let error = AnyError::error("its address is not known");
            return Err(RPCError::Unreachable(Unreachable::from(error)));
        };
        self.links.call(&client, lane, request, option.hard_ttl()).await.map_err(
            |error| match error {
                CallError::Unreachable { .. } => RPCError::Unreachable(Unreachable::new(&error)),
                _ => RPCError::Network(NetworkError::new(&error)),
            },
        )
    }

    #[expect(clippy::result_large_err, reason = "openraft's own error")]
    fn result<T, E: std::error::Error>(&self, result: Result<T, E>) -> Result<T, Failure<E>> {
        result.map_err(|error| RPCError::RemoteError(RemoteError::new(self.node, error)))
    }
}

fn unexpected<E: std::error::Error>() -> Failure<E> {
    RPCError::Network(NetworkError::from(AnyError::error("it answers something else")))
}

impl RaftNetwork<Types> for Way {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, Failure<RaftError<NodeId>>> {
        match self.call(Lane::Bulk, &Request::Append(request), &option).await? {
            Response::Append(result) => self.result(result),
            _ => Err(unexpected()),
        }
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<Types>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<NodeId>, Failure<RaftError<NodeId, InstallSnapshotError>>>
    {
        match self.call(Lane::Bulk, &Request::Snapshot(request), &option).await? {
            Response::Snapshot(result) => self.result(result),
            _ => Err(unexpected()),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<NodeId>,
        option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, Failure<RaftError<NodeId>>> {
        let claim = *self.links.claim.lock().unwrap_or_else(PoisonError::into_inner);
        // The claim is for the one election that follows that leader's term.
        let claim = claim.filter(|claim| request.vote.leader_id().term == claim.term + 1);
        let request = Request::Vote { request, claim };
        match self.call(self.links.urgent(), &request, &option).await? {
            Response::Vote(result) => self.result(result),
            _ => Err(unexpected()),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(PAUSE))
    }
}

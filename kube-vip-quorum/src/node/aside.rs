//! What the hosts say to each other besides: messages of whoever runs a host, which this crate only
//! carries. They have connections of their own, and are as encrypted and authenticated as the rest.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::links::Links;
use super::{Inner, Node};
use crate::cluster::NodeId;
use crate::raft::Applied;
use crate::transport::{Answering, CallError, Hello, Lane};

/// Takes what other hosts say.
pub trait Receiver: Send + Sync + 'static {
    /// The answer to a message from the host of that name; nothing where it is better left to run
    /// into its timeout.
    fn receive(&self, from: &str, body: Vec<u8>) -> Answering;
}

/// Carries messages to the other hosts.
#[derive(Clone)]
pub struct Post {
    links: Arc<Links>,
    applied: watch::Receiver<Applied>,
    node: NodeId,
}

impl Post {
    /// The other hosts, by number: those of one name are the same host, with another state directory.
    pub fn hosts(&self) -> BTreeMap<NodeId, String> {
        let applied = self.applied.borrow();
        let others = applied.cluster.hosts.iter().filter(|(node, _)| **node != self.node);
        others.map(|(node, host)| (*node, host.name.clone())).collect()
    }

    /// Sends a message of at most [`MAX_ASIDE`](crate::transport::MAX_ASIDE) bytes and waits for its
    /// answer.
    ///
    /// # Errors
    ///
    /// There was none. The host may have acted on the message all the same.
    pub async fn send(
        &self,
        to: NodeId,
        body: Vec<u8>,
        within: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let client = self.links.peer(to).ok_or(CallError::Broken)?;
        client.call(Lane::Aside, body, within).await
    }
}

impl Node {
    /// The way to the other hosts for messages that are not this crate's.
    pub fn post(&self) -> Post {
        Post {
            links: Arc::clone(&self.inner.links),
            applied: self.applied(),
            node: self.inner.store.node(),
        }
    }

    /// Who takes such messages; before, nobody does.
    pub fn set_receiver(&self, receiver: Arc<dyn Receiver>) {
        let mut place = self.inner.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Some(receiver);
    }
}

impl Inner {
    /// Hands a message over, if it is from one of the cluster's hosts.
    pub(super) fn hand_over(&self, peer: &Hello, body: Vec<u8>) -> Option<Answering> {
        let applied = self.applied.borrow();
        let host = applied.cluster.hosts.get(&peer.node)?;
        let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        (host.name == peer.name).then(|| receiver.receive(&peer.name, body))
    }
}

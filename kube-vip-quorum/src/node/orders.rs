//! What is asked of the leader on behalf of a user or a host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use openraft::error::{ClientWriteError, RaftError};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::Inner;
use super::wire::{Request, Response};
use crate::cluster::{Command, Host, NodeId, Refused, Vip};
use crate::transport::Lane;

/// What a leader can be asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Order {
    /// Move a VIP to the host of that name.
    Move {
        /// The VIP.
        vip: IpAddr,
        /// The host's name.
        host: String,
    },
    /// Take all VIPs from the host of that name, or let it hold some again.
    Drain {
        /// The host's name.
        host: String,
        /// Whether it is to hold none.
        drained: bool,
    },
    /// Let a host of that name join.
    Admit {
        /// The host's name.
        host: String,
    },
    /// Remove the host of that name, for good.
    Remove {
        /// The host's name.
        host: String,
    },
    /// All hosts are to leave a backend out, or take it in again.
    Ready {
        /// Its address and port.
        backend: SocketAddr,
        /// Whether it takes connections.
        ready: bool,
    },
    /// The list of VIPs has changed.
    Vips(BTreeMap<IpAddr, Vip>),
    /// A host is described anew.
    Describe {
        /// Its number.
        node: NodeId,
        /// Its description; whether it is drained does not count.
        host: Host,
    },
}

/// Why an order was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OrderError {
    /// Nobody leads, or nobody who leads can be reached.
    #[error("no leader can be reached: {0}")]
    NoLeader(String),
    /// The leader refused.
    #[error("{0}")]
    Refused(String),
    /// It may have been carried out or not.
    #[error("not confirmed: {0}; look again before you repeat it")]
    Unconfirmed(String),
}

/// How long an order may take, elections included.
const PATIENCE: Duration = Duration::from_secs(5);

impl Inner {
    /// Has the leader carry out an order, wherever it is.
    pub(super) async fn order(&self, order: Order) -> Result<(), OrderError> {
        let deadline = Instant::now() + PATIENCE;
        let mut why = "there is none".to_owned();
        while Instant::now() < deadline {
            match self.store.follows() {
                Some(leader) if leader.leader == self.store.node() => {
                    match self.carry_out(&order).await {
                        Err(OrderError::NoLeader(reason)) => why = reason,
                        result => return result,
                    }
                }
                Some(leader) => match self.order_from(leader.leader, &order).await {
                    Err(OrderError::NoLeader(reason)) => why = reason,
                    result => return result,
                },
                None => {}
            }
            sleep(self.settings.timing.heartbeat).await;
        }
        Err(OrderError::NoLeader(why))
    }

    async fn order_from(&self, leader: NodeId, order: &Order) -> Result<(), OrderError> {
        let Some(client) = self.links.peer(leader) else {
            return Err(OrderError::NoLeader("its address is not known".to_owned()));
        };
        match self.links.call(&client, Lane::Bulk, &Request::Order(order.clone()), PATIENCE).await {
            Ok(Response::Ordered(result)) => result,
            Ok(_) => Err(OrderError::NoLeader("it answers something else".to_owned())),
            Err(error @ crate::transport::CallError::Unreachable { .. }) => {
                Err(OrderError::NoLeader(error.to_string()))
            }
            Err(error) => Err(OrderError::Unconfirmed(error.to_string())),
        }
    }

    /// Carries out an order as the leader.
    pub(super) async fn carry_out(&self, order: &Order) -> Result<(), OrderError> {
        let applied = self.applied.borrow().clone();
        let cluster = &applied.cluster;
        let named = |name: &String| {
            cluster.named(name).map(|(node, host)| (node, host.clone())).ok_or_else(|| {
                let names = cluster.hosts.values().map(|it| it.name.as_str());
                let names: Vec<_> = names.collect::<BTreeSet<_>>().into_iter().collect();
                let names = names.join(", ");
                OrderError::Refused(format!("no host is called {name:?}; there are {names}"))
            })
        };
        match order {
            Order::Move { vip, host } => {
                let now = self.clock.now();
                let mut lead = self.lead();
                let tenure = lead.as_mut().filter(|tenure| applied.tenure == Some(tenure.id()));
                let tenure = tenure.ok_or_else(not_leading)?;
                let moved = tenure.move_to(*vip, host, cluster, now);
                drop(lead);
                self.wake.notify_one();
                moved.map_err(|error| OrderError::Refused(error.to_string()))
            }
            Order::Drain { host, drained } => {
                let (node, _) = named(host)?;
                self.write(Command::Drain { node, drained: *drained }).await
            }
            Order::Admit { host } => {
                self.write(Command::Admit { name: host.clone(), admitted: true }).await
            }
            Order::Remove { host } => {
                let (node, _) = named(host)?;
                self.write(Command::Admit { name: host.clone(), admitted: false }).await?;
                self.remove(node).await?;
                self.write(Command::Forget { node }).await
            }
            Order::Ready { backend, ready } => {
                self.write(Command::Ready { backend: *backend, ready: *ready }).await
            }
            Order::Vips(vips) => self.write(Command::Vips(vips.clone())).await,
            Order::Describe { node, host } => {
                let Some(known) = cluster.hosts.get(node) else {
                    return Err(OrderError::Refused("it takes no part".to_owned()));
                };
                let host = Host { drained: known.drained, ..host.clone() };
                self.write(Command::Host { node: *node, host }).await
            }
        }
    }

    /// Puts a command into the log.
    pub(super) async fn write(&self, command: Command) -> Result<(), OrderError> {
        match self.raft.client_write(command).await {
            Ok(written) => {
                written.data.map_err(|why: Refused| OrderError::Refused(why.to_string()))
            }
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(not_leading()),
            Err(error) => Err(OrderError::Unconfirmed(error.to_string())),
        }
    }
}

pub(super) fn not_leading() -> OrderError {
    OrderError::NoLeader("this host does not lead".to_owned())
}

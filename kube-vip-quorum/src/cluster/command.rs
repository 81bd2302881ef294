//! What the log's entries say, and what each changes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Assignment, Cluster, Host, NodeId, Vip};

/// One change of what the hosts have agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Command {
    /// A host takes part, or is described anew. Another number with the same name replaces it.
    Host {
        /// Its number.
        node: NodeId,
        /// What it is.
        host: Host,
    },
    /// A host takes part no more.
    Forget {
        /// Its number.
        node: NodeId,
    },
    /// A host of that name may join, or may not, whatever configurations say.
    Admit {
        /// Its id in the configuration.
        name: String,
        /// Whether it may.
        admitted: bool,
    },
    /// The list of VIPs.
    Vips(BTreeMap<IpAddr, Vip>),
    /// A VIP is to be held by another host.
    Assign {
        /// Which.
        vip: IpAddr,
        /// The epoch of the assignment that this one follows; 0 where there is none.
        after: u64,
        /// The host.
        to: NodeId,
    },
    /// A host is to hold no VIP, or may hold some again.
    Drain {
        /// Its number.
        node: NodeId,
        /// Whether it is to hold none.
        drained: bool,
    },
    /// A backend is to be left out by all hosts, or no longer.
    Ready {
        /// Its address and port.
        backend: SocketAddr,
        /// Whether it takes connections.
        ready: bool,
    },
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Refused {
    /// It names a host that takes no part.
    #[error("host {node:x} takes no part; `kube-vip peers list` shows those that do")]
    NoSuchHost {
        /// The number it named.
        node: NodeId,
    },
    /// It names an address that is none of the VIPs.
    #[error("{vip} is not in the cluster's list of VIPs")]
    NoSuchVip {
        /// The address it named.
        vip: IpAddr,
    },
    /// Another assignment came first.
    #[error("{vip} was assigned in the meantime (epoch {epoch})")]
    Overtaken {
        /// The VIP.
        vip: IpAddr,
        /// The epoch it has now.
        epoch: u64,
    },
}

impl Cluster {
    /// Applies a command of the log.
    ///
    /// # Errors
    ///
    /// The command contradicts what came before it in the log; nothing has changed then. All hosts
    /// come to the same verdict.
    pub fn apply(&mut self, command: &Command) -> Result<(), Refused> {
        match command {
            Command::Host { node, host } => {
                self.hosts.retain(|other, old| other == node || old.name != host.name);
                self.hosts.insert(*node, host.clone());
            }
            Command::Forget { node } => {
                self.known(*node)?;
                self.hosts.remove(node);
            }
            Command::Admit { name, admitted } => {
                self.admission.insert(name.clone(), *admitted);
            }
            Command::Vips(vips) => {
                self.assignments.retain(|vip, _| vips.contains_key(vip));
                self.vips.clone_from(vips);
            }
            Command::Assign { vip, after, to } => self.assign(*vip, *after, *to)?,
            Command::Drain { node, drained } => {
                self.known(*node)?;
                if let Some(host) = self.hosts.get_mut(node) {
                    host.drained = *drained;
                }
            }
            Command::Ready { backend, ready: true } => {
                self.unready.remove(backend);
            }
            Command::Ready { backend, ready: false } => {
                self.unready.insert(*backend);
            }
        }
        Ok(())
    }

    fn known(&self, node: NodeId) -> Result<(), Refused> {
        if self.hosts.contains_key(&node) { Ok(()) } else { Err(Refused::NoSuchHost { node }) }
    }

    fn assign(&mut self, vip: IpAddr, after: u64, to: NodeId) -> Result<(), Refused> {
        if !self.vips.contains_key(&vip) {
            return Err(Refused::NoSuchVip { vip });
        }
        self.known(to)?;
        let epoch = self.assignments.get(&vip).map_or(0, |assignment| assignment.epoch);
        if epoch != after {
            return Err(Refused::Overtaken { vip, epoch });
        }
        self.epoch += 1;
        self.assignments.insert(vip, Assignment { node: to, epoch: self.epoch });
        Ok(())
    }
}

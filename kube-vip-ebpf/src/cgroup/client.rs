//! Whose socket it is: whether it is led at all, and what stands for the client's address.

use kube_vip_common::hash::FlowHash;
use kube_vip_common::node::THIS_NODE;
use kube_vip_common::settings::ALL_CLIENTS;

use super::socket::{Call, Name, initial_namespace};
use crate::family::{self, Family};
use crate::maps::{NODES, SETTINGS};

/// Whose a socket is.
#[derive(Clone, Copy)]
pub(super) enum Client {
    /// A process in the host's own network.
    Host,
    /// A process in another network namespace, by its number.
    Namespace(u64),
}

impl Client {
    /// Whose the socket is, where it is one that is led.
    #[inline(always)]
    pub(super) fn of(call: &Call) -> Option<Self> {
        let settings = SETTINGS.get(0)?;
        let host = match settings.namespace {
            0 => initial_namespace(),
            number => number,
        };
        match call.namespace() {
            number if number == host => Some(Self::Host),
            number if settings.flags & ALL_CLIENTS != 0 => Some(Self::Namespace(number)),
            _ => None,
        }
    }

    /// What chooses the backend where all connections of a client go to one. The address a socket
    /// will have is not known before it is routed, so the host's first address in the file stands
    /// for its processes: the one their packets have where no program leads them, and then the
    /// owner chooses the same backend. A Pod's address is as stable as its namespace.
    #[inline(always)]
    pub(super) fn hash(self, seed: u64, vip: Name) -> FlowHash {
        match self {
            Self::Namespace(number) => FlowHash::new(seed).mix(number),
            Self::Host => match NODES.get(THIS_NODE.into()) {
                Some(node) if vip.v4().is_some() => {
                    family::V4::hash_client(seed, family::V4::of_node(node))
                }
                Some(node) => family::V6::hash_client(seed, family::V6::of_node(node)),
                None => FlowHash::new(seed),
            },
        }
    }
}

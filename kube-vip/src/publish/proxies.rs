//! What an agent says of its HTTP proxies.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::status::{BackendState, HealthStatus};

/// An HTTP port that is proxied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Address clients connect to; the unspecified one for all of this host's.
    pub address: IpAddr,
    /// Port clients connect to.
    pub port: u16,
    /// This host listens there; on a VIP only its owner does.
    pub listening: bool,
    /// Clients' connections that are open.
    pub connections: u64,
    /// Requests since this host listens there.
    pub requests: u64,
    /// Those among them that no backend has answered.
    pub failed: u64,
    /// Who serves it.
    pub backends: Vec<ProxyBackendStatus>,
}

/// A server behind a proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProxyBackendStatus {
    /// Its URL in the configuration.
    pub url: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it gets requests.
    pub state: BackendState,
    /// Why it does not.
    pub reason: Option<String>,
    /// What this host's own checks say; none where there are none.
    pub health: Option<HealthStatus>,
    /// Its share relative to the others', as configured.
    pub weight: u16,
    /// Its share of the requests, 0 to 1.
    pub share: f64,
}

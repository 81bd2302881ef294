//! Driver: tells people and programs on this host what is.
//!
//! An instance publishes its [`Status`] on a socket, and locks its name and its VIPs against other
//! instances on the same host.

mod columns;
mod left;
mod lock;
mod proxies;
mod request;
mod socket;
mod status;
mod table;

use std::path::PathBuf;

pub use columns::Style;
pub use left::{left_instances, remove_left};
pub(crate) use lock::holder_of;
pub use lock::{InstanceLock, LockError, VipLocks};
pub use proxies::{ProxyBackendStatus, ProxyStatus};
pub use request::{Answer, Reply, Request};
pub use socket::{AgentSocket, AskError, SocketError, fetch, order};
pub use status::{
    BackendState, BackendStatus, BackendWay, ClientsStatus, ClientsWay, ConfigStatus,
    ConflictStatus, EgressMode, FrontendStatus, HealthStatus, LeaseStatus, PeerStatus, PeerWay,
    QuorumHostStatus, QuorumRole, QuorumStatus, ReplicationHostStatus, ReplicationStatus,
    ReplyDeviceStatus, Status, UplinkStatus, VipStatus, XdpMode,
};
pub use table::render;

/// Names another place for sockets and locks, for hosts without a writable `/run`.
pub const RUN_DIR_VARIABLE: &str = "KUBE_VIP_RUN_DIR";

/// Where sockets and locks of all instances on this host are.
pub fn run_dir() -> PathBuf {
    match std::env::var_os(RUN_DIR_VARIABLE) {
        Some(dir) if !dir.is_empty() => dir.into(),
        _ => "/run/kube-vip".into(),
    }
}

//! The real programs on the real verifier and JIT, with no interface: frame in, verdict and frame
//! out.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aya::programs::{TestRun as _, TestRunOptions};
use kube_vip::config::Limits;
use kube_vip::dataplane::{Fence, LEASE, Mirror, Object, counters};
use kube_vip::plan::{Backend, DataPlane, Frontend, Grant, Node, Vip, Way};
use kube_vip::view::Mac;
use kube_vip_common::frontend::{Affinity, Protocol};
use kube_vip_common::stats::Reason;
use kube_vip_common::table::TableSize;

//! Hosts that elect among themselves.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result};

use crate::agents::Setup;
use crate::build::{Lab, VIPS};
use crate::cluster::{Cluster, web};
use crate::config::Config;
use crate::frame::Mac;
use crate::observer::owner;
use crate::wait::eventually;

/// As `kube-vip secret` prints one.
pub const SECRET: &str = "pTzYHUM0qkGDzZ5uGmXz4n0sK8e5oqXcxLJ1v1dDqnk=";

/// Where each host keeps what it has promised: hosts of the lab have a /run of their own.
pub const STATE_DIR: &str = "/run/kube-vip-state";

/// Has the hosts elect. Announcements come with a change of owner only.
pub fn by_quorum(config: &mut Config) {
    config.extra.push_str(&format!(
        "election: quorum\nsecret: {SECRET}\nquorum: {{stateDir: {STATE_DIR}}}\n\
         announceInterval: 1h\n"
    ));
}

/// Hosts that elect, with a server on each, and the clients c1 and c2; every VIP has an owner.
pub fn electing(nodes: usize) -> Result<Cluster> {
    let lab = Lab::bridge(nodes, 2)?;
    let balancers = web(&lab);
    let setup = Setup { adapt: by_quorum, ..Setup::default() };
    let cluster = Cluster::start_as(lab, &balancers, setup)?;
    for vip in VIPS {
        eventually(4 * crate::PATIENCE, "an owner", || owner(cluster.host("c1"), vip))?;
    }
    Ok(cluster)
}

impl Lab {
    /// The node that has an Ethernet address.
    pub fn node_at(&self, mac: Mac) -> Result<&str> {
        let names: BTreeMap<Mac, &str> =
            self.nodes().map(|node| (node.mac(), node.name())).collect();
        names.get(&mac).copied().with_context(|| format!("{mac} is no node"))
    }

    /// Which node owns a VIP, by its answers.
    pub fn owner_of(&self, vip: IpAddr) -> Result<String> {
        self.node_at(owner(self.host("c1"), vip)?).map(str::to_owned)
    }
}

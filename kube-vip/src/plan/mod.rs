//! From what is known to what should be: pure, deterministic, no I/O.
//!
//! Hosts with the same configuration come to the same tables: seeds and backends' identities are
//! read from it alone, and only the *way* to a backend differs from host to host.

mod checks;
mod desired;
mod frontends;
mod mss;
mod nat;
mod nodes;
mod peers;
mod proxies;
mod seed;
#[cfg(test)]
mod tests;
mod uplinks;
mod vips;

use std::collections::BTreeSet;

pub use self::checks::checks;
pub use self::nodes::wanted;
pub use self::peers::{standings, targets};
pub use self::vips::lease;
pub use desired::{
    Announcement, Backend, Clients, DataPlane, Desired, Frontend, Grant, HeldAddress, Mss, NextHop,
    Node, Proxy, Through, Tunnel, Uplink, Upstream, Vip, Way,
};

use crate::config::{Config, Election};
use crate::view::View;

/// What should be true on this host, given what is known.
pub fn plan(view: &View) -> Desired {
    let config = &view.config;
    let uplink = view.links.get(&config.interface);
    let nodes = nodes::plan(view);
    let tunnels = nodes::tunnels(view, &nodes);
    let frontends = frontends::plan(view, &nodes, &tunnels);
    let owned = || config.vips.iter().filter(|vip| vips::is_owned(view, vip));
    let addresses = owned()
        .filter(|_| uplink.is_some())
        .map(|address| HeldAddress { interface: config.interface.clone(), address: *address })
        .collect();
    let announcements = uplink
        // What is sent into a dead link is lost; the burst begins when it is up again.
        .filter(|link| config.gratuitous_arp && link.up && link.carrier)
        .map(|link| {
            let of = |address: &_| Announcement {
                interface: link.index,
                mac: link.mac,
                address: *address,
            };
            owned().map(of).collect::<BTreeSet<_>>()
        })
        .unwrap_or_default();
    Desired {
        addresses,
        announcements,
        proxies: proxies::plan(view),
        dataplane: DataPlane {
            uplinks: uplinks::plan(view),
            reply_devices: uplinks::reply_devices(view),
            senders: nodes::senders(view),
            vips: vips::plan(view),
            hops: nat::hops(&frontends, view),
            nat_ports: config.nat_ports.unwrap_or_default(),
            frontends,
            clients: Clients { whose: config.local_clients, cgroup: config.cgroup_root.clone() },
            logging: config.log_data_plane,
            udp_idle: config.udp_idle,
            abandoned_after: config.abandoned_after,
            mss: mss::plan(config.mss_clamp, &nodes, &tunnels),
            nodes,
            tunnels,
            drain_timeout: config.drain_timeout,
            probe_port: if config.remote_peers.is_empty() { 0 } else { config.local_peer.port },
            digest: seed::of(view),
            replicates: replicates(config),
        },
    }
}

/// Whether hosts tell each other of connections: where ownership moves between them.
pub fn replicates(config: &Config) -> bool {
    matches!(config.election, Election::Quorum(_)) && !config.single_node
}

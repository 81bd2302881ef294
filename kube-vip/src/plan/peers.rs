//! Which of the other hosts are peers: those whose data plane answers, would do the same as this one,
//! and has an agent. What is sent to any other would vanish there.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kube_vip_common::hash::HASH_VERSION;

use super::nodes::first;
use super::{DataPlane, Node, Through};
use crate::config::{Config, Peer};
use crate::view::{Probe, Probes, Target, Targets, View};

/// Why a host is no peer for this family's packets, in words for people; nothing where it is one.
/// One that has not been asked for long enough is taken for one.
pub(super) fn obstacle(digest: u64, probes: &Probes, peer: &Peer, v4: bool) -> Option<String> {
    // Where this host has no address of the family to ask from, the other one tells as much.
    let mut addresses = [v4, !v4].into_iter().filter_map(|v4| first(peer, v4));
    let (address, probe) = addresses.find_map(|ip| Some((ip, probes.get(&ip)?)))?;
    let id = &peer.id;
    match probe {
        Probe::Pending => None,
        Probe::Silent => Some(format!(
            "no data plane answers for {id} at {address}, UDP port {} (not started, or filtered)",
            peer.port
        )),
        Probe::Left => Some(format!("the agent of {id} has been stopped")),
        Probe::Answered(answer) if answer.hash != HASH_VERSION => Some(format!(
            "{id} hashes by version {}, this host by {HASH_VERSION}; run the same version on both",
            answer.hash
        )),
        Probe::Answered(answer) if answer.digest != digest => Some(format!(
            "{id} has another list of hosts, or another secret: they must be the same on all"
        )),
        Probe::Answered(answer) if !answer.has_agent() => {
            Some(format!("the agent of {id} has not been running for {} s or more", answer.age))
        }
        Probe::Answered(_) => None,
    }
}

/// Each host with each address that is asked, and why it is no peer there.
pub fn standings<'a>(
    config: &'a Config,
    digest: u64,
    probes: &Probes,
) -> Vec<(&'a str, IpAddr, Option<String>)> {
    let both = config.remote_peers.iter().flat_map(|peer| [(peer, true), (peer, false)]);
    both.filter_map(|(peer, v4)| {
        let address = first(peer, v4)?;
        Some((peer.id.as_str(), address, obstacle(digest, probes, peer, v4)))
    })
    .collect()
}

/// Who is to be asked, and how.
pub fn targets(view: &View, desired: &DataPlane) -> Targets {
    let local = &view.config.local_peer;
    let remote = &view.config.remote_peers;
    let own = [true, false].into_iter().filter_map(|v4| first(local, v4));
    let mut peers = BTreeMap::new();
    for peer in remote {
        for v4 in [true, false] {
            // What this host has no address for cannot be asked.
            let (Some(address), Some(_)) = (first(peer, v4), first(local, v4)) else { continue };
            let size = desired.nodes.get(&peer.id).and_then(|node| size(node, v4));
            peers.insert(address, Target { port: peer.port, size });
        }
    }
    let from: Vec<IpAddr> = if remote.is_empty() { Vec::new() } else { own.collect() };
    Targets { from, port: local.port, peers }
}

/// In a tunnel packets of full size have to get through.
fn size(node: &Node, v4: bool) -> Option<u16> {
    let hop = node.hop(v4).filter(|hop| hop.through == Through::Tunnel)?;
    Some(hop.full.min(u16::MAX.into()) as u16)
}

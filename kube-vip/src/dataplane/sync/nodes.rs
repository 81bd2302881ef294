//! `NODES`, and by which addresses they are known: `PEERS` and `PEER_IPS`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use kube_vip_common::address::{Address, MacAddress};
use kube_vip_common::node::{
    Hop, LINK, NAT, Node, Peer, PeerKey, Range4, Range6, THIS_NODE, TUNNEL, tunnelled,
};

use super::super::object::Maps;
use super::{Mirror, SyncError, ignore_missing, map_error};
use crate::plan::{self, DataPlane, NextHop, Through};

impl Mirror {
    pub(super) fn node_id(&self, desired: &DataPlane, name: &str) -> Option<u32> {
        match desired.nodes.get(name) {
            Some(node) if node.local => Some(u32::from(THIS_NODE)),
            _ => self.nodes.get(&name.to_owned()),
        }
    }

    /// Which host a frame from an Ethernet address is from.
    fn senders(&self, desired: &DataPlane) -> BTreeMap<MacAddress, u32> {
        let known = desired.senders.iter();
        let known = known
            .filter_map(|(mac, name)| Some((MacAddress::new(mac.0), self.node_id(desired, name)?)));
        let nodes = desired.nodes.iter();
        let nodes = nodes.filter_map(|(name, node)| Some((node, self.node_id(desired, name)?)));
        let hops = nodes.flat_map(|(node, id)| macs(node, id).map(move |mac| (mac, id)));
        known.chain(hops).collect()
    }

    pub(super) fn add_nodes(
        &mut self,
        maps: &mut Maps,
        desired: &DataPlane,
    ) -> Result<(), SyncError> {
        let own = desired.nodes.values().find(|node| node.local).and_then(|node| node.hop(true));
        let source = |ifindex: u32| {
            let uplink = desired.uplinks.values().find(|uplink| uplink.index == ifindex);
            let mac = uplink.map(|uplink| uplink.mac).or(own.map(|own| own.mac));
            MacAddress::new(mac.unwrap_or_default().0)
        };
        self.adopt_nodes(desired);
        // All hosts have the same names for each other.
        for (rank, (name, node)) in (0..).zip(&desired.nodes) {
            let id = if node.local {
                u32::from(THIS_NODE)
            } else {
                self.nodes.get_or_take(name, "nodes")?
            };
            let hop = |v4| {
                let hop = node.hop(v4)?;
                Some(value(hop, node.local, source(hop.interface)))
            };
            let value = Node {
                hop4: hop(true).unwrap_or_default(),
                hop6: hop(false).unwrap_or_default(),
                v4: first(node, true),
                v6: first(node, false),
                rank,
                ..pods(node)
            };
            self.write_node(maps, id, value)?;
            for address in addresses(node) {
                if self.peer_ips.get(&address) != Some(&id) {
                    let peer = Peer { node: id };
                    let added = maps.peer_ips.insert(Address::from(address), peer, 0);
                    added.map_err(map_error("PEER_IPS"))?;
                    self.peer_ips.insert(address, id);
                }
            }
        }
        for (mac, id) in self.senders(desired) {
            if self.peers.get(&mac) != Some(&id) {
                maps.peers
                    .insert(PeerKey::new(mac.octets), Peer { node: id }, 0)
                    .map_err(map_error("PEERS"))?;
                self.peers.insert(mac, id);
            }
        }
        self.add_tunnels(maps, desired, source)?;
        self.add_hops(maps, desired, source)
    }

    fn write_node(&mut self, maps: &mut Maps, id: u32, value: Node) -> Result<(), SyncError> {
        if self.node_values.get(&id) != Some(&value) {
            maps.nodes.set(id, value, 0).map_err(map_error("NODES"))?;
            self.node_values.insert(id, value);
        }
        Ok(())
    }

    /// Tunnels to peers on this L2 network are nodes too: those peers once more, by another way.
    fn add_tunnels(
        &mut self,
        maps: &mut Maps,
        desired: &DataPlane,
        source: impl Fn(u32) -> MacAddress,
    ) -> Result<(), SyncError> {
        for (name, tunnel) in &desired.tunnels {
            let peer = self.node_id(desired, &tunnel.peer).and_then(|id| self.node_values.get(&id));
            let Some(peer) = peer.copied() else { continue };
            let hop = |v4| tunnel.hop(v4).map(|hop| value(hop, false, source(hop.interface)));
            let value = Node {
                hop4: hop(true).unwrap_or_default(),
                hop6: hop(false).unwrap_or_default(),
                ..peer
            };
            let id = self.nodes.get_or_take(name, "nodes")?;
            self.write_node(maps, id, value)?;
        }
        Ok(())
    }

    /// Next hops of translated packets are nodes too, but no peers.
    fn add_hops(
        &mut self,
        maps: &mut Maps,
        desired: &DataPlane,
        source: impl Fn(u32) -> MacAddress,
    ) -> Result<(), SyncError> {
        for (name, hop) in &desired.hops {
            let hop = value(hop, false, source(hop.interface));
            let value = Node { hop4: hop, hop6: hop, ..Node::default() };
            let left = self.leftover_nodes.iter().find(|(_, old)| **old == value);
            if let Some(id) = left.map(|(id, _)| *id) {
                self.leftover_nodes.remove(&id);
                self.nodes.adopt(name.clone(), id);
            }
            let id = self.nodes.get_or_take(name, "nodes")?;
            self.write_node(maps, id, value)?;
        }
        Ok(())
    }

    /// Gives the hosts that an earlier agent numbered their numbers back. Those that are not met
    /// again keep theirs until nothing names it any more.
    fn adopt_nodes(&mut self, desired: &DataPlane) {
        let (hops, hosts): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.leftover_nodes)
                .into_iter()
                .partition(|(_, node)| node.hop4.way == NAT);
        self.leftover_nodes = hops;
        for (id, old) in hosts {
            let same = |node: &plan::Node| {
                !node.local && (old.v4, old.v6) == (first(node, true), first(node, false))
            };
            let met = desired.nodes.iter().find(|(_, node)| same(node)).map(|(name, _)| name);
            // Who is there twice has a tunnel on this L2 network besides.
            let names = met.into_iter().flat_map(|name| [name.clone(), plan::Tunnel::name(name)]);
            let name = names.into_iter().find(|name| self.nodes.get(name).is_none());
            // No id in a file has a line's end in it.
            self.nodes.adopt(name.unwrap_or_else(|| format!("\n{id}")), id);
        }
    }

    /// The numbers of the hosts that stay.
    pub(super) fn kept_nodes(&self, desired: &DataPlane) -> BTreeSet<u32> {
        let names = desired.nodes.keys().chain(desired.tunnels.keys());
        names.filter_map(|name| self.node_id(desired, name)).collect()
    }

    pub(super) fn release_nodes(
        &mut self,
        maps: &mut Maps,
        desired: &DataPlane,
    ) -> Result<(), SyncError> {
        let current = self.senders(desired);
        let stale: Vec<_> =
            self.peers.keys().filter(|mac| !current.contains_key(mac)).copied().collect();
        for mac in stale {
            ignore_missing(maps.peers.remove(&PeerKey::new(mac.octets)))
                .map_err(map_error("PEERS"))?;
            self.peers.remove(&mac);
        }
        let current: BTreeSet<_> = desired.nodes.values().flat_map(addresses).collect();
        let stale: Vec<_> =
            self.peer_ips.keys().filter(|ip| !current.contains(ip)).copied().collect();
        for address in stale {
            ignore_missing(maps.peer_ips.remove(&Address::from(address)))
                .map_err(map_error("PEER_IPS"))?;
            self.peer_ips.remove(&address);
        }
        let left = |name: &String| {
            desired.nodes.get(name).is_none_or(|node| node.local)
                && !desired.hops.contains_key(name)
                && !desired.tunnels.contains_key(name)
        };
        let gone: Vec<_> = self.nodes.iter().map(|(n, _)| n).filter(|n| left(n)).cloned().collect();
        for name in gone {
            if let Some(id) = self.nodes.release(&name) {
                maps.nodes.set(id, Node::default(), 0).map_err(map_error("NODES"))?;
                self.node_values.remove(&id);
            }
        }
        Ok(())
    }
}

/// The first of its addresses of a family.
fn first(node: &plan::Node, v4: bool) -> Address {
    let mut family = node.addresses.iter().filter(|ip| ip.is_ipv4() == v4);
    family.next().copied().map(Address::from).unwrap_or_default()
}

/// The ranges of its Pods, in a node with nothing else.
fn pods(node: &plan::Node) -> Node {
    let mut value = Node::default();
    for net in &node.pods {
        match net {
            IpNet::V4(net) => {
                let (network, mask) = (net.network().octets(), net.netmask().octets());
                value.pods4 = Range4 { network, mask };
            }
            IpNet::V6(net) => {
                let [network, mask] = [net.network(), net.netmask()].map(|ip| ip.octets());
                let [network, mask] = [network, mask].map(Address::from_v6);
                value.pods6 = Range6 { network, mask };
            }
        }
    }
    value
}

fn value(hop: &NextHop, local: bool, source_mac: MacAddress) -> Hop {
    Hop {
        mac: MacAddress::new(hop.mac.0),
        source_mac,
        // Nothing is forwarded to this host.
        ifindex: if local { 0 } else { hop.interface },
        way: match hop.through {
            Through::Link => LINK,
            Through::Tunnel => TUNNEL,
            Through::Nat => NAT,
        },
        mtu: hop.mtu,
    }
}

/// The IP addresses that another host's frames out of tunnels, and its probes, come from.
fn addresses(node: &plan::Node) -> impl Iterator<Item = IpAddr> {
    node.addresses.iter().filter(|_| !node.local).copied()
}

/// The Ethernet addresses that frames of a host come from: its own where it is on a link with this
/// one, and the one that stands for it when its frames come out of a tunnel.
fn macs(node: &plan::Node, id: u32) -> impl Iterator<Item = MacAddress> {
    let hops = [node.hop4.as_ref(), node.hop6.as_ref()].into_iter().flatten();
    let links = hops.filter(|hop| hop.through == Through::Link);
    let own = links.map(|hop| MacAddress::new(hop.mac.0)).next();
    own.into_iter().chain((!node.local).then(|| tunnelled(id)))
}

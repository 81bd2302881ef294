//! `NODES` and `PEERS`.

use std::collections::BTreeMap;

use kube_vip_common::address::{Address, MacAddress};
use kube_vip_common::node::{LINK, Node, Peer, PeerKey, Range4, Range6, THIS_NODE};

use super::super::object::Maps;
use super::{Mirror, SyncError, ignore_missing, map_error};
use crate::plan::DataPlane;

/// Which host a frame from an Ethernet address is from.
fn senders(desired: &DataPlane) -> BTreeMap<MacAddress, &String> {
    let others = desired.senders.iter().map(|(mac, name)| (MacAddress::new(mac.0), name));
    let hops = desired
        .nodes
        .iter()
        .filter_map(|(name, node)| node.hop.map(|(mac, _)| (MacAddress::new(mac.0), name)));
    others.chain(hops).collect()
}

impl Mirror {
    pub(super) fn node_id(&self, desired: &DataPlane, name: &str) -> Option<u32> {
        match desired.nodes.get(name) {
            Some(node) if node.local => Some(u32::from(THIS_NODE)),
            _ => self.nodes.get(&name.to_owned()),
        }
    }

    pub(super) fn add_nodes(
        &mut self,
        maps: &mut Maps,
        desired: &DataPlane,
    ) -> Result<(), SyncError> {
        let own = desired.nodes.values().find(|node| node.local).and_then(|node| node.hop);
        let source = |ifindex: u32| {
            let uplink = desired.uplinks.values().find(|uplink| uplink.index == ifindex);
            uplink.map(|uplink| uplink.mac).or(own.map(|(mac, _)| mac)).unwrap_or_default()
        };
        for (name, node) in &desired.nodes {
            let first = |v4: bool| {
                let mut family = node.addresses.iter().filter(|ip| ip.is_ipv4() == v4);
                family.next().copied().map(Address::from).unwrap_or_default()
            };
            let id = if node.local {
                u32::from(THIS_NODE)
            } else {
                let same = |old: &Node| (old.v4, old.v6) == (first(true), first(false));
                let left = self.leftover_nodes.iter().find(|(_, old)| same(old));
                if let Some(id) = left.map(|(id, _)| *id) {
                    self.leftover_nodes.remove(&id);
                    self.nodes.adopt(name.clone(), id);
                }
                self.nodes.get_or_take(name, "nodes")?
            };
            let (mac, ifindex) = node.hop.unwrap_or_default();
            let value = Node {
                mac: MacAddress::new(mac.0),
                source_mac: MacAddress::new(source(ifindex).0),
                // Nothing is forwarded to this host.
                ifindex: if node.local { 0 } else { ifindex },
                way: LINK,
                mtu: 0,
                v4: first(true),
                v6: first(false),
                pods4: Range4::EMPTY,
                pods6: Range6::EMPTY,
            };
            if self.node_values.get(&id) != Some(&value) {
                maps.nodes.set(id, value, 0).map_err(map_error("NODES"))?;
                self.node_values.insert(id, value);
            }
        }
        for (mac, name) in senders(desired) {
            if let Some(id) = self.node_id(desired, name)
                && self.peers.get(&mac) != Some(&id)
            {
                maps.peers
                    .insert(PeerKey::new(mac.octets), Peer { node: id }, 0)
                    .map_err(map_error("PEERS"))?;
                self.peers.insert(mac, id);
            }
        }
        Ok(())
    }

    pub(super) fn release_nodes(
        &mut self,
        maps: &mut Maps,
        desired: &DataPlane,
    ) -> Result<(), SyncError> {
        let current = senders(desired);
        let stale: Vec<_> =
            self.peers.keys().filter(|mac| !current.contains_key(mac)).copied().collect();
        for mac in stale {
            ignore_missing(maps.peers.remove(&PeerKey::new(mac.octets)))
                .map_err(map_error("PEERS"))?;
            self.peers.remove(&mac);
        }
        let left = |name: &String| desired.nodes.get(name).is_none_or(|node| node.local);
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

//! `VIPS` and `FILTER`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use kube_vip_common::filter::{self, Bit, Filter};
use kube_vip_common::vip::{HELD, OWN, SERVED, VIRTUAL, Vip};

use super::super::object::Maps;
use super::leases::NO_LEASE;
use super::{Mirror, SyncError, map_error};
use crate::plan::DataPlane;

impl Mirror {
    /// `FILTER`, for these entries of `VIPS`, what is desired, and what the maps have of before.
    pub(super) fn write_filters<'a>(
        &self,
        maps: &mut Maps,
        vips: &(impl Iterator<Item = (&'a IpAddr, &'a Vip)> + Clone),
        desired: &DataPlane,
    ) -> Result<(), SyncError> {
        let sources: Vec<IpAddr> = nat_sources(desired).collect();
        let mut write = |index, fill: &mut dyn FnMut(&mut Filter)| {
            let mut filter = Box::new(Filter::EMPTY);
            fill(&mut filter);
            maps.filter.set(index, *filter, 0).map_err(map_error("FILTER"))
        };
        let served = |filter: &mut Filter| {
            self.served.iter().for_each(|b| Bit::of_ip(b.ip()).with_port(b.port()).set(filter));
        };
        write(filter::ADDRESSES, &mut |filter| {
            let addresses = vips.clone().map(|(ip, _)| ip).chain(&sources);
            addresses.for_each(|ip| Bit::of_ip(*ip).set(filter));
        })?;
        write(filter::TRANSPORT, &mut |filter| {
            let with = |flag| vips.clone().filter(move |(_, vip)| vip.flags & flag != 0);
            let balanced = self.ports.keys().map(|(ip, ..)| ip);
            let whole = with(VIRTUAL).map(|(ip, _)| ip).chain(desired.vips.keys());
            whole.chain(balanced).chain(&sources).for_each(|ip| Bit::of_ip(*ip).set(filter));
            let probed = with(OWN).filter(|_| desired.probe_port != 0);
            let probed = probed.map(|(ip, _)| Bit::of_ip(*ip).with_port(desired.probe_port));
            probed.for_each(|bit| bit.set(filter));
            served(filter);
        })?;
        write(filter::BACKENDS, &mut |filter| served(filter))
    }
}

/// Where segments are refused: the closed port on this host's first address of each family.
pub(super) fn closed_ports(desired: &DataPlane, port: u16) -> impl Iterator<Item = SocketAddr> {
    let local = desired.nodes.values().find(|node| node.local && port != 0);
    let addresses = local.map(|node| node.addresses.as_slice()).unwrap_or_default();
    addresses.iter().map(move |ip| SocketAddr::new(*ip, port))
}

/// This host's own addresses that translated connections come from.
pub(super) fn nat_sources(desired: &DataPlane) -> impl Iterator<Item = IpAddr> {
    let local = desired.nodes.values().filter(|node| node.local && !desired.nat_ports.is_empty());
    local.flat_map(|node| node.addresses.iter().copied())
}

/// By which numbers the kernel knows hosts and leases.
pub(super) struct Numbers<'a> {
    pub(super) node: &'a dyn Fn(&str) -> Option<u32>,
    pub(super) lease: &'a dyn Fn(&str) -> Option<u32>,
}

/// The addresses that other agents know this host by; none where there are no others.
fn own(desired: &DataPlane) -> impl Iterator<Item = IpAddr> {
    let others = desired.nodes.values().any(|node| !node.local);
    let local = desired.nodes.values().filter(move |node| node.local && others);
    local.flat_map(|node| node.addresses.iter().copied())
}

/// `VIPS` as it should be: the desired addresses, this host's own, and those that packets are
/// delivered to here.
pub(super) fn vips(
    desired: &DataPlane,
    served: &BTreeSet<SocketAddr>,
    numbers: &Numbers<'_>,
) -> BTreeMap<IpAddr, Vip> {
    let mut vips: BTreeMap<_, _> = desired
        .vips
        .iter()
        .map(|(address, vip)| {
            let mut flags = if vip.host_address { 0 } else { VIRTUAL };
            flags |= if vip.held { HELD } else { 0 };
            let owner = vip.owner.as_deref().and_then(numbers.node).unwrap_or(0);
            let lease = (numbers.lease)(&vip.lease).unwrap_or(NO_LEASE);
            (*address, Vip { flags, lease, owner })
        })
        .collect();
    for address in own(desired) {
        let vip = vips.entry(address).or_insert(Vip { flags: HELD, lease: NO_LEASE, owner: 0 });
        vip.flags |= OWN;
    }
    for backend in served {
        let vip =
            vips.entry(backend.ip()).or_insert(Vip { flags: HELD, lease: NO_LEASE, owner: 0 });
        vip.flags |= SERVED;
    }
    vips
}

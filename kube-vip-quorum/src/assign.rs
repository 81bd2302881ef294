//! Which host each VIP goes to. Pure.
//!
//! A VIP stays where it is unless its host is no candidate any more or it was asked to move. One
//! that has to go somewhere goes to the first candidate of its preferences; without any, to the one
//! that rendezvous hashing ranks first among those that have not yet their share. So the loss of a
//! host moves that host's VIPs and no others, and those spread over all that remain.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::cluster::{NodeId, Vip};

/// A host that can hold VIPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Its number.
    pub node: NodeId,
    /// Its name, which hashing uses: the number changes when a host is replaced.
    pub name: &'a str,
    /// Its share of the VIPs.
    pub weight: u32,
    /// Those it can hold; nothing: all.
    pub vips: Option<&'a BTreeSet<IpAddr>>,
}

impl Candidate<'_> {
    /// Whether it can hold a VIP.
    pub fn can_hold(&self, vip: &IpAddr) -> bool {
        self.vips.is_none_or(|vips| vips.contains(vip))
    }
}

/// Where each VIP is to be; VIPs that no candidate can take are left out. `holders` are where they
/// are now, `wishes` where they were asked to go.
pub fn place(
    vips: &BTreeMap<IpAddr, Vip>,
    holders: &BTreeMap<IpAddr, NodeId>,
    wishes: &BTreeMap<IpAddr, NodeId>,
    candidates: &[Candidate<'_>],
) -> BTreeMap<IpAddr, NodeId> {
    let mut placed = BTreeMap::new();
    for vip in vips.keys() {
        let stays = [wishes.get(vip), holders.get(vip)].into_iter().flatten();
        let able = |node: NodeId| candidates.iter().any(|it| it.node == node && it.can_hold(vip));
        let mut stays = stays.filter(|node| able(**node));
        if let Some(node) = stays.next() {
            placed.insert(*vip, *node);
        }
    }
    for (vip, spec) in vips {
        if placed.contains_key(vip) {
            continue;
        }
        let able = candidates.iter().filter(|it| it.can_hold(vip));
        let mut preferred = spec.prefer.iter();
        let preferred = preferred.find_map(|name| able.clone().find(|it| it.name == name));
        if let Some(host) =
            preferred.or_else(|| ranked_first(*vip, vips.len(), &placed, candidates))
        {
            placed.insert(*vip, host.node);
        }
    }
    placed
}

fn ranked_first<'c, 'a>(
    vip: IpAddr,
    vips: usize,
    placed: &BTreeMap<IpAddr, NodeId>,
    candidates: &'c [Candidate<'a>],
) -> Option<&'c Candidate<'a>> {
    let sum: u64 = candidates.iter().map(|it| u64::from(it.weight)).sum();
    let has_room = |host: &&Candidate<'_>| {
        let has = placed.values().filter(|node| **node == host.node).count() as u64;
        // Its share of all VIPs, rounded up.
        has < (vips as u64 * u64::from(host.weight)).div_ceil(sum)
    };
    let weighing = candidates.iter().filter(|it| it.weight > 0 && it.can_hold(&vip));
    let best = |hosts: &mut dyn Iterator<Item = &'c Candidate<'a>>| {
        hosts.max_by(|a, b| {
            let (a_score, b_score) = (score(vip, a), score(vip, b));
            a_score.total_cmp(&b_score).then_with(|| b.name.cmp(a.name))
        })
    };
    // Preferences may have filled every share.
    best(&mut weighing.clone().filter(has_room)).or_else(|| best(&mut weighing.clone()))
}

/// Rendezvous hashing with weights: the host with the highest score wins a share of the addresses
/// in proportion to its weight.
fn score(vip: IpAddr, host: &Candidate<'_>) -> f64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let address = match vip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    for byte in address.octets().iter().chain(host.name.as_bytes()) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    // The last bytes have reached only the lower bits by now.
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^= hash >> 33;
    // In (0, 1): of 53 bits, which a double holds exactly.
    let uniform = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -f64::from(host.weight) / uniform.ln()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 6] = ["n1", "n2", "n3", "n4", "n5", "n6"];

    fn hosts(weights: &[u32]) -> Vec<Candidate<'static>> {
        let numbered = NAMES.iter().zip(weights).zip(1..);
        numbered
            .map(|((name, weight), node)| Candidate { node, name, weight: *weight, vips: None })
            .collect()
    }

    fn vips(count: u8) -> BTreeMap<IpAddr, Vip> {
        (0..count).map(|n| (IpAddr::from([10, 0, 0, n]), Vip::default())).collect()
    }

    fn fresh(vips: &BTreeMap<IpAddr, Vip>, hosts: &[Candidate<'_>]) -> BTreeMap<IpAddr, NodeId> {
        place(vips, &BTreeMap::new(), &BTreeMap::new(), hosts)
    }

    #[test]
    fn weights_are_shares() {
        let placed = fresh(&vips(200), &hosts(&[1, 2, 1]));
        let of = |node| placed.values().filter(|it| **it == node).count();
        assert_eq!([of(1), of(2), of(3)], [50, 100, 50]);
    }

    #[test]
    fn hashing_alone_spreads_by_weight() {
        let hosts = hosts(&[1, 3]);
        let wins = (0..=255u8).flat_map(|a| (0..16u8).map(move |b| IpAddr::from([10, a, b, 1])));
        let wins = wins.filter(|vip| score(*vip, &hosts[1]) > score(*vip, &hosts[0])).count();
        assert!((2950..3200).contains(&wins), "{wins} of 4096, expected 3072");
    }

    #[test]
    fn preference_counts_when_a_vip_has_to_go_somewhere() {
        let mut vips = vips(1);
        let vip = IpAddr::from([10, 0, 0, 0]);
        vips.get_mut(&vip).unwrap().prefer = vec!["n9".to_owned(), "n3".to_owned()];
        let hosts = hosts(&[1, 1, 0]);
        assert_eq!(fresh(&vips, &hosts)[&vip], 3, "weight 0 takes what it is preferred for");
        let holders = BTreeMap::from([(vip, 1)]);
        let placed = place(&vips, &holders, &BTreeMap::new(), &hosts);
        assert_eq!(placed[&vip], 1, "a preference alone is no reason to move");
        let placed = place(&vips, &holders, &BTreeMap::from([(vip, 2)]), &hosts);
        assert_eq!(placed[&vip], 2, "a wish is");
        let placed = place(&vips, &holders, &BTreeMap::from([(vip, 9)]), &hosts);
        assert_eq!(placed[&vip], 1, "unless it cannot be met");
    }

    #[test]
    fn vip_goes_only_where_it_is_known() {
        let (mut vips, mut hosts) = (vips(2), hosts(&[1, 1, 1]));
        let [a, b] = [0, 1].map(|n| IpAddr::from([10, 0, 0, n]));
        vips.get_mut(&b).unwrap().prefer = vec!["n1".to_owned()];
        let (first, second) = (BTreeSet::from([a]), BTreeSet::from([a, b]));
        hosts[0].vips = Some(&first);
        hosts[1].vips = Some(&second);
        hosts[2].vips = Some(&first);
        assert_eq!(fresh(&vips, &hosts)[&b], 2, "a preference does not help");
        let (holders, wishes) = (BTreeMap::from([(b, 1)]), BTreeMap::from([(b, 3)]));
        assert_eq!(place(&vips, &holders, &wishes, &hosts)[&b], 2, "nor does a wish");
        hosts.remove(1);
        assert_eq!(fresh(&vips, &hosts).get(&b), None);
        assert!(fresh(&vips, &hosts).contains_key(&a));
    }

    proptest! {
        #[test]
        fn loss_of_a_host_moves_its_vips_and_no_others(
            count in 1u8..40,
            weights in prop::collection::vec(1u32..5, 2..6),
            lost in any::<prop::sample::Index>(),
        ) {
            let (vips, all) = (vips(count), hosts(&weights));
            let before = fresh(&vips, &all);
            let lost = all[lost.index(all.len())].node;
            let rest: Vec<_> = all.iter().copied().filter(|it| it.node != lost).collect();
            let after = place(&vips, &before, &BTreeMap::new(), &rest);
            for (vip, node) in &before {
                if *node == lost {
                    prop_assert!(after[vip] != lost);
                } else {
                    prop_assert_eq!(after[vip], *node);
                }
            }
            // And its return moves none.
            prop_assert_eq!(place(&vips, &after, &BTreeMap::new(), &all), after);
        }

        #[test]
        fn every_vip_has_a_place_and_no_host_more_than_its_share(
            count in 1u8..60,
            weights in prop::collection::vec(0u32..5, 1..6),
        ) {
            let (vips, hosts) = (vips(count), hosts(&weights));
            let placed = fresh(&vips, &hosts);
            let sum: u64 = weights.iter().map(|it| u64::from(*it)).sum();
            if sum == 0 {
                prop_assert!(placed.is_empty());
            } else {
                prop_assert_eq!(placed.len(), vips.len());
                for host in &hosts {
                    let has = placed.values().filter(|it| **it == host.node).count() as u64;
                    prop_assert!(has <= (u64::from(count) * u64::from(host.weight)).div_ceil(sum));
                }
            }
        }

        #[test]
        fn vips_go_to_candidates_only(
            count in 1u8..20,
            weights in prop::collection::vec(0u32..3, 0..6),
            holders in prop::collection::vec(0u64..9, 0..20),
            wishes in prop::collection::vec(0u64..9, 0..20),
        ) {
            let (vips, hosts) = (vips(count), hosts(&weights));
            let of = |nodes: &[u64]| vips.keys().copied().zip(nodes.iter().copied()).collect();
            let placed = place(&vips, &of(&holders), &of(&wishes), &hosts);
            let able: BTreeSet<_> = hosts.iter().map(|it| it.node).collect();
            prop_assert!(placed.values().all(|node| able.contains(node)));
        }
    }
}

//! Maglev consistent hashing (Eisenbud et al., NSDI 2016, §3.4), with weights.
//!
//! A table depends on the set of backends, their weights, the seed and the size, and on nothing
//! else: neither on the order they are listed in nor on what the table was before.

use crate::address::Address;
use crate::hash::FlowHash;
use crate::table::{MAX_MEMBERS, TableSize};

/// Index of a slot without a candidate.
const NO_MEMBER: u16 = MAX_MEMBERS as u16;

/// A backend on its way into a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its identity: the address …
    pub address: Address,
    /// … and the port.
    pub port: u16,
    /// Its share of the slots relative to the others'; 0 takes none.
    pub weight: u16,
    /// The caller's name for it; has no influence on the table.
    pub tag: u32,
    offset: u32,
    skip: u32,
    credit: u32,
}

impl Candidate {
    /// A candidate for a table of that seed and size.
    pub const fn new(
        address: Address,
        port: u16,
        weight: u16,
        tag: u32,
        seed: u64,
        size: TableSize,
    ) -> Self {
        let [b0, b1, b2, b3, b4, b5, b6, b7, c0, c1, c2, c3, c4, c5, c6, c7] = address.octets;
        let hash = FlowHash::new(seed)
            .mix(u64::from_be_bytes([b0, b1, b2, b3, b4, b5, b6, b7]))
            .mix(u64::from_be_bytes([c0, c1, c2, c3, c4, c5, c6, c7]))
            .mix(port as u64);
        let slots = size.slots();
        Self {
            address,
            port,
            weight,
            tag,
            offset: hash.mix(1).slot(slots),
            skip: hash.mix(2).slot(slots - 1) + 1,
            credit: 0,
        }
    }
}

/// Fills `slots` with indices into `candidates`, which are brought into the order of their identity
/// first. The length of `slots` must be the size the candidates were made for.
///
/// Without a candidate of positive weight every slot is [`MAX_MEMBERS`].
pub fn fill(slots: &mut [u16], candidates: &mut [Candidate]) {
    slots.fill(NO_MEMBER);
    candidates.sort_unstable_by_key(|candidate| (candidate.address, candidate.port));
    let full = u32::from(candidates.iter().map(|candidate| candidate.weight).max().unwrap_or(0));
    if full == 0 {
        return;
    }
    for candidate in candidates.iter_mut() {
        candidate.credit = 0;
    }
    let size = slots.len() as u32;
    let mut free = size;
    loop {
        for (index, candidate) in candidates.iter_mut().enumerate() {
            // The heaviest takes a slot in each round, the others in proportion.
            candidate.credit += u32::from(candidate.weight);
            if candidate.credit < full {
                continue;
            }
            candidate.credit -= full;
            // The permutation visits every slot, so this ends while one is free.
            while slots[candidate.offset as usize] != NO_MEMBER {
                candidate.offset = step(candidate.offset, candidate.skip, size);
            }
            slots[candidate.offset as usize] = index as u16;
            candidate.offset = step(candidate.offset, candidate.skip, size);
            free -= 1;
            if free == 0 {
                return;
            }
        }
    }
}

const fn step(offset: u32, skip: u32, size: u32) -> u32 {
    let next = offset + skip;
    if next >= size { next - size } else { next }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    type Identity = (Address, u16);

    fn table(backends: &[(Identity, u16)], seed: u64, size: TableSize) -> Vec<Option<Identity>> {
        let mut candidates: Vec<_> = backends
            .iter()
            .map(|((address, port), weight)| {
                Candidate::new(*address, *port, *weight, 0, seed, size)
            })
            .collect();
        let mut slots = vec![0; size.slots() as usize];
        fill(&mut slots, &mut candidates);
        let name = |index: &u16| candidates.get(usize::from(*index)).map(|c| (c.address, c.port));
        slots.iter().map(name).collect()
    }

    fn loads(table: &[Option<Identity>]) -> BTreeMap<Identity, u32> {
        let mut loads = BTreeMap::new();
        for slot in table {
            *loads.entry(slot.expect("every slot is filled")).or_default() += 1;
        }
        loads
    }

    fn identity() -> impl Strategy<Value = Identity> {
        let v4 = any::<[u8; 4]>().prop_map(Address::from_v4);
        let address = prop_oneof![v4, any::<[u8; 16]>().prop_map(Address::from_v6)];
        (address, 1..=u16::MAX)
    }

    fn size() -> impl Strategy<Value = TableSize> {
        proptest::sample::select(&TableSize::ALL[..4])
    }

    /// Size and a set of backends with at least 100 slots each.
    fn roomy() -> impl Strategy<Value = (TableSize, Vec<Identity>)> {
        size().prop_flat_map(|size| {
            let most = (size.slots() / 100).min(60) as usize;
            let backends = proptest::collection::btree_set(identity(), 1..=most);
            (Just(size), backends.prop_map(|set| set.into_iter().collect()))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_slot_is_filled_and_load_is_even((size, backends) in roomy(), seed: u64) {
            let equal: Vec<_> = backends.iter().map(|identity| (*identity, 1)).collect();
            let loads = loads(&table(&equal, seed, size));
            let average = f64::from(size.slots()) / backends.len() as f64;
            for load in loads.values() {
                prop_assert!(f64::from(*load) / average <= 1.05, "{load} of {average}");
            }
            prop_assert_eq!(loads.len(), backends.len());
        }

        #[test]
        fn order_of_the_list_does_not_matter((size, backends) in roomy(), seed: u64, turn: usize) {
            let mut list: Vec<_> = backends.iter().map(|identity| (*identity, 3)).collect();
            let straight = table(&list, seed, size);
            list.reverse();
            prop_assert_eq!(&table(&list, seed, size), &straight);
            let turn = turn % list.len();
            list.rotate_left(turn);
            prop_assert_eq!(&table(&list, seed, size), &straight);
        }

        #[test]
        fn load_follows_weight(
            weights in proptest::collection::vec(0u16..=256, 1..20), seed: u64,
        ) {
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            let backends: Vec<_> = (1u16..).zip(&weights)
                .map(|(port, weight)| ((Address::from_v4([10, 0, 0, 1]), port), *weight))
                .collect();
            let loads = loads(&table(&backends, seed, TableSize::S16381));
            let sum: u32 = weights.iter().map(|weight| u32::from(*weight)).sum();
            for (identity, weight) in &backends {
                let expected = 16381.0 * f64::from(*weight) / f64::from(sum);
                let load = f64::from(loads.get(identity).copied().unwrap_or(0));
                // The credit not yet paid out, at most one slot for each backend, is shared by weight.
                let unpaid = weights.len() as f64 * f64::from(*weight) / f64::from(sum);
                prop_assert!((load - expected).abs() <= 1.0 + unpaid, "{weight}: {load} of {expected}");
            }
        }

        #[test]
        fn any_weights_and_sizes_end(
            list in proptest::collection::btree_map(identity(), any::<u16>(), 0..300),
            seed: u64, size in size(),
        ) {
            let backends: Vec<_> = list.into_iter().collect();
            let table = table(&backends, seed, size);
            let some = backends.iter().any(|(_, weight)| *weight > 0);
            prop_assert!(table.iter().all(|slot| slot.is_some() == some));
        }
    }

    #[test]
    fn removing_one_of_ten_moves_few_others() {
        let size = TableSize::S16381;
        let mut moved = Vec::new();
        for seed in 0..20 {
            let backends: Vec<_> = (1..=10)
                .map(|host| ((Address::from_v4([10, 0, seed as u8, host]), 6443), 1))
                .collect();
            let before = table(&backends, seed, size);
            for gone in 0..backends.len() {
                let mut rest = backends.clone();
                let (gone, _) = rest.remove(gone);
                let after = table(&rest, seed, size);
                let survivors = before.iter().zip(&after).filter(|(old, _)| **old != Some(gone));
                let changed = survivors.clone().filter(|(old, new)| old != new).count();
                moved.push(changed as f64 / survivors.count() as f64);
            }
        }
        let average = moved.iter().sum::<f64>() / moved.len() as f64;
        let most = moved.iter().copied().fold(0.0, f64::max);
        assert!(average <= 0.008, "average {average}");
        assert!(most <= 0.015, "most {most}");
    }

    #[test]
    fn table_is_the_same_for_ever() {
        // Hosts of different versions must agree: a change here needs a new layout version.
        let backends: Vec<_> =
            (1..=3).map(|host| ((Address::from_v4([10, 0, 0, host]), 80), 1)).collect();
        let table = table(&backends, 7, TableSize::S251);
        let print = table.iter().fold(FlowHash::new(0), |hash, slot| {
            hash.mix(u64::from(slot.expect("every slot is filled").0.v4()[3]))
        });
        assert_eq!(print.slot(1_000_003), 249_472);
    }
}

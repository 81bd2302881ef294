//! The machines of `kube_vip_quorum::grant` under random faults, in virtual time, over a small
//! consensus log.
//!
//! `KUBE_VIP_SIM_SCHEDULES` says how many schedules (1000), `KUBE_VIP_SIM_SEED` runs the schedule
//! of one seed and prints what happens.

mod host;
mod raft;
mod rng;
mod schedule;
mod world;

use std::env;

use rng::Rng;
use world::{Fault, MS, Mutation, World};

/// After the last fault every VIP has an owner again within this.
const BOUND: u64 = 2500 * MS;

fn number(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}: {value:?} is not a number")))
}

/// One schedule; an error tells what was violated.
fn schedule(seed: u64, mutation: Option<Mutation>, trace: bool) -> (World, Result<(), String>) {
    let mut rng = Rng(seed);
    let hosts = rng.pick(&[3, 3, 4, 5]);
    let vips = rng.pick(&[1, 2, 3]);
    let mut world = World::new(rng.next(), hosts, vips, mutation);
    world.stalls = true;
    world.trace = trace.then(Vec::new);
    let end = rng.between(3000 * MS, 9000 * MS);
    for (at, fault) in schedule::random(&mut rng, hosts, end) {
        world.schedule(at, fault);
    }
    let result = judge(&mut world, end);
    (world, result)
}

fn judge(world: &mut World, end: u64) -> Result<(), String> {
    world.run(end)?;
    world.heal();
    // The longest time a process is down, and the bound.
    let settled = end + 1700 * MS + BOUND;
    world.run(settled)?;
    for step in 0..100 {
        for vip in world.vips().to_vec() {
            let owners = world.owners(vip);
            if owners.len() != 1 {
                let at = settled + step * 5 * MS;
                return Err(format!("{vip} has {} owners at {} ms", owners.len(), at / MS));
            }
        }
        world.run(settled + (step + 1) * 5 * MS)?;
    }
    Ok(())
}

#[test]
fn one_owner_at_every_instant_and_one_again_after_the_faults() {
    if let Some(seed) = number("KUBE_VIP_SIM_SEED") {
        let (world, result) = schedule(seed, None, true);
        for line in world.trace.into_iter().flatten() {
            println!("{line}");
        }
        result.unwrap();
        return;
    }
    let schedules = number("KUBE_VIP_SIM_SCHEDULES").unwrap_or(1000);
    for seed in 1..=schedules {
        if let (_, Err(violation)) = schedule(seed, None, false) {
            panic!("{violation}; KUBE_VIP_SIM_SEED={seed} shows how");
        }
    }
}

#[test]
fn broken_variants_are_caught() {
    let variants = [
        Mutation::DeadlineIgnored,
        Mutation::LeaderNeedsNoQuorum,
        Mutation::VotersDoNotWithhold,
        Mutation::VotersForgetAtStart,
        Mutation::CountsFromTheAnswer,
    ];
    for mutation in variants {
        let caught = (1..=3000).find(|seed| {
            let (_, result) = schedule(*seed, Some(mutation), false);
            result.is_err_and(|why| why.starts_with("two owners"))
        });
        println!("{mutation:?}: two owners with seed {caught:?}");
        assert!(caught.is_some(), "{mutation:?} was not noticed");
    }
}

/// The owner is cut off, and within a lease of that the leader stops and names a successor, who has
/// a majority but not the owner's ear.
fn succession(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let mut world = World::new(seed, 5, 1, mutation);
    world.run(2000 * MS)?;
    let leader = world.leader().ok_or("no leader after two seconds")?;
    let owner = (leader + 1) % 5;
    world.schedule(world.time, Fault::Move { vip: 0, to: owner });
    let cut = world.time + 500 * MS;
    world.run(cut)?;
    let length = 1500 * MS;
    let isolate = Fault::Isolate { machine: owner, inward: true, outward: true, length };
    world.schedule(cut, isolate);
    let stop = cut + world.rng.between(0, 120 * MS);
    world.schedule(stop, Fault::Stop { machine: leader, down: 5000 * MS });
    world.run(cut + 1000 * MS)
}

#[test]
fn a_named_successor_waits_for_what_its_predecessor_granted() {
    let broken = Some(Mutation::SuccessorMovesAtOnce);
    for seed in 1..=300 {
        succession(seed, None).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
    let caught = (1..=300)
        .filter(|seed| succession(*seed, broken).is_err_and(|why| why.starts_with("two owners")));
    let caught = caught.count();
    println!("{caught} of 300 find two owners if it does not");
    assert!(caught > 0, "a successor that moves at once was not noticed");
}

/// How long a VIP has no owner after a host is lost: its owner, or owner and leader in one.
fn outages(leader_too: bool) -> Vec<u64> {
    let mut outages: Vec<u64> = (1..=200)
        .map(|seed| {
            let mut world = World::new(seed * 7919 + u64::from(leader_too), 3, 1, None);
            let vip = world.vips()[0];
            let leader = |world: &World| world.leader().expect("a leader after two seconds");
            world.run(2000 * MS).unwrap();
            let to = if leader_too { leader(&world) } else { (leader(&world) + 1) % 3 };
            world.schedule(world.time, Fault::Move { vip: 0, to });
            let lost = world.time + 500 * MS + world.rng.between(0, 40 * MS);
            world.run(lost).unwrap();
            assert_eq!((world.owners(vip), leader(&world) == to), (vec![to], leader_too));
            world.schedule(lost, Fault::Reboot { machine: to, down: 60_000 * MS });
            while world.owners(vip).is_empty() || world.time == lost {
                world.run(world.time + MS).unwrap();
            }
            assert_ne!(world.owners(vip), [to]);
            (world.time - lost) / MS
        })
        .collect();
    outages.sort_unstable();
    outages
}

#[test]
fn lost_owner_is_replaced_in_time() {
    for leader_too in [false, true] {
        let outages = outages(leader_too);
        let at = |percent: usize| outages[(outages.len() * percent / 100).min(outages.len() - 1)];
        println!(
            "owner lost, leader {}: median {} ms, p90 {} ms, p99 {} ms, max {} ms",
            if leader_too { "too" } else { "not" },
            at(50),
            at(90),
            at(99),
            at(100)
        );
        assert!(at(50) <= 350 && at(99) <= 500);
    }
}

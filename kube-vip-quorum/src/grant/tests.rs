//! The machines one by one; all of them together are in `tests/simulation`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::cluster::{Cluster, Command, Host, NodeId, TenureId, Vip};
use crate::time::{Boot, Timing};

const MS: u64 = 1_000_000;

fn at(ms: u64) -> Boot {
    Boot(ms * MS)
}

fn voters(sets: &[&[NodeId]]) -> Voters {
    Voters::new(sets.iter().map(|set| set.iter().copied().collect()))
}

fn tenure_id(term: u64) -> TenureId {
    TenureId { term, leader: 1 }
}

fn vip() -> IpAddr {
    IpAddr::from([10, 0, 0, 1])
}

/// Hosts n1 to n3 and one VIP, which n2 holds under epoch 1.
fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    for node in 1..=3 {
        let host = Host { name: format!("n{node}"), weight: 1, ..Host::default() };
        cluster.apply(&Command::Host { node, host }).unwrap();
    }
    cluster.apply(&Command::Vips(BTreeMap::from([(vip(), Vip::default())]))).unwrap();
    cluster.apply(&Command::Assign { vip: vip(), after: 0, to: 2 }).unwrap();
    cluster
}

fn ask(node: NodeId) -> Ask {
    Ask { node, fit: true, applied: 0, released: Vec::new() }
}

fn held() -> Held {
    Held { vip: vip(), epoch: 1 }
}

/// A tenure that began at 1000 ms and whose heartbeat of that moment n2 has acknowledged.
fn tenure(claim: Claim) -> Tenure {
    let mut tenure =
        Tenure::new(tenure_id(2), Timing::default(), voters(&[&[1, 2, 3]]), claim, at(1000));
    beat(&mut tenure, 1000);
    tenure
}

fn beat(tenure: &mut Tenure, ms: u64) {
    tenure.ledger().sending(at(ms));
    tenure.ledger().acknowledged(1, at(ms));
    tenure.ledger().acknowledged(2, at(ms));
}

const ELECTED: Claim = Claim::Elected { after: None };

#[test]
fn majority_of_every_set_counts() {
    let newest = |voters: &Voters, reached: &[(NodeId, u64)]| {
        let reached: BTreeMap<_, _> = reached.iter().copied().collect();
        voters.agreed(|node| reached.get(&node).copied())
    };
    let three = voters(&[&[1, 2, 3]]);
    assert_eq!(newest(&three, &[(1, 30), (2, 20), (3, 10)]), Some(20));
    assert_eq!(newest(&three, &[(1, 30), (2, 20)]), Some(20));
    assert_eq!(newest(&three, &[(1, 30)]), None);
    assert_eq!(newest(&voters(&[&[1, 2, 3, 4]]), &[(1, 40), (2, 30), (3, 20)]), Some(20));
    assert_eq!(newest(&voters(&[&[1]]), &[(1, 5)]), Some(5));
    let joint = voters(&[&[1, 2, 3], &[1, 4, 5]]);
    assert_eq!(newest(&joint, &[(1, 30), (2, 20), (3, 10)]), None);
    assert_eq!(newest(&joint, &[(1, 30), (2, 20), (4, 10)]), Some(10));
    assert_eq!(newest(&Voters::default(), &[(1, 30)]), None, "no voters, no majority");
    assert_eq!(three.and(&voters(&[&[1, 4, 5]])), joint);
    assert_eq!(three.and(&three), three);
}

proptest! {
    #[test]
    fn agreed_value_is_the_greatest_that_a_majority_reached(
        sets in prop::collection::vec(prop::collection::btree_set(0u64..7, 1..6), 1..3),
        reached in prop::collection::btree_map(0u64..7, 0u64..20, 0..7),
    ) {
        let voters = Voters::new(sets.clone());
        let reaches = |value: u64| {
            sets.iter().all(|set: &BTreeSet<NodeId>| {
                let have = set.iter().filter(|it| reached.get(it).is_some_and(|at| *at >= value));
                have.count() * 2 > set.len()
            })
        };
        let expected = (0..20).rev().find(|value| reaches(*value));
        prop_assert_eq!(voters.agreed(|node| reached.get(&node).copied()), expected);
    }
}

#[test]
fn ledger_takes_no_acknowledgement_of_what_was_not_sent() {
    let mut ledger = Ledger::new(voters(&[&[1, 2, 3]]));
    ledger.acknowledged(1, at(1));
    ledger.sending(at(10));
    ledger.acknowledged(2, at(11));
    ledger.acknowledged(3, at(10));
    assert_eq!(ledger.majority(), None);
    ledger.acknowledged(1, at(9));
    assert_eq!(ledger.majority(), Some(at(9)));
    ledger.acknowledged(3, at(8));
    assert_eq!(ledger.majority(), Some(at(9)), "an older one changes nothing");
    ledger.set_voters(voters(&[&[1, 2, 3], &[2, 3, 4]]));
    assert_eq!(ledger.majority(), None, "both majorities");
}

#[test]
fn voter_withholds_after_its_start_and_after_each_acknowledgement() {
    let timing = Timing::default();
    let withheld = timing.withheld();
    let leader = Some(tenure_id(1));
    let mut voter = Voter::new(&timing, Duration::ZERO, at(0));
    assert_eq!(voter.may_vote(None, None, at(0)), Err(Withheld { left: withheld }));
    assert_eq!(voter.may_vote(None, None, Boot(0).plus(withheld)), Ok(()));
    assert!(!voter.heartbeat(tenure_id(1), None, at(500)), "it follows nobody");
    assert!(!voter.heartbeat(tenure_id(1), Some(tenure_id(2)), at(500)), "it follows another");
    assert_eq!(voter.may_vote(None, leader, at(500)), Ok(()));
    assert!(voter.heartbeat(tenure_id(1), leader, at(500)));
    let end = at(500).plus(withheld);
    assert_eq!(voter.until(), end);
    assert!(voter.may_vote(None, leader, Boot(end.0 - 1)).is_err());
    assert_eq!(voter.may_vote(None, leader, end), Ok(()));
}

#[test]
fn voter_that_ran_with_longer_leases_withholds_for_those_after_its_start() {
    let voter = Voter::new(&Timing::default(), Duration::from_millis(990), at(0));
    assert_eq!(voter.until(), at(1010));
}

#[test]
fn voter_exempts_whom_the_leader_it_follows_has_named() {
    let mut voter = Voter::new(&Timing::default(), Duration::ZERO, at(0));
    assert!(voter.heartbeat(tenure_id(1), Some(tenure_id(1)), at(500)));
    let may = |claim, follows| voter.may_vote(claim, follows, at(501)).is_ok();
    assert!(may(Some(tenure_id(1)), Some(tenure_id(1))));
    assert!(!may(Some(tenure_id(1)), Some(tenure_id(2))), "another was elected since");
    assert!(!may(Some(tenure_id(1)), None), "it knows nothing of that leader");
    assert!(!may(None, None));
}

#[test]
fn candidate_acknowledges_nothing_more() {
    let mut voter = Voter::new(&Timing::default(), Duration::ZERO, at(0));
    voter.stands(Some(tenure_id(1)));
    assert!(!voter.heartbeat(tenure_id(1), Some(tenure_id(1)), at(500)));
    assert!(voter.heartbeat(tenure_id(2), Some(tenure_id(2)), at(500)), "but of the next");
}

#[test]
fn grant_ends_a_lease_after_the_sending() {
    let mut tenure = tenure(ELECTED);
    let cluster = cluster();
    let answer = tenure.answer(&ask(2), &cluster, at(1050));
    assert_eq!(answer.granted, [Granted { held: held(), remaining: 130 * MS }]);
    assert_eq!(tenure.answer(&ask(3), &cluster, at(1050)).granted, [], "it is not n3's");
    assert_eq!(tenure.answer(&ask(2), &cluster, at(1180)).granted, [], "nothing remains");
    tenure.ledger().sending(at(1100));
    tenure.ledger().acknowledged(1, at(1100));
    assert_eq!(tenure.answer(&ask(2), &cluster, at(1180)).granted, [], "one is no majority");
    tenure.ledger().acknowledged(3, at(1100));
    assert_eq!(tenure.answer(&ask(2), &cluster, at(1180)).granted[0].remaining, 100 * MS);
    tenure.close();
    assert_eq!(tenure.answer(&ask(2), &cluster, at(1180)).granted, []);
}

#[test]
fn dead_owner_is_replaced_when_its_grant_has_run_out_on_every_clock() {
    let mut tenure = tenure(ELECTED);
    let cluster = cluster();
    tenure.answer(&ask(2), &cluster, at(1010));
    let mut proposed = None;
    for ms in 1010..1500 {
        if ms % 40 == 0 {
            beat(&mut tenure, ms);
            for node in [1, 3] {
                tenure.answer(&ask(node), &cluster, at(ms));
            }
        }
        let commands = tenure.plan(&cluster, at(ms));
        assert!(proposed.is_none() || commands.is_empty(), "proposed twice");
        if let [Command::Assign { after: 1, to: 1 | 3, .. }] = commands[..] {
            proposed = Some(ms);
        }
    }
    // The grant rests on the heartbeat of 1000 ms; 180 ms of lease are 183.6 on another clock.
    assert_eq!(proposed, Some(1184));
}

#[test]
fn proposal_that_was_refused_is_planned_anew() {
    let mut cluster = cluster();
    let mut tenure = tenure(Claim::Elected { after: Some(2) });
    tenure.move_to(vip(), "n3", &cluster, at(1000)).unwrap();
    let commands = tenure.plan(&cluster, at(1000));
    assert_eq!(commands, [Command::Assign { vip: vip(), after: 1, to: 3 }]);
    // In the log n3 has left before.
    cluster.apply(&Command::Forget { node: 3 }).unwrap();
    assert!(cluster.apply(&commands[0]).is_err());
    assert_eq!(tenure.plan(&cluster, at(1001)), [], "it may still be on its way");
    tenure.refused(&commands[0]);
    let assign = Command::Assign { vip: vip(), after: 1, to: 1 };
    assert_eq!(tenure.plan(&cluster, at(1002)), [assign]);
}

#[test]
fn leader_that_was_replaced_is_dead_until_it_asks() {
    let cluster = cluster();
    let mut tenure = tenure(Claim::Elected { after: Some(2) });
    assert_eq!(tenure.plan(&cluster, at(1000)).len(), 1, "nothing of its grants is left");
    let mut tenure = self::tenure(Claim::Elected { after: Some(2) });
    tenure.answer(&ask(2), &cluster, at(1000));
    assert_eq!(tenure.plan(&cluster, at(1000)), [], "and alive when it does");
}

#[test]
fn owner_that_gives_back_is_replaced_at_once() {
    let cluster = cluster();
    for claim in [ELECTED, Claim::Named] {
        let mut tenure = tenure(claim);
        assert_eq!(tenure.answer(&ask(2), &cluster, at(1000)).granted.len(), 1);
        tenure.move_to(vip(), "n3", &cluster, at(1001)).unwrap();
        assert_eq!(tenure.plan(&cluster, at(1001)), [], "n2 has a grant");
        assert_eq!(tenure.to_nudge(&cluster, at(1001)), BTreeSet::from([2]));
        assert_eq!(tenure.to_nudge(&cluster, at(1002)), BTreeSet::new(), "not at every turn");
        let answer = tenure.answer(&ask(2), &cluster, at(1002));
        assert_eq!((answer.granted, answer.release), (vec![], vec![held()]));
        let gave_back = Ask { released: vec![held()], ..ask(2) };
        assert_eq!(tenure.answer(&gave_back, &cluster, at(1003)).granted, []);
        let assign = Command::Assign { vip: vip(), after: 1, to: 3 };
        assert_eq!(tenure.plan(&cluster, at(1003)), [assign]);
        assert_eq!(tenure.answer(&ask(2), &cluster, at(1004)).granted, [], "it is decided");
    }
}

#[test]
fn named_successor_moves_nothing_before_the_old_grants_have_ended() {
    let cluster = cluster();
    let mut tenure = tenure(Claim::Named);
    tenure.move_to(vip(), "n3", &cluster, at(1001)).unwrap();
    let end = at(1000).plus(Timing::default().withheld());
    assert_eq!(tenure.wake(at(1121)), Some(end));
    assert_eq!(tenure.plan(&cluster, Boot(end.0 - 1)), [], "n2 may have a grant of the old one");
    for node in [1, 3] {
        tenure.answer(&ask(node), &cluster, Boot(end.0 - 1));
    }
    assert_eq!(tenure.plan(&cluster, end).len(), 1);
}

#[test]
fn move_that_cannot_be_is_refused() {
    let mut cluster = cluster();
    let mut tenure = tenure(ELECTED);
    let nowhere = IpAddr::from([10, 0, 0, 9]);
    let refused = tenure.move_to(nowhere, "n1", &cluster, at(1000)).unwrap_err();
    assert_eq!(refused.to_string(), "10.0.0.9 is not in the cluster's list of VIPs");
    assert_eq!(
        tenure.move_to(vip(), "n9", &cluster, at(1000)),
        Err(MoveError::NoSuchHost("n9".to_owned()))
    );
    cluster.apply(&Command::Drain { node: 3, drained: true }).unwrap();
    assert_eq!(
        tenure.move_to(vip(), "n3", &cluster, at(1000)),
        Err(MoveError::Unfit("n3".to_owned()))
    );
    assert_eq!(tenure.move_to(vip(), "n2", &cluster, at(1000)), Ok(()), "it is there");
    assert_eq!(tenure.plan(&cluster, at(1000)), []);
}

#[test]
fn only_host_keeps_its_vip_even_if_it_is_unfit() {
    let cluster = cluster();
    let mut tenure = tenure(ELECTED);
    let unfit = |node| Ask { fit: false, ..ask(node) };
    for node in [1, 2, 3] {
        tenure.answer(&unfit(node), &cluster, at(1000));
    }
    assert_eq!(tenure.plan(&cluster, at(1000)), []);
    assert_eq!(tenure.answer(&unfit(2), &cluster, at(1001)).granted.len(), 1);
    tenure.answer(&ask(3), &cluster, at(1002));
    tenure.plan(&cluster, at(1002));
    assert_eq!(tenure.answer(&unfit(2), &cluster, at(1003)).release, [held()], "n3 can");
}

fn answer(remaining: u64) -> Answer {
    let granted = vec![Granted { held: held(), remaining: remaining * MS }];
    Answer { tenure: tenure_id(2), granted, release: Vec::new() }
}

#[test]
fn holder_counts_from_when_it_asked_and_takes_drift_off() {
    let mut holder = Holder::new(2);
    let cluster = cluster();
    let leases = holder.answered(at(100), &answer(100), &cluster, at(150));
    assert_eq!(leases, [Lease { vip: vip(), since: at(150), until: at(199), epoch: 1 }]);
    holder.written(leases[0]);
    assert_eq!(holder.holding(at(198)).count(), 1);
    assert_eq!(holder.holding(at(199)).count(), 0);
    let leases = holder.answered(at(140), &answer(100), &cluster, at(160));
    assert_eq!((leases[0].since, leases[0].until), (at(150), at(239)), "without a gap");
    let late = holder.answered(at(150), &answer(40), &cluster, at(160));
    assert_eq!(late, [], "an answer that was overtaken shortens nothing");
    holder.written(leases[0]);
    let leases = holder.answered(at(300), &answer(100), &cluster, at(310));
    assert_eq!(leases[0].since, at(310), "after a gap it begins anew");
    assert_eq!(holder.answered(at(300), &answer(100), &cluster, at(399)), [], "it is over");
}

#[test]
fn holder_extends_only_what_it_has_applied() {
    let mut holder = Holder::new(2);
    assert_eq!(holder.answered(at(100), &answer(100), &Cluster::default(), at(101)), []);
    let mut later = cluster();
    later.apply(&Command::Assign { vip: vip(), after: 1, to: 2 }).unwrap();
    assert_eq!(holder.answered(at(100), &answer(100), &later, at(101)), [], "another epoch");
    let mut other = Holder::new(3);
    assert_eq!(other.answered(at(100), &answer(100), &cluster(), at(101)), [], "not its own");
}

#[test]
fn what_is_given_back_is_never_extended_again() {
    let mut holder = Holder::new(2);
    let cluster = cluster();
    let lease = holder.answered(at(100), &answer(100), &cluster, at(101))[0];
    holder.written(lease);
    let give_back = Answer { granted: Vec::new(), release: vec![held()], ..answer(0) };
    let end = holder.answered(at(110), &give_back, &cluster, at(111));
    assert_eq!(end, [Lease { vip: vip(), since: Boot(0), until: Boot(0), epoch: 1 }]);
    assert_eq!(holder.ask(0).released, [], "the kernel does not know yet");
    assert_eq!(holder.answered(at(109), &answer(100), &cluster, at(112)), [], "a late answer");
    holder.written(end[0]);
    assert_eq!(holder.ask(0).released, [held()]);
    assert_eq!(holder.holding(at(113)).count(), 0);
    assert_eq!(holder.answered(at(114), &answer(100), &cluster, at(115)), []);
}

#[test]
fn what_the_log_gives_to_others_ends() {
    let mut holder = Holder::new(2);
    let mut cluster = cluster();
    let lease = holder.answered(at(100), &answer(100), &cluster, at(101))[0];
    holder.written(lease);
    assert_eq!(holder.applied(&cluster), []);
    cluster.apply(&Command::Assign { vip: vip(), after: 1, to: 3 }).unwrap();
    let ended = holder.applied(&cluster);
    assert_eq!((ended[0].until, ended[0].epoch), (Boot(0), 1));
    holder.written(ended[0]);
    assert_eq!(holder.applied(&cluster), [], "once");
}

#[test]
fn election_asks_first_and_steps_back_for_the_one_it_has_voted_for() {
    let mut election = Election::new(&Timing::default());
    let voters = voters(&[&[1, 2, 3]]);
    assert_eq!(election.canvass(1, at(200), 7, at(199)), None, "the vote is withheld");
    assert_eq!(election.canvass(1, at(200), 30 * MS, at(200)), None, "patience");
    assert_eq!(election.canvass(1, at(200), 0, at(229)), None);
    assert_eq!(election.canvass(1, at(200), 0, at(230)), Some(1));
    assert!(!election.willing(2, 9, &voters), "of another round");
    assert!(election.willing(2, 1, &voters));
    assert!(!election.willing(3, 1, &voters), "a round leads to one candidacy");
    let again = (231..300).find(|ms| election.canvass(1, at(200), 0, at(*ms)).is_some());
    assert_eq!(again, Some(245));
    election.voted(0, at(246));
    assert!(!election.willing(2, 2, &voters), "its round has ended");
    let again = (247..500).find(|ms| election.canvass(1, at(200), 0, at(*ms)).is_some());
    assert_eq!(again, Some(366));
    election.encouraged(0, at(370));
    let again = (370..500).find(|ms| election.canvass(1, at(200), 0, at(*ms)).is_some());
    assert_eq!(again, Some(400));
}

#[test]
fn only_voter_elects_itself() {
    let mut election = Election::new(&Timing::default());
    let alone = voters(&[&[1]]);
    let rounds = (0..100).find_map(|ms| election.canvass(1, at(0), 0, at(ms)));
    assert!(election.willing(1, rounds.unwrap(), &alone));
}

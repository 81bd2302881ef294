//! Real hosts on loopback: openraft, TCP, files.

mod chaos;
mod hosts;
mod proxy;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hosts::{Hosts, LONG, vip};
use kube_vip_quorum::node::{self, Order, OrderError, Receiver, Role, StartError};
use kube_vip_quorum::time::{Clock, SystemClock};
use kube_vip_quorum::transport::{Answering, CallError, Protection, Secret};
use tokio::time::{sleep, timeout};

/// How often a loss or a stop is tried; `KUBE_VIP_LOOPBACK_ROUNDS`.
fn rounds() -> usize {
    let rounds = std::env::var("KUBE_VIP_LOOPBACK_ROUNDS");
    rounds.map_or(5, |rounds| rounds.parse().expect("KUBE_VIP_LOOPBACK_ROUNDS: a number"))
}

/// The value that so many percent do not exceed.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_find_each_other_and_share_the_vips() {
    let mut hosts = Hosts::new(3, 6);
    hosts.start_all().await;
    hosts.settled(3).await;
    let owners: BTreeSet<_> = (1..=6).filter_map(|n| hosts.kernels.owner(vip(n))).collect();
    // Those that joined later take nothing from those that are there: no move without a reason.
    assert!(!owners.is_empty());
    let clusters: BTreeSet<_> =
        hosts.running().iter().map(|name| hosts.standing(name).cluster).collect();
    assert_eq!(clusters.len(), 1);
    let leader = hosts.leader().unwrap();
    for name in hosts.running() {
        hosts.until("without trouble", |it| it.standing(&name).trouble.is_none()).await;
        let standing = hosts.standing(&name);
        assert_eq!(standing.leader, Some(leader.clone()));
        assert_eq!(standing.learners().count(), 0);
        assert_eq!((standing.differing, standing.strangers), (vec![], vec![] as Vec<String>));
    }
}

/// Answers with its name, the sender's and what was said.
struct Parrot(&'static str);

impl Receiver for Parrot {
    fn receive(&self, from: &str, body: Vec<u8>) -> Answering {
        let answer = format!("{} hears {from}: {}", self.0, String::from_utf8_lossy(&body));
        Box::pin(async move { Some(answer.into_bytes()) })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_carry_messages_of_others() {
    let mut hosts = Hosts::new(3, 1);
    hosts.start_all().await;
    hosts.settled(3).await;
    for name in ["n2", "n3"] {
        hosts.node(name).set_receiver(Arc::new(Parrot(name)));
    }
    let post = hosts.node("n1").post();
    hosts.until("all known", |_| post.hosts().len() == 2).await;
    for (number, name) in post.hosts() {
        let answer = post.send(number, b"hello".to_vec(), LONG).await.unwrap();
        assert_eq!(String::from_utf8(answer).unwrap(), format!("{name} hears n1: hello"));
    }
    // To one that has nobody for it, and to nobody.
    let post = hosts.node("n2").post();
    let (n1, _) = post.hosts().into_iter().find(|(_, name)| name == "n1").unwrap();
    let within = Duration::from_millis(300);
    assert_eq!(post.send(n1, vec![], within).await, Err(CallError::Timeout(within)));
    assert_eq!(post.send(1, vec![], within).await, Err(CallError::Broken));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_leader_and_owner_is_replaced_when_its_grant_has_ended() {
    let mut hosts = Hosts::new(3, 1);
    hosts.start_all().await;
    hosts.settled(3).await;
    let mut outages = Vec::new();
    for _ in 0..rounds() {
        let leader = hosts.leader().unwrap();
        let order = Order::Move { vip: vip(1), host: leader.clone() };
        hosts.node(&leader).order(order).await.unwrap();
        hosts.until("moved", |it| it.kernels.owner(vip(1)).as_ref() == Some(&leader)).await;
        sleep(Duration::from_millis(300)).await;
        let lost = SystemClock.now();
        hosts.kill(&leader).await;
        let other = |it: &Hosts| it.kernels.owner(vip(1)).filter(|owner| *owner != leader);
        hosts.until("another owner", |it| other(it).is_some()).await;
        let owner = other(&hosts).unwrap();
        let since = hosts.kernels.since(&owner, vip(1));
        assert!(since >= hosts.kernels.until(&leader, vip(1)), "not before the old grant's end");
        outages.push(since.since(lost));
        hosts.start(&leader).await;
        hosts.settled(3).await;
        hosts
            .until("a leader all follow", |it| {
                it.running().iter().all(|name| it.standing(name).leader == it.leader())
            })
            .await;
    }
    outages.sort_unstable();
    println!("leader and owner lost: outages {outages:?}");
    assert!(percentile(&outages, 50) < Duration::from_millis(1500), "{outages:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planned_stop_hands_over_at_once() {
    let mut hosts = Hosts::new(3, 1);
    hosts.start_all().await;
    hosts.settled(3).await;
    let mut gaps = Vec::new();
    for _ in 0..rounds() {
        let leader = hosts.leader().unwrap();
        let order = Order::Move { vip: vip(1), host: leader.clone() };
        hosts.node(&leader).order(order).await.unwrap();
        hosts.until("moved", |it| it.kernels.owner(vip(1)).as_ref() == Some(&leader)).await;
        let node = hosts.take(&leader);
        let stopping = tokio::spawn(node.stop());
        let mut silent = None;
        let mut gap = Duration::ZERO;
        hosts
            .until("handed over", |it| {
                let now = SystemClock.now();
                match it.kernels.owner(vip(1)) {
                    None => {
                        silent.get_or_insert(now);
                        false
                    }
                    Some(owner) if owner != leader => {
                        gap = silent.map_or(Duration::ZERO, |silent| now.since(silent));
                        true
                    }
                    Some(_) => false,
                }
            })
            .await;
        gaps.push(gap);
        timeout(LONG, stopping).await.unwrap().unwrap();
        // The successor was named, so nobody had to wait for the end of a lease.
        hosts.until("another leader", |it| it.leader().is_some()).await;
        hosts.start(&leader).await;
        hosts.settled(3).await;
    }
    gaps.sort_unstable();
    println!("planned stop: VIP without owner for {gaps:?}");
    assert!(percentile(&gaps, 50) < Duration::from_millis(150), "{gaps:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_are_carried_out_wherever_they_are_given() {
    let mut hosts = Hosts::new(3, 2);
    hosts.start_all().await;
    hosts.settled(3).await;
    for name in hosts.running() {
        for to in ["n1", "n2", "n3"] {
            let order = Order::Move { vip: vip(2), host: to.to_owned() };
            hosts.node(&name).order(order).await.unwrap();
            hosts.until("moved", |it| it.kernels.owner(vip(2)).as_deref() == Some(to)).await;
        }
    }
    let drain = |drained| Order::Drain { host: "n3".to_owned(), drained };
    hosts.node("n1").order(drain(true)).await.unwrap();
    hosts.until("drained", |it| it.kernels.owner(vip(2)).is_some_and(|it| it != "n3")).await;
    let order = Order::Move { vip: vip(2), host: "n3".to_owned() };
    let refused = hosts.node("n2").order(order).await.unwrap_err();
    assert!(refused.to_string().contains("\"n3\" cannot hold a VIP now"), "{refused}");
    let order = Order::Drain { host: "n9".to_owned(), drained: true };
    let refused = hosts.node("n2").order(order).await.unwrap_err();
    assert_eq!(
        refused,
        OrderError::Refused("no host is called \"n9\"; there are n1, n2, n3".to_owned())
    );
    let backend = ([10, 1, 0, 1], 80).into();
    hosts.node("n3").order(Order::Ready { backend, ready: false }).await.unwrap();
    hosts
        .until("known to all", |it| {
            let knows = |name| it.node(name).applied().borrow().cluster.unready.contains(&backend);
            ["n1", "n2", "n3"].into_iter().all(knows)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_without_carrier_gives_its_vip_away() {
    let mut hosts = Hosts::new(3, 1);
    hosts.start_all().await;
    hosts.settled(3).await;
    let owner = hosts.kernels.owner(vip(1)).unwrap();
    hosts.node(&owner).set_fit(false);
    hosts.until("moved", |it| it.kernels.owner(vip(1)).is_some_and(|it| it != owner)).await;
    assert!(hosts.standing(&owner).holding.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_survives_the_restart_of_all_hosts() {
    let mut hosts = Hosts::new(3, 1);
    hosts.start_all().await;
    hosts.settled(3).await;
    let cluster = hosts.standing("n1").cluster;
    let epoch = hosts.node("n1").applied().borrow().cluster.epoch;
    for name in hosts.running() {
        hosts.kill(&name).await;
    }
    hosts.until("silent", |it| it.kernels.owner(vip(1)).is_none()).await;
    hosts.start_all().await;
    hosts.settled(3).await;
    assert_eq!(hosts.standing("n1").cluster, cluster);
    hosts.until("applied", |it| it.node("n1").applied().borrow().cluster.epoch >= epoch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_that_has_lost_its_disk_comes_back_under_another_number() {
    let mut hosts = Hosts::new(3, 1);
    hosts.start_all().await;
    hosts.settled(3).await;
    // n1 may begin clusters: with an empty disk it must join all the same.
    for name in ["n3", "n1"] {
        let old = hosts.node(name).id();
        let cluster = hosts.standing(name).cluster;
        hosts.kill(name).await;
        hosts.lose_disk(name);
        hosts.start(name).await;
        let new = hosts.node(name).id();
        assert_ne!(old, new);
        hosts.until("a voter again", |it| it.standing(name).role >= Role::Voter).await;
        hosts.settled(3).await;
        assert_eq!(hosts.standing(name).cluster, cluster);
        let agreed = Arc::clone(&hosts.node(name).applied().borrow().cluster);
        assert!(agreed.hosts.contains_key(&new) && !agreed.hosts.contains_key(&old));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_with_another_secret_stays_outside_and_says_why() {
    let mut hosts = Hosts::new(3, 1);
    hosts.settings("n3").protection = Protection::Secret(Secret::random().unwrap());
    hosts.start_all().await;
    hosts
        .until("outside", |it| {
            it.standing("n3").trouble.is_some_and(|why| why.contains("does not know the secret"))
        })
        .await;
    hosts.until("two voters", |it| it.standing("n1").voters().eq(["n1", "n2"])).await;
    assert_eq!(hosts.standing("n3").role, Role::Outside);
    assert!(hosts.node("n1").refused() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_with_another_lease_stays_outside_and_says_why() {
    let mut hosts = Hosts::new(2, 1);
    hosts.settings("n2").timing.lease = Duration::from_secs(1);
    hosts.start_all().await;
    hosts
        .until("outside", |it| {
            let trouble = it.standing("n2").trouble;
            trouble.is_some_and(|why| why.contains("n1 has a lease of 180ms, this host one of 1s"))
        })
        .await;
    assert_eq!(hosts.standing("n2").role, Role::Outside);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn minority_owns_nothing() {
    let mut hosts = Hosts::new(3, 1);
    hosts.start_all().await;
    hosts.settled(3).await;
    let leader = hosts.leader().unwrap();
    for name in hosts.running().into_iter().filter(|name| *name != leader) {
        hosts.kill(&name).await;
    }
    hosts.until("silent", |it| it.kernels.owner(vip(1)).is_none()).await;
    for _ in 0..100 {
        sleep(Duration::from_millis(5)).await;
        assert_eq!(hosts.kernels.owner(vip(1)), None);
    }
    let error = hosts.node(&leader).order(Order::Drain { host: "n1".to_owned(), drained: true });
    let error = timeout(Duration::from_secs(2), error).await;
    assert!(!matches!(error, Ok(Ok(()))), "nothing is agreed without a majority");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_host_stays_outside_until_it_is_let_in() {
    let mut hosts = Hosts::new(3, 1);
    hosts.start_all().await;
    hosts.settled(3).await;
    let leader = hosts.leader().unwrap();
    let removed = hosts.running().into_iter().find(|name| *name != leader).unwrap();
    hosts.node(&leader).order(Order::Remove { host: removed.clone() }).await.unwrap();
    hosts.until("two voters", |it| it.standing(&leader).voters().count() == 2).await;
    hosts
        .until("owned by one that stayed", |it| {
            it.kernels.owner(vip(1)).is_some_and(|owner| owner != removed)
        })
        .await;
    hosts
        .until("outside", |it| {
            it.standing(&removed).trouble.is_some_and(|why| why.contains("kube-vip peers add"))
        })
        .await;
    hosts.node(&leader).order(Order::Admit { host: removed.clone() }).await.unwrap();
    hosts.settled(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_that_no_file_named_at_first_joins_when_it_is_named() {
    let mut hosts = Hosts::new(4, 1);
    let fourth = hosts.settings("n4").peers.clone();
    let known = |peers: &[node::Peer]| -> Vec<_> {
        peers.iter().filter(|peer| peer.name != "n4").cloned().collect()
    };
    for name in ["n1", "n2", "n3"] {
        let peers = &mut hosts.settings(name).peers;
        *peers = known(peers);
        hosts.start(name).await;
    }
    hosts.start("n4").await;
    hosts
        .until("outside", |it| {
            it.standing("n4").trouble.is_some_and(|why| why.contains("kube-vip peers add n4"))
        })
        .await;
    let n4 = node::Peer { name: "n4".to_owned(), addresses: vec![hosts.node("n4").address()] };
    for name in ["n1", "n2", "n3"] {
        let mut peers: Vec<_> = fourth.iter().filter(|peer| peer.name != name).cloned().collect();
        peers.push(n4.clone());
        hosts.node(name).set_peers(peers);
    }
    hosts.settled(4).await;
    hosts.until("named by all", |it| it.standing("n1").strangers.is_empty()).await;
    for name in ["n1", "n2", "n3"] {
        hosts.node(name).set_peers(known(&fourth));
    }
    hosts.until("taken note of", |it| it.standing("n1").strangers == ["n4"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn address_that_is_taken_stops_the_start() {
    let mut hosts = Hosts::new(2, 1);
    hosts.start("n1").await;
    hosts.settings("n2").listen = hosts.node("n1").address();
    let error = hosts.try_start("n2").await.unwrap_err();
    assert!(matches!(error, StartError::Listen { .. }), "{error}");
    assert!(error.to_string().contains("`localPeer` must name an address of this host"));
}

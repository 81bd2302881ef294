//! Random faults among real hosts. What happens is not determined by the seed alone: times are
//! real. `tests/simulation` has the same with virtual time.

use std::time::Duration;

use kube_vip_quorum::node::Order;
use tokio::time::{Instant, sleep};

use crate::hosts::{Hosts, vip};
use crate::proxy::{Link, Proxy};

/// Splitmix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect(variable))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_owner_under_random_faults_and_one_again_after_them() {
    let seed = number("KUBE_VIP_LOOPBACK_SEED", 1);
    let length = Duration::from_secs(number("KUBE_VIP_LOOPBACK_SECONDS", 12));
    let mut rng = Rng(seed);
    let mut hosts = Hosts::new(3, 2);
    let mut proxies = Vec::new();
    for name in ["n1", "n2", "n3"] {
        let proxy = Proxy::before(hosts.settings(name).listen).await;
        hosts.reach_at(name, proxy.address);
        proxies.push(proxy);
    }
    hosts.start_all().await;
    hosts.settled(3).await;

    let end = Instant::now() + length;
    let mut faults = [0; 5];
    while Instant::now() < end {
        let at = rng.below(3);
        let name = format!("n{}", at + 1);
        let pause = Duration::from_millis(rng.below(700));
        let fault = rng.below(10);
        faults[(fault / 2) as usize] += 1;
        match fault {
            0..4 => {
                let slow = Link::Slow(Duration::from_millis(rng.below(60)));
                let link = [slow, Link::Stalled, Link::Cut][rng.below(3) as usize];
                proxies[at as usize].set(link);
                sleep(pause).await;
                proxies[at as usize].set(Link::Open);
            }
            4..6 => {
                hosts.kill(&name).await;
                sleep(pause).await;
                hosts.start(&name).await;
            }
            6..8 => {
                hosts.take(&name).stop().await;
                hosts.start(&name).await;
            }
            _ => {
                let order = Order::Move { vip: vip(1 + (pause.as_millis() % 2) as u8), host: name };
                let moving = hosts.node("n1").order(order);
                let _ = tokio::time::timeout(Duration::from_millis(300), moving).await;
            }
        }
        sleep(Duration::from_millis(rng.below(200))).await;
    }
    println!("seed {seed}: {faults:?} links, links, kills, stops, moves");
    hosts.settled(3).await;
}

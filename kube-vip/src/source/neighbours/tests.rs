//! Against the kernel, in namespaces of their own.

use super::*;
use crate::source::testing::{Peer, in_namespace, ip, sysctl, until};
use crate::view::Mac;

/// Generous: what is tested is that things happen at all, on a machine that does much else.
const SOON: Duration = Duration::from_secs(5);
/// More often than in earnest, to wait less.
const OFTEN: Duration = Duration::from_secs(1);
const PEER_MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

/// This host is number 1 of 192.0.2.0/24 and `2001:db8::/64`, the peer number 2.
fn hosts() -> Peer {
    let peer = Peer::new("up0", "far0");
    ip("addr add 192.0.2.1/24 dev up0");
    ip("addr add 2001:db8::1/64 dev up0 nodad");
    peer.ip(&format!("link set far0 address {PEER_MAC}"));
    peer.ip("addr add 192.0.2.2/24 dev far0");
    peer.ip("addr add 2001:db8::2/64 dev far0 nodad");
    peer
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn index() -> u32 {
    ip("-o link show up0").split(':').next().unwrap().parse().unwrap()
}

fn neighbour() -> Hop {
    Hop::Neighbour { mac: PEER_MAC, interface: index() }
}

async fn start(addresses: &[&str]) -> (watch::Sender<BTreeSet<IpAddr>>, watch::Receiver<Hops>) {
    let wanted = addresses.iter().map(|text| address(text)).collect();
    let (sender, receiver) = watch::channel(wanted);
    (sender, follow_with(receiver, EVENT_BUFFER, OFTEN).await.unwrap())
}

#[test]
fn peers_are_resolved_without_any_traffic() {
    in_namespace(|| async {
        let _peer = hosts();
        let all = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "203.0.113.1"];
        let (_wanted, mut hops) = start(&all).await;
        let expected: Hops = all
            .map(address)
            .into_iter()
            .zip([Hop::Here, neighbour(), Hop::Here, neighbour(), Hop::Unreachable])
            .collect();
        until(&mut hops, SOON, |hops| *hops == expected).await;
    });
}

#[test]
fn the_wanted_set_can_change() {
    in_namespace(|| async {
        let _peer = hosts();
        let (wanted, mut hops) = start(&[]).await;
        assert!(hops.borrow().is_empty());
        wanted.send_replace([address("192.0.2.2")].into());
        until(&mut hops, SOON, |hops| hops.get(&address("192.0.2.2")) == Some(&neighbour())).await;
        wanted.send_replace([address("2001:db8::2")].into());
        until(&mut hops, SOON, |hops| {
            hops.len() == 1 && hops.get(&address("2001:db8::2")) == Some(&neighbour())
        })
        .await;
    });
}

#[test]
fn a_peer_that_fails_is_unresolved_and_noticed_when_it_is_back() {
    in_namespace(|| async {
        let peer = hosts();
        let both = [address("192.0.2.2"), address("2001:db8::2")];
        let (_wanted, mut hops) = start(&["192.0.2.2", "2001:db8::2"]).await;
        let known = |hops: &Hops| both.iter().all(|one| hops.get(one) == Some(&neighbour()));
        until(&mut hops, SOON, known).await;

        peer.ip("link set far0 arp off");
        peer.ip("addr flush dev far0");
        // The kernel gives up after three probes of 1 s.
        let gone = Hop::Unresolved { interface: index() };
        until(&mut hops, Duration::from_secs(10), |hops| {
            both.iter().all(|one| hops.get(one) == Some(&gone))
        })
        .await;
        sleep(Duration::from_secs(5)).await;

        peer.ip("link set far0 arp on");
        peer.ip("addr add 192.0.2.2/24 dev far0");
        peer.ip("addr add 2001:db8::2/64 dev far0 nodad");
        let back = Instant::now();
        until(&mut hops, SOON, known).await;
        println!("noticed after {:?}", back.elapsed());
    });
}

#[test]
fn entries_do_not_go_stale() {
    in_namespace(|| async {
        let _peer = hosts();
        let (_wanted, mut hops) = start(&["192.0.2.2", "2001:db8::2"]).await;
        let expected = |hops: &Hops| hops.values().all(|hop| *hop == neighbour());
        until(&mut hops, SOON, expected).await;
        ip("neigh change 192.0.2.2 dev up0 nud stale");
        ip("neigh change 2001:db8::2 dev up0 nud stale");
        hops.mark_unchanged();
        sleep(2 * OFTEN).await;
        for one in ["192.0.2.2", "2001:db8::2"] {
            let entry = ip(&format!("neigh show {one}"));
            assert!(entry.contains("REACHABLE"), "{entry}");
        }
        assert!(!hops.has_changed().unwrap(), "a refresh is not a change");
    });
}

#[test]
fn a_new_hardware_address_is_taken_up() {
    in_namespace(|| async {
        let peer = hosts();
        let (_wanted, mut hops) = start(&["192.0.2.2"]).await;
        until(&mut hops, SOON, |hops| hops.values().eq([&neighbour()])).await;
        peer.run(|| sysctl("net/ipv4/conf/all/arp_notify", "1"));
        peer.run(|| sysctl("net/ipv4/conf/far0/arp_notify", "1"));
        // Past `locktime`, within which the kernel keeps the first answer.
        sleep(Duration::from_millis(1_100)).await;
        peer.ip("link set far0 address 02:00:00:00:00:99");
        let moved = Hop::Neighbour { mac: Mac([2, 0, 0, 0, 0, 0x99]), interface: index() };
        until(&mut hops, SOON, |hops| hops.values().eq([&moved])).await;
    });
}

#[test]
fn a_flushed_entry_is_made_again() {
    in_namespace(|| async {
        let _peer = hosts();
        let (_wanted, mut hops) = start(&["192.0.2.2"]).await;
        until(&mut hops, SOON, |hops| hops.values().eq([&neighbour()])).await;
        ip("neigh del 192.0.2.2 dev up0");
        sleep(Duration::from_millis(50)).await;
        until(&mut hops, SOON, |hops| hops.values().eq([&neighbour()])).await;
        assert!(ip("neigh show 192.0.2.2").contains("REACHABLE"));
    });
}

#[test]
fn permanent_entries_are_left_alone() {
    in_namespace(|| async {
        let _peer = hosts();
        ip("neigh add 192.0.2.5 lladdr 02:00:00:00:00:05 dev up0 nud permanent");
        let (_wanted, hops) = start(&["192.0.2.5"]).await;
        let fixed = Hop::Neighbour { mac: Mac([2, 0, 0, 0, 0, 5]), interface: index() };
        assert!(hops.borrow().values().eq([&fixed]));
        sleep(2 * OFTEN).await;
        assert!(ip("neigh show 192.0.2.5").contains("PERMANENT"));
    });
}

#[test]
fn routes_are_followed() {
    in_namespace(|| async {
        let _peer = hosts();
        let (_wanted, mut hops) = start(&["203.0.113.7", "2001:db8:1::7"]).await;
        let both = |hop: Hop| move |hops: &Hops| hops.values().all(|found| *found == hop);
        assert!(both(Hop::Unreachable)(&hops.borrow()));
        let interface = index();
        let routed = |v4: &str, v6: &str| {
            let known = v4.ends_with(".2").then_some(PEER_MAC);
            let [v4, v6] = [v4, v6].map(address);
            let [v4, v6] =
                [v4, v6].map(|gateway| Hop::Routed { gateway, interface, mac: known, mtu: None });
            move |hops: &Hops| hops.values().eq([&v4, &v6])
        };

        ip("route add default via 192.0.2.2");
        ip("-6 route add default via 2001:db8::2");
        until(&mut hops, SOON, routed("192.0.2.2", "2001:db8::2")).await;
        ip("route replace default via 192.0.2.3");
        ip("-6 route replace default via 2001:db8::3");
        until(&mut hops, SOON, routed("192.0.2.3", "2001:db8::3")).await;
        ip("route add 203.0.113.0/24 dev up0");
        ip("-6 route add 2001:db8:1::/64 dev up0");
        until(&mut hops, SOON, both(Hop::Unresolved { interface })).await;
        ip("addr add 203.0.113.7/32 dev up0");
        ip("addr add 2001:db8:1::7/128 dev up0 nodad");
        until(&mut hops, SOON, both(Hop::Here)).await;
        ip("link set up0 down");
        ip("addr del 203.0.113.7/32 dev up0");
        until(&mut hops, SOON, both(Hop::Unreachable)).await;
    });
}

#[test]
fn a_blackhole_is_no_way() {
    in_namespace(|| async {
        let _peer = hosts();
        ip("route add blackhole 203.0.113.0/24");
        ip("route add unreachable 198.51.100.0/24");
        ip("-6 route add prohibit 2001:db8:1::/64");
        ip("-6 route add blackhole 2001:db8:2::/64");
        let all = ["203.0.113.7", "198.51.100.7", "2001:db8:1::7", "2001:db8:2::7"];
        let (_wanted, hops) = start(&all).await;
        assert!(hops.borrow().values().all(|hop| *hop == Hop::Unreachable), "{hops:?}");
        assert_eq!(hops.borrow().len(), 4);
    });
}

#[test]
fn lost_events_are_repaired() {
    in_namespace(|| async {
        let _peer = hosts();
        let (_wanted, receiver) = watch::channel([address("203.0.113.7")].into());
        let mut hops = follow_with(receiver, 1, OFTEN).await.unwrap();
        // Blocks this thread, and with it the runtime: nobody reads meanwhile.
        for n in 0..50 {
            ip(&format!("addr add 198.51.100.{}/32 dev up0", n + 1));
        }
        ip("route add default via 192.0.2.2");
        let (gateway, interface) = (address("192.0.2.2"), index());
        let routed = Hop::Routed { gateway, interface, mac: Some(PEER_MAC), mtu: None };
        until(&mut hops, SOON, |hops| hops.values().eq([&routed])).await;
    });
}

#[test]
fn many_absent_peers_are_asked_for_in_turn() {
    in_namespace(|| async {
        let _peer = hosts();
        ip("addr add 10.0.0.1/16 dev up0");
        let absent: Vec<String> = (0..200).map(|n| format!("10.0.1.{n}")).collect();
        let mut all: Vec<&str> = absent.iter().map(String::as_str).collect();
        all.push("192.0.2.2");
        let (_wanted, mut hops) = start(&all).await;
        until(&mut hops, SOON, |hops| hops.get(&address("192.0.2.2")) == Some(&neighbour())).await;
    });
}

//! Against the kernel, in namespaces of their own.

use std::time::Duration;

use super::*;
use crate::source::testing::{Peer, in_namespace, ip, sysctl};

const VIPS: [&str; 2] = ["192.0.2.10", "2001:db8::10"];

fn held(interface: &str, addresses: &[&str]) -> BTreeSet<HeldAddress> {
    addresses
        .iter()
        .map(|address| HeldAddress {
            interface: interface.to_owned(),
            address: address.parse().unwrap(),
        })
        .collect()
}

#[track_caller]
fn assert_clean(report: &Report) {
    assert!(report.errors.is_empty(), "{:?}", report.errors);
}

/// The link with its own address of each family.
fn host() -> Peer {
    let peer = Peer::new("up0", "far0");
    ip("addr add 192.0.2.1/24 dev up0");
    ip("addr add 2001:db8::1/64 dev up0 nodad");
    peer
}

/// (prefix length, flags) of an address as the `ip` command tells them.
fn details(address: &str) -> serde_json::Value {
    let output = ip("-j -d addr show dev up0");
    let links: serde_json::Value = serde_json::from_str(&output).unwrap();
    let infos = links[0]["addr_info"].as_array().unwrap();
    infos.iter().find(|info| info["local"] == address).cloned().unwrap_or_default()
}

#[test]
fn vips_are_held_with_these_attributes_and_nothing_besides() {
    in_namespace(|| async {
        let _peer = host();
        // Detection is on for this link, and would take a second.
        sysctl("net/ipv6/conf/up0/accept_dad", "1");
        let routes = [ip("route show"), ip("-6 route show")];
        let mut addresses = Addresses::new("test");
        let desired = held("up0", &VIPS);
        let report = addresses.build(&desired).await;
        assert_clean(&report);
        assert_eq!(report.added.len(), 2);
        for (address, length) in VIPS.into_iter().zip([32, 128]) {
            let info = details(address);
            assert_eq!(info["prefixlen"], length);
            assert_eq!(info["deprecated"], true, "{info}");
            assert_eq!(info["noprefixroute"], true, "{info}");
            assert_eq!(info["tentative"], serde_json::Value::Null, "{info}");
            assert_eq!(info["scope"], "global");
        }
        assert_eq!(details(VIPS[1])["nodad"], true);
        assert_eq!([ip("route show"), ip("-6 route show")], routes, "a route of its own");

        let entries = list(&Requests::open().unwrap()).await.unwrap();
        let marked = entries.iter().filter(|entry| entry.is_marked(addresses.tag)).count();
        assert_eq!(marked, 2);
        assert!(addresses.added.values().all(|marked| *marked));
    });
}

#[test]
fn vips_answer_but_are_never_a_source() {
    in_namespace(|| async {
        let peer = host();
        peer.ip("addr add 192.0.2.2/24 dev far0");
        peer.ip("addr add 2001:db8::2/64 dev far0 nodad");
        assert_clean(&Addresses::new("test").build(&held("up0", &VIPS)).await);
        // As a renewed lease might: the VIP is the first address of the interface now.
        ip("addr del 192.0.2.1/24 dev up0");
        ip("addr add 192.0.2.1/24 dev up0");
        ip("route add default via 192.0.2.2");
        ip("-6 route add default via 2001:db8::2");
        for (there, source) in [
            ("192.0.2.2", "192.0.2.1"),
            ("203.0.113.1", "192.0.2.1"),
            ("2001:db8::2", "2001:db8::1"),
            ("2001:db8:1::2", "2001:db8::1"),
        ] {
            let route = ip(&format!("route get {there}"));
            assert!(route.contains(&format!("src {source} ")), "{route}");
        }
        peer.run(|| {
            for (vip, bind) in [("192.0.2.10", "0.0.0.0:0"), ("2001:db8::10", "[::]:0")] {
                let socket = std::net::UdpSocket::bind(bind).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                socket.connect((vip.parse::<IpAddr>().unwrap(), 9)).unwrap();
                socket.send(b"x").unwrap();
                // Nobody listens there: the answer is an ICMP error from the VIP's host.
                let error = socket.recv(&mut [0; 1]).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{vip}");
            }
        });
    });
}

#[test]
fn building_again_changes_nothing_and_repairs_what_others_changed() {
    in_namespace(|| async {
        let _peer = host();
        let mut addresses = Addresses::new("test");
        let desired = held("up0", &VIPS);
        addresses.build(&desired).await;
        let again = addresses.build(&desired).await;
        assert_clean(&again);
        assert!(again.added.is_empty());

        ip("addr del 192.0.2.10/32 dev up0");
        ip("addr change 2001:db8::10/128 dev up0 preferred_lft forever valid_lft forever");
        let repaired = addresses.build(&desired).await;
        assert_clean(&repaired);
        for address in VIPS {
            assert_eq!(details(address)["deprecated"], true);
        }
        assert!(addresses.build(&desired).await.added.is_empty());
        // The marks are back, too.
        assert_eq!(Addresses::new("test").clear().await.removed.len(), 2);
    });
}

#[test]
fn what_is_not_wanted_is_removed_wherever_it_is() {
    in_namespace(|| async {
        let _peer = host();
        let _other = Peer::new("up1", "far1");
        let mut addresses = Addresses::new("test");
        addresses.build(&held("up0", &VIPS)).await;
        addresses.build(&held("up1", &VIPS)).await;
        let report = addresses.retire(&held("up1", &VIPS[..1])).await;
        assert_clean(&report);
        assert_eq!(report.removed.len(), 3);
        assert!(details(VIPS[0]).is_null() && details(VIPS[1]).is_null());
        assert!(ip("addr show up1").contains("192.0.2.10/32"));
        assert!(!details("192.0.2.1").is_null() && !details("2001:db8::1").is_null());
    });
}

#[test]
fn the_next_start_knows_what_is_left_over() {
    in_namespace(|| async {
        let _peer = host();
        let mut killed = Addresses::new("test");
        killed.build(&held("up0", &["192.0.2.10", "192.0.2.11", "2001:db8::10"])).await;
        drop(killed);

        let mut next = Addresses::new("test");
        let desired = held("up0", &["192.0.2.11"]);
        let built = next.build(&desired).await;
        assert!(built.added.is_empty() && built.foreign.is_empty(), "{built:?}");
        let retired = next.retire(&desired).await;
        assert_clean(&retired);
        assert_eq!(retired.removed.len(), 2);
        assert_eq!(next.clear().await.removed.len(), 1);
    });
}

#[test]
fn another_instance_is_left_alone() {
    in_namespace(|| async {
        let _peer = host();
        let mut one = Addresses::new("control-plane");
        let mut two = Addresses::new("services");
        one.build(&held("up0", &["192.0.2.10"])).await;
        two.build(&held("up0", &["192.0.2.20"])).await;
        let report = one.clear().await;
        assert_eq!(report.removed.len(), 1);
        assert!(details("192.0.2.10").is_null());
        assert!(!details("192.0.2.20").is_null());
    });
}

#[test]
fn what_was_here_before_stays() {
    in_namespace(|| async {
        let _peer = host();
        ip("addr add 192.0.2.10/32 dev up0");
        ip("addr add 2001:db8::10/64 dev up0");
        let mut addresses = Addresses::new("test");
        let desired = held("up0", &VIPS);
        let report = addresses.build(&desired).await;
        assert_clean(&report);
        assert_eq!(report.foreign.len(), 2);
        assert!(report.added.is_empty());
        let report = addresses.clear().await;
        assert_clean(&report);
        assert!(report.removed.is_empty());
        assert!(!details(VIPS[0]).is_null() && !details(VIPS[1]).is_null());

        // Once the other one has taken it away it is ours.
        ip("addr del 192.0.2.10/32 dev up0");
        assert_eq!(addresses.build(&desired).await.added.len(), 1);
        assert_eq!(addresses.clear().await.removed.len(), 1);
    });
}

#[test]
fn every_error_is_collected() {
    in_namespace(|| async {
        let _peer = host();
        let _other = Peer::new("up1", "far1");
        sysctl("net/ipv6/conf/up1/disable_ipv6", "1");
        let mut desired = held("nosuch0", &VIPS);
        desired.extend(held("up1", &["2001:db8::10"]));
        desired.extend(held("up0", &VIPS));
        let report = Addresses::new("test").build(&desired).await;
        assert_eq!(report.added.len(), 2);
        let messages: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
        assert_eq!(messages.len(), 3);
        assert!(messages[0].contains("192.0.2.10 on nosuch0"), "{messages:?}");
        assert!(messages[2].contains("2001:db8::10 on up1"), "{messages:?}");
    });
}

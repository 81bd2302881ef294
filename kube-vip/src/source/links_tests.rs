//! Against the kernel, in namespaces of their own.

use super::*;
use crate::source::testing::{Peer, in_namespace, ip, until};

/// Generous: what is tested is that things happen at all, on a machine that does much else.
const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_snapshot_lists_what_there_is() {
    in_namespace(|| async {
        let _peer = Peer::new("up0", "far0");
        ip("addr flush dev up0");
        ip("link set up0 address 02:00:00:00:00:07 mtu 1400");
        ip("addr add 192.0.2.7/24 dev up0");
        ip("addr add 2001:db8::7/64 dev up0 nodad");
        ip("addr add 198.51.100.1 peer 198.51.100.2 dev up0");
        let links = snapshot().await.unwrap();
        let link = &links["up0"];
        assert_eq!(link.mac.to_string(), "02:00:00:00:00:07");
        assert_eq!(link.mtu, 1400);
        assert!(link.up && link.carrier);
        let addresses: Vec<_> = link.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["192.0.2.7/24", "198.51.100.1/32", "2001:db8::7/64"]);
        assert_eq!(links["lo"].mac, Mac::default());
        assert_eq!(ip("-o link show up0").split(':').next().unwrap(), link.index.to_string());
    });
}

#[test]
fn changes_are_followed() {
    in_namespace(|| async {
        let peer = Peer::new("up0", "far0");
        ip("addr flush dev up0");
        let mut links = follow().await.unwrap();
        assert!(links.borrow()["up0"].carrier);

        ip("addr add 192.0.2.7/24 dev up0");
        until(&mut links, SOON, |links| links["up0"].addresses.len() == 1).await;
        ip("addr del 192.0.2.7/24 dev up0");
        until(&mut links, SOON, |links| links["up0"].addresses.is_empty()).await;
        peer.ip("link set far0 down");
        until(&mut links, SOON, |links| !links["up0"].carrier).await;
        ip("link set up0 down name up1");
        until(&mut links, SOON, |links| links.get("up1").is_some_and(|link| !link.up)).await;
        assert!(!links.borrow().contains_key("up0"));
        ip("link del up1");
        until(&mut links, SOON, |links| !links.contains_key("up1")).await;
    });
}

#[test]
fn the_first_change_goes_out_at_once() {
    in_namespace(|| async {
        let _peer = Peer::new("up0", "far0");
        ip("addr flush dev up0");
        let mut links = follow().await.unwrap();
        sleep(Duration::from_millis(50)).await;
        let started = Instant::now();
        ip("addr add 192.0.2.7/24 dev up0");
        until(&mut links, SOON, |links| links["up0"].addresses.len() == 1).await;
        // Generous: most of it is starting the `ip` command.
        assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    });
}

#[test]
fn lost_events_are_repaired() {
    in_namespace(|| async {
        let _peer = Peer::new("up0", "far0");
        ip("addr flush dev up0");
        // The kernel's least buffer holds a handful of these events.
        let mut links = follow_with(1).await.unwrap();
        let mut probe = Events::open(&GROUPS, 1).unwrap();
        // Blocks this thread, and with it the runtime: nobody reads meanwhile.
        for n in 0..50 {
            ip(&format!("addr add 192.0.2.{}/32 dev up0", n + 1));
        }
        until(&mut links, SOON, |links| links["up0"].addresses.len() == 50).await;
        let mut lost = false;
        while let Ok(Some(event)) =
            tokio::time::timeout(Duration::from_millis(100), probe.next()).await
        {
            lost |= matches!(event, Event::Lost);
        }
        assert!(lost, "the buffer held everything: the test proved nothing");
        ip("addr flush dev up0");
        until(&mut links, SOON, |links| links["up0"].addresses.is_empty()).await;
    });
}

#[test]
fn a_dead_connection_is_opened_again() {
    in_namespace(|| async {
        let _peer = Peer::new("up0", "far0");
        let events = Events::open(&GROUPS, EVENT_BUFFER).unwrap();
        events.kill();
        let (sender, mut links) = watch::channel(Links::new());
        tokio::spawn(run(events, EVENT_BUFFER, sender));
        until(&mut links, 2 * RETRY, |links| links.contains_key("up0")).await;
        sleep(DEBOUNCE * 5).await;
        ip("link del up0");
        until(&mut links, SOON, |links| !links.contains_key("up0")).await;
    });
}

#[test]
fn following_ends_with_its_last_reader() {
    in_namespace(|| async {
        let links = follow().await.unwrap();
        let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        drop(links);
        sleep(Duration::from_millis(50)).await;
        assert!(tokio::runtime::Handle::current().metrics().num_alive_tasks() < before);
    });
}

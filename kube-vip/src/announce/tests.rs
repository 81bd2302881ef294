//! Real frames on a real link, in namespaces of their own.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::*;
use crate::plan::Announcement;
use crate::source::links;
use crate::source::testing::{Peer, in_namespace, ip};
use crate::view::Mac;

const INTERVAL: Duration = Duration::from_millis(500);

/// What came in at the other end: when, and what. Ends when nothing more has come for a second.
fn capture(socket: &mut Socket, start: Instant) -> Vec<(Duration, Vec<u8>)> {
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut frames = Vec::new();
    let mut buffer = [0; 2048];
    while let Ok(length) = socket.read(&mut buffer) {
        frames.push((start.elapsed(), buffer[..length].to_vec()));
    }
    frames
}

fn listen() -> Socket {
    // Unbound: every interface of the namespace, and there is but one besides loopback.
    let everything = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
    Socket::new(Domain::PACKET, Type::RAW, Some(everything)).unwrap()
}

/// (opcode or type, address) of what announces something.
fn announced(frame: &[u8]) -> Option<(u8, IpAddr)> {
    match (&frame[12..14], frame.len()) {
        ([8, 6], 60) => {
            let sender: [u8; 4] = frame[28..32].try_into().unwrap();
            assert_eq!(frame[38..42], sender);
            assert_eq!(frame[6..12], frame[22..28]);
            Some((frame[21], sender.into()))
        }
        ([0x86, 0xdd], 86) if frame[54] == 136 => {
            let target: [u8; 16] = frame[62..78].try_into().unwrap();
            Some((136, target.into()))
        }
        _ => None,
    }
}

async fn announcements(addresses: &[&str]) -> BTreeSet<Announcement> {
    let link = links::snapshot().await.unwrap()["up0"].clone();
    addresses
        .iter()
        .map(|address| Announcement {
            interface: link.index,
            mac: link.mac,
            address: address.parse().unwrap(),
        })
        .collect()
}

#[test]
fn the_other_end_hears_a_burst_and_then_silence() {
    in_namespace(|| async {
        let peer = Peer::new("up0", "far0");
        let desired = announcements(&["192.0.2.10", "2001:db8::10"]).await;
        let mut socket = peer.run(listen);
        let start = Instant::now();
        let reader = std::thread::spawn(move || capture(&mut socket, start));

        let mut announcer = Announcer::new().unwrap();
        announcer.apply(&desired, INTERVAL);
        tokio::time::sleep(Duration::from_millis(3_200)).await;
        announcer.apply(&BTreeSet::new(), INTERVAL);
        let removed = start.elapsed();
        tokio::time::sleep(Duration::from_millis(1_500)).await;

        let heard: Vec<_> = reader
            .join()
            .unwrap()
            .into_iter()
            .filter_map(|(at, frame)| Some((at, announced(&frame)?)))
            .collect();
        let vips: [IpAddr; 2] = ["192.0.2.10".parse().unwrap(), "2001:db8::10".parse().unwrap()];
        for (form, vip) in [(1, vips[0]), (2, vips[0]), (136, vips[1])] {
            let times: Vec<_> =
                heard.iter().filter(|(_, what)| *what == (form, vip)).map(|(at, _)| *at).collect();
            // Seven of the burst and two after it; a busy machine may leave some out.
            assert!((5..=9).contains(&times.len()), "{form}: {times:?}");
            assert!(times[0] < Duration::from_millis(400), "{form}: {times:?}");
            // Longer than a neighbour's locktime.
            assert!(times.last() > Some(&Duration::from_millis(1_500)), "{form}: {times:?}");
        }
        // A capture is a moment later than what it captures.
        assert!(heard.iter().all(|(at, _)| *at < removed + Duration::from_millis(100)));
        let sent = announcer.sent();
        assert_eq!(sent[&vips[0]] + sent[&vips[1]], heard.len() as u64);
    });
}

#[test]
fn a_neighbour_takes_the_new_address_at_once() {
    in_namespace(|| async {
        let peer = Peer::new("up0", "far0");
        peer.ip("addr add 192.0.2.2/24 dev far0");
        peer.ip("addr add 2001:db8::2/64 dev far0 nodad");
        // What the old owner left in the neighbour's cache.
        for vip in ["192.0.2.10", "2001:db8::10"] {
            peer.ip(&format!("neigh add {vip} lladdr 02:00:00:00:00:99 dev far0 nud reachable"));
        }
        let desired = announcements(&["192.0.2.10", "2001:db8::10"]).await;
        let mac = desired.first().unwrap().mac.to_string();
        let mut announcer = Announcer::new().unwrap();
        announcer.apply(&desired, INTERVAL);
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        for vip in ["192.0.2.10", "2001:db8::10"] {
            let entry = peer.ip(&format!("neigh show {vip}"));
            assert!(entry.contains(&mac), "{entry}");
        }
    });
}

#[test]
fn a_link_that_is_down_or_gone_ends_nothing() {
    in_namespace(|| async {
        let peer = Peer::new("up0", "far0");
        let mut desired = announcements(&["192.0.2.10"]).await;
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let address = "192.0.2.99".parse().unwrap();
        desired.insert(Announcement { interface: 4_711, mac, address });
        ip("link set up0 down");
        let mut announcer = Announcer::new().unwrap();
        announcer.apply(&desired, INTERVAL);
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        assert!(announcer.sent().is_empty(), "{:?}", announcer.sent());
        ip("link set up0 up");
        tokio::time::sleep(Duration::from_millis(1_700)).await;
        let sent = announcer.sent();
        assert!(sent[&"192.0.2.10".parse::<IpAddr>().unwrap()] >= 8, "{sent:?}");
        assert_eq!(sent.len(), 1);
        drop(peer);
    });
}

//! ARP (RFC 826, RFC 5227) for VIPs.

use std::net::Ipv4Addr;

use kube_vip_common::address::MacAddress;
use kube_vip_common::event::{ARP_CONFLICT, Event, INTERVAL};
use kube_vip_common::stats::Reason;

use super::cluster::*;
use super::frames::*;
use super::kernel::*;

const ZERO: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

fn request() -> Arp {
    Arp::request((CLIENT, CLIENT4), VIP4)
}

/// A request and its announcing form, RFC 5227 §3: both addresses the same.
fn announcement(by: kube_vip::view::Mac) -> Arp {
    Arp::request((by, VIP4), VIP4)
}

#[test]
fn owner_answers_requests_of_every_form() {
    let mut kernel = Kernel::owning(&held(Frontends::new()));
    let unicast = Arp { to: HOST, ..request() };
    // RFC 5227 §2.1.1: a probe has no sender address.
    let probe = Arp::request((STRANGER, ZERO), VIP4);
    for request in [request(), unicast, probe] {
        let answer = Arp::reply((HOST, VIP4), request.sender);
        kernel.xdp(&request.frame()).transmitted(&answer.frame(), &[Reason::ArpAnswered]);
    }
}

#[test]
fn answer_keeps_what_follows_the_message() {
    let mut kernel = Kernel::owning(&held(Frontends::new()));
    let padding = [0xab; 18];
    let request = [request().frame(), padding.to_vec()].concat();
    let answer = Arp::reply((HOST, VIP4), (CLIENT, CLIENT4)).frame();
    let answer = [answer, padding.to_vec()].concat();
    kernel.xdp(&request).transmitted(&answer, &[Reason::ArpAnswered]);
}

#[test]
fn nobody_but_the_owner_answers() {
    let probe = Arp::request((STRANGER, ZERO), VIP4);
    for desired in [held, elsewhere, nowhere].map(|state| state(Frontends::new())) {
        let mut kernel = Kernel::new(&desired);
        for request in [request(), Arp { to: HOST, ..request() }, probe] {
            kernel.xdp(&request.frame()).dropped(&[Reason::ArpSwallowed]);
        }
    }
}

#[test]
fn owner_falls_silent_when_its_lease_ends() {
    let mut kernel = Kernel::owning(&held(Frontends::new()));
    let answer = Arp::reply((HOST, VIP4), (CLIENT, CLIENT4)).frame();
    kernel.xdp(&request().frame()).transmitted(&answer, &[Reason::ArpAnswered]);
    kernel.let_lease_expire();
    kernel.xdp(&request().frame()).dropped(&[Reason::ArpSwallowed]);
    kernel.own_for(std::time::Duration::from_secs(60));
    kernel.xdp(&request().frame()).transmitted(&answer, &[Reason::ArpAnswered]);
}

#[test]
fn nothing_is_answered_on_an_interface_that_is_no_uplink() {
    let mut kernel = Kernel::owning(&held(Frontends::new()));
    kernel.remove_uplink();
    kernel.xdp(&request().frame()).dropped(&[Reason::ArpSwallowed]);
}

#[test]
fn holder_may_speak_for_the_vip() {
    // While the owner is not known, any agent may be it.
    for desired in [elsewhere, nowhere].map(|state| state(Frontends::new())) {
        let mut kernel = Kernel::new(&desired);
        for message in [
            announcement(PEER),
            Arp::reply((PEER, VIP4), (HOST, HOST4)),
            Arp::reply((PEER, VIP4), (BROADCAST, VIP4)),
            Arp::request((PEER, VIP4), HOST4),
        ] {
            kernel.xdp(&message.frame()).untouched(&message.frame());
        }
        assert_eq!(kernel.events(), []);
    }
}

#[test]
fn own_announcement_that_comes_back_passes() {
    let mut kernel = Kernel::owning(&held(Frontends::new()));
    kernel.xdp(&announcement(HOST).frame()).untouched(&announcement(HOST).frame());
}

#[test]
fn foreign_claim_is_dropped_and_reported() {
    // Held here, a peer's claim is as foreign as a stranger's.
    let (here, there) = (held(Frontends::new()), elsewhere(Frontends::new()));
    for (desired, by) in [(&here, STRANGER), (&here, PEER), (&there, STRANGER), (&there, HOST)] {
        for claim in [
            announcement(by),
            Arp::reply((by, VIP4), (HOST, HOST4)),
            Arp::reply((by, VIP4), (BROADCAST, VIP4)),
            Arp::request((by, VIP4), CLIENT4),
            // The message counts, whoever has sent the frame.
            Arp { from: PEER, ..announcement(by) },
        ] {
            let mut kernel = Kernel::owning(desired);
            let before = kube_vip::dataplane::boot_time();
            kernel.xdp(&claim.frame()).dropped(&[Reason::AddressConflict]);
            let events = kernel.events();
            let [event] = events.as_slice() else { panic!("{events:?}") };
            assert!((before..=kube_vip::dataplane::boot_time()).contains(&event.time));
            let expected = Event {
                time: event.time,
                kind: ARP_CONFLICT,
                ifindex: IFINDEX,
                address: VIP4.into(),
                mac: MacAddress::new(by.0),
                pad: 0,
            };
            assert_eq!(*event, expected);
        }
    }
}

#[test]
fn claims_in_a_row_make_one_event() {
    let mut kernel = Kernel::owning(&held(Frontends::new()));
    let claim = announcement(STRANGER).frame();
    kernel.xdp(&claim).dropped(&[Reason::AddressConflict]);
    for _ in 0..5 {
        kernel.xdp(&claim).dropped(&[Reason::AddressConflict, Reason::EventSuppressed]);
    }
    assert_eq!(kernel.events().len(), 1);
    std::thread::sleep(std::time::Duration::from_nanos(INTERVAL));
    kernel.xdp(&claim).dropped(&[Reason::AddressConflict]);
    assert_eq!(kernel.events().len(), 1);
}

#[test]
fn logging_changes_no_verdict() {
    let logging = kube_vip::plan::DataPlane { logging: true, ..held(Frontends::new()) };
    let mut kernel = Kernel::owning(&logging);
    kernel.xdp(&announcement(STRANGER).frame()).dropped(&[Reason::AddressConflict]);
}

#[test]
fn other_messages_pass_untouched() {
    let mut kernel = Kernel::owning(&held(Frontends::new()));
    let with = |types| Arp { types, ..request() };
    for message in [
        Arp::request((CLIENT, CLIENT4), HOST4),
        Arp::request((CLIENT, ZERO), HOST4),
        Arp::request((STRANGER, CLIENT4), CLIENT4),
        Arp::reply((CLIENT, CLIENT4), (HOST, HOST4)),
        // A reply to the VIP, and operations of RARP and InARP.
        Arp::reply((CLIENT, CLIENT4), (HOST, VIP4)),
        Arp { operation: 3, ..request() },
        Arp { operation: 8, ..request() },
        Arp { operation: 0x0100, ..request() },
        with((6, 0x0800, 6, 4)),
        with((0x0100, 0x0800, 6, 4)),
        with((1, 0x86dd, 6, 4)),
        with((1, 0x0800, 8, 4)),
        with((1, 0x0800, 6, 16)),
    ] {
        kernel.xdp(&message.frame()).untouched(&message.frame());
    }
    for length in 14..42 {
        let short = &request().frame()[..length];
        kernel.xdp(short).untouched(short);
    }
    assert_eq!(kernel.events(), []);
}

#[test]
fn own_addresses_with_balanced_ports_are_the_kernels() {
    let mut kernel = Kernel::owning(&own_addresses(Frontends::new()));
    for message in [request(), announcement(STRANGER), Arp::reply((STRANGER, VIP4), (HOST, HOST4))]
    {
        kernel.xdp(&message.frame()).untouched(&message.frame());
    }
}

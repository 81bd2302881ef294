//! The fence: nothing that names a VIP for caches leaves a host that does not own it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kube_vip_common::stats::Reason;

use super::cluster::*;
use super::frames::*;
use super::kernel::*;
use super::nd::{ADVERTISEMENT, SOLICITATION, message};

const ROUTER_SOLICITATION: u8 = 133;
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// Messages with the VIP as the one that speaks, and why each is fenced.
fn in_the_vips_name() -> Vec<(Vec<u8>, Reason)> {
    let arp = [
        Arp::request((HOST, VIP4), CLIENT4),
        Arp::request((HOST, VIP4), VIP4),
        Arp::reply((HOST, VIP4), (BROADCAST, VIP4)),
        Arp::reply((HOST, VIP4), (CLIENT, CLIENT4)),
        // Whatever address it gives.
        Arp::reply((PEER, VIP4), (CLIENT, CLIENT4)),
    ];
    let of = |kind, target, source: Ipv6Addr| {
        let option = [&[if kind == ADVERTISEMENT { 2 } else { 1 }, 1], HOST.0.as_slice()].concat();
        message(kind, 0x20, target, &option).between(source.into(), ALL_ROUTERS.into()).frame()
    };
    let router = [&[0; 4], [1, 1].as_slice(), &HOST.0].concat();
    let router = Packet::icmp(true, ROUTER_SOLICITATION, 0, &router)
        .between(VIP6.into(), ALL_ROUTERS.into())
        .ttl(255);
    let discovery = [
        of(ADVERTISEMENT, VIP6, VIP6),
        of(ADVERTISEMENT, VIP6, HOST6),
        of(ADVERTISEMENT, HOST6, VIP6),
        of(SOLICITATION, CLIENT6, VIP6),
        router.frame(),
        // Too short to name a target.
        of(ADVERTISEMENT, HOST6, VIP6)[..62].to_vec(),
    ];
    let arp = arp.map(|message| (message.frame(), Reason::ArpFenced));
    arp.into_iter().chain(discovery.map(|frame| (frame, Reason::NdFenced))).collect()
}

#[test]
fn owner_speaks_for_the_vip() {
    let mut kernel = Kernel::owning(&held(Frontends::new()));
    for (frame, _) in in_the_vips_name() {
        kernel.egress(&frame).untouched(&frame);
    }
}

#[test]
fn nobody_else_does() {
    for desired in [held, elsewhere, nowhere] {
        let mut kernel = Kernel::new(&desired(Frontends::new()));
        for (frame, reason) in in_the_vips_name() {
            kernel.egress(&frame).dropped(&[reason]);
        }
    }
}

#[test]
fn nor_does_the_owner_when_its_lease_has_ended() {
    let mut kernel = Kernel::owning(&held(Frontends::new()));
    kernel.let_lease_expire();
    for (frame, reason) in in_the_vips_name() {
        kernel.egress(&frame).dropped(&[reason]);
    }
    kernel.own_for(std::time::Duration::from_secs(60));
    for (frame, _) in in_the_vips_name() {
        kernel.egress(&frame).untouched(&frame);
    }
}

#[test]
fn own_addresses_are_not_fenced() {
    let mut kernel = Kernel::new(&own_addresses(Frontends::new()));
    for (frame, _) in in_the_vips_name() {
        kernel.egress(&frame).untouched(&frame);
    }
}

#[test]
fn others_may_be_named_and_the_vip_asked_for() {
    let mut kernel = Kernel::new(&elsewhere(everywhere(&[At::Pod(1)])));
    let arp = [
        Arp::request((HOST, HOST4), VIP4),
        Arp::request((HOST, Ipv4Addr::UNSPECIFIED), VIP4),
        Arp::reply((HOST, HOST4), (CLIENT, CLIENT4)),
        Arp::reply((HOST, HOST4), (PEER, VIP4)),
    ];
    let of = |kind, target, source: Ipv6Addr, to: Ipv6Addr| {
        message(kind, 0, target, &[]).between(source.into(), IpAddr::V6(to)).frame()
    };
    let discovery = [
        of(SOLICITATION, VIP6, HOST6, VIP6),
        of(SOLICITATION, VIP6, Ipv6Addr::UNSPECIFIED, VIP6),
        of(ADVERTISEMENT, HOST6, HOST6, VIP6),
        of(ADVERTISEMENT, HOST6, HOST6, CLIENT6),
    ];
    // Other messages of the VIP's name nobody for caches.
    let echo = Packet::echo(true, b"1234").between(VIP6.into(), CLIENT6.into()).frame();
    let advertisement = Packet::icmp(true, 134, 0, &[0; 12]).between(VIP6.into(), CLIENT6.into());
    let short = Arp::request((HOST, VIP4), CLIENT4).frame()[..41].to_vec();
    let mut frames: Vec<_> = arp.iter().map(Arp::frame).collect();
    frames.extend(discovery);
    frames.extend([echo, advertisement.frame(), short]);
    for frame in frames {
        kernel.egress(&frame).untouched(&frame);
    }
}

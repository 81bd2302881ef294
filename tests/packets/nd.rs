//! Neighbour discovery (RFC 4861, RFC 4862) for VIPs.

use std::net::{IpAddr, Ipv6Addr};

use kube_vip::view::Mac;
use kube_vip_common::address::MacAddress;
use kube_vip_common::event::{Event, ND_CONFLICT};
use kube_vip_common::stats::Reason;

use super::cluster::*;
use super::frames::*;
use super::kernel::*;

pub(crate) const SOLICITATION: u8 = 135;
pub(crate) const ADVERTISEMENT: u8 = 136;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
/// The VIP's solicited-node group (RFC 4291 §2.7.1), and its Ethernet address (RFC 2464 §7).
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0x100);
const GROUP_MAC: Mac = Mac([0x33, 0x33, 0xff, 0, 0x01, 0]);

/// Flags of an advertisement.
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// A link-layer address option: 1 is the source's, 2 the target's.
fn link_layer(kind: u8, mac: Mac) -> Vec<u8> {
    [&[kind, 1], mac.0.as_slice()].concat()
}

/// RFC 3971 §5.3.2, as Linux adds to its duplicate address detection (RFC 7527).
fn nonce() -> Vec<u8> {
    vec![14, 1, 1, 2, 3, 4, 5, 6]
}

/// A message with its flags, target and options.
pub(crate) fn message(kind: u8, flags: u8, target: Ipv6Addr, options: &[u8]) -> Packet {
    let rest = [&[flags, 0, 0, 0], target.octets().as_slice(), options].concat();
    Packet::icmp(true, kind, 0, &rest).ttl(255)
}

/// A client's solicitation as it is sent first, to the group.
pub(crate) fn solicitation(options: &[u8]) -> Packet {
    message(SOLICITATION, 0, VIP6, options)
        .between(CLIENT6.into(), GROUP.into())
        .link(CLIENT, GROUP_MAC)
}

/// A probe of duplicate address detection.
fn probe(options: &[u8]) -> Packet {
    solicitation(options).between(Ipv6Addr::UNSPECIFIED.into(), GROUP.into())
}

fn advertisement(flags: u8, to: Mac, destination: impl Into<IpAddr>) -> Packet {
    message(ADVERTISEMENT, flags, VIP6, &link_layer(2, HOST))
        .between(VIP6.into(), destination.into())
        .link(HOST, to)
}

#[test]
fn owner_answers_solicitations_of_every_form() {
    let mut kernel = Kernel::owning(&held(Frontends::new()));
    let source = link_layer(1, CLIENT);
    let unicast = |options: &[u8]| {
        solicitation(options).between(CLIENT6.into(), VIP6.into()).link(CLIENT, HOST)
    };
    let answer = advertisement(SOLICITED | OVERRIDE, CLIENT, CLIENT6);
    let other = advertisement(SOLICITED | OVERRIDE, STRANGER, CLIENT6);
    let to_all = advertisement(OVERRIDE, ALL_NODES_MAC, ALL_NODES);
    for (request, answer) in [
        (solicitation(&source), &answer),
        (solicitation(&[nonce(), source.clone()].concat()), &answer),
        (solicitation(&[source.clone(), nonce(), nonce()].concat()), &answer),
        // An unknown option of two units before it.
        (solicitation(&[&[200, 2], [1; 14].as_slice(), &source].concat()), &answer),
        // What lies within an option is not one.
        (
            solicitation(
                &[&[200, 2, 0, 0, 0, 0, 0, 0], link_layer(1, STRANGER).as_slice(), &source]
                    .concat(),
            ),
            &answer,
        ),
        (unicast(&source), &answer),
        // RFC 4861 §4.3: to a unicast address the option may be left out.
        (unicast(&[]), &answer),
        // The option counts, not who has sent the frame.
        (solicitation(&link_layer(1, STRANGER)), &other),
        (probe(&[]), &to_all),
        (probe(&nonce()), &to_all),
        // As many options as are looked at.
        (solicitation(&[source.clone(), nonce().repeat(7)].concat()), &answer),
    ] {
        let answer = answer.frame();
        assert_eq!(answer.len(), 86);
        kernel.xdp(&request.frame()).transmitted(&answer, &[Reason::NdAnswered]);
        // What follows the packet is padding.
        let padded = [request.frame(), vec![0xab; 9]].concat();
        kernel.xdp(&padded).transmitted(&answer, &[Reason::NdAnswered]);
    }
}

#[test]
fn nobody_but_the_owner_answers() {
    for desired in [held, elsewhere, nowhere].map(|state| state(Frontends::new())) {
        let mut kernel = Kernel::new(&desired);
        for request in [solicitation(&link_layer(1, CLIENT)), probe(&nonce())] {
            kernel.xdp(&request.frame()).dropped(&[Reason::NdSwallowed]);
        }
    }
    let mut kernel = Kernel::owning(&held(Frontends::new()));
    kernel.let_lease_expire();
    kernel.xdp(&probe(&[]).frame()).dropped(&[Reason::NdSwallowed]);
    kernel.own_for(std::time::Duration::from_secs(60));
    kernel.remove_uplink();
    kernel.xdp(&probe(&[]).frame()).dropped(&[Reason::NdSwallowed]);
}

#[test]
fn invalid_solicitations_are_swallowed() {
    // RFC 4861 §7.1.1, RFC 4862 §5.4.3.
    let mut kernel = Kernel::owning(&held(Frontends::new()));
    let good = solicitation(&link_layer(1, CLIENT));
    let code = Segment::Icmp { kind: SOLICITATION, code: 1 };
    let mut bad_checksum = good.frame();
    bad_checksum[56] ^= 1;
    let mut too_long = good.frame();
    too_long[19] += 8;
    let mut odd_length = [good.frame(), vec![0; 8]].concat();
    odd_length[19] += 4;
    let invalid = [
        good.clone().ttl(254).frame(),
        good.clone().ttl(64).frame(),
        Packet { segment: code, ..good.clone() }.frame(),
        bad_checksum,
        too_long,
        odd_length,
        // An option of no length; one that reaches beyond the packet; more than are looked at.
        solicitation(&[1, 0, 2, 0, 0, 0, 0, 0xc1]).frame(),
        solicitation(&[1, 2, 2, 0, 0, 0, 0, 0xc1]).frame(),
        solicitation(&nonce().repeat(9)).frame(),
        // A probe names no sender and goes to the group.
        probe(&link_layer(1, CLIENT)).frame(),
        probe(&[]).between(Ipv6Addr::UNSPECIFIED.into(), VIP6.into()).frame(),
        probe(&[]).between(Ipv6Addr::UNSPECIFIED.into(), ALL_NODES.into()).frame(),
    ];
    for frame in invalid {
        kernel.xdp(&frame).dropped(&[Reason::NdSwallowed]);
    }
    for end in 78..86 {
        kernel.xdp(&good.frame()[..end]).dropped(&[Reason::NdSwallowed]);
    }
    // Too short to name a target: it is for nobody.
    for end in 14..78 {
        let short = &good.frame()[..end];
        kernel.xdp(short).untouched(short);
    }
}

fn unsolicited(by: Mac) -> Packet {
    message(ADVERTISEMENT, OVERRIDE, VIP6, &link_layer(2, by))
        .between(VIP6.into(), ALL_NODES.into())
        .link(by, ALL_NODES_MAC)
}

/// What only the holder of the VIP may say.
fn claims(by: Mac) -> Vec<Packet> {
    let bare = message(ADVERTISEMENT, SOLICITED, VIP6, &[]);
    let asking = message(SOLICITATION, 0, HOST6, &link_layer(1, by));
    vec![
        unsolicited(by),
        unsolicited(by).between(CLIENT6.into(), ALL_NODES.into()),
        bare.between(VIP6.into(), HOST6.into()).link(by, HOST),
        // Asks in the VIP's name: its neighbour would take that for the VIP's address.
        asking.between(VIP6.into(), HOST6.into()).link(by, HOST),
    ]
}

#[test]
fn holder_may_speak_for_the_vip() {
    for desired in [elsewhere, nowhere].map(|state| state(Frontends::new())) {
        let mut kernel = Kernel::new(&desired);
        for message in claims(PEER) {
            kernel.xdp(&message.frame()).untouched(&message.frame());
        }
        assert_eq!(kernel.events(), []);
    }
    let mut kernel = Kernel::owning(&held(Frontends::new()));
    kernel.xdp(&unsolicited(HOST).frame()).untouched(&unsolicited(HOST).frame());
}

#[test]
fn foreign_claim_is_dropped_and_reported() {
    let (here, there) = (held(Frontends::new()), elsewhere(Frontends::new()));
    for (desired, by) in [(&here, STRANGER), (&here, PEER), (&there, STRANGER), (&there, HOST)] {
        let asking = message(SOLICITATION, 0, HOST6, &link_layer(1, by));
        let options_count = [
            unsolicited(by).link(PEER, ALL_NODES_MAC),
            asking.between(VIP6.into(), HOST6.into()).link(PEER, HOST),
        ];
        for claim in claims(by).into_iter().chain(options_count) {
            let mut kernel = Kernel::owning(desired);
            kernel.xdp(&claim.frame()).dropped(&[Reason::AddressConflict]);
            let events = kernel.events();
            let [Event { time, .. }] = events[..] else { panic!("{events:?}") };
            let expected = Event {
                time,
                kind: ND_CONFLICT,
                ifindex: IFINDEX,
                address: VIP6.into(),
                mac: MacAddress::new(by.0),
                pad: 0,
            };
            assert_eq!(events, [expected]);
        }
    }
}

#[test]
fn claims_in_a_row_make_one_event() {
    let mut kernel = Kernel::owning(&held(Frontends::new()));
    let claim = unsolicited(STRANGER).frame();
    kernel.xdp(&claim).dropped(&[Reason::AddressConflict]);
    kernel.xdp(&claim).dropped(&[Reason::AddressConflict, Reason::EventSuppressed]);
    assert_eq!(kernel.events().len(), 1);
    // Each kind has its own measure.
    let arp = Arp::request((STRANGER, VIP4), VIP4).frame();
    kernel.xdp(&arp).dropped(&[Reason::AddressConflict]);
    assert_eq!(kernel.events().len(), 1);
}

#[test]
fn other_messages_pass_untouched() {
    let mut kernel = Kernel::owning(&held(Frontends::new()));
    let about = |kind, target, source| {
        message(kind, 0, target, &link_layer(1, CLIENT)).between(source, HOST6.into()).frame()
    };
    let router = Packet::icmp(true, 134, 0, &[0; 12]).between(CLIENT6.into(), ALL_NODES.into());
    for frame in [
        about(SOLICITATION, HOST6, CLIENT6.into()),
        about(SOLICITATION, HOST6, Ipv6Addr::UNSPECIFIED.into()),
        about(ADVERTISEMENT, CLIENT6, CLIENT6.into()),
        about(ADVERTISEMENT, HOST6, CLIENT6.into()),
        router.frame(),
    ] {
        kernel.xdp(&frame).untouched(&frame);
    }
}

#[test]
fn own_addresses_with_balanced_ports_are_the_kernels() {
    let mut kernel = Kernel::owning(&own_addresses(Frontends::new()));
    for message in [solicitation(&[]), probe(&[]), unsolicited(STRANGER)] {
        kernel.xdp(&message.frame()).untouched(&message.frame());
    }
}

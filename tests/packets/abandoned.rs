//! What no agent has touched for long lets everything pass, as if it were not there.

use std::time::Duration;

use kube_vip::dataplane::boot_time;
use kube_vip_common::stats::Reason;

use super::cluster::*;
use super::frames::*;
use super::kernel::*;

const LIMIT: u32 = 3600;

fn now() -> u32 {
    (boot_time() / 1_000_000_000) as u32
}

fn desired() -> kube_vip::plan::DataPlane {
    let desired = held(everywhere(&[At::Host, At::Pod(1), At::Peer]));
    kube_vip::plan::DataPlane { abandoned_after: Duration::from_secs(LIMIT.into()), ..desired }
}

#[test]
fn everything_passes_once_nobody_has_been_there_for_long() {
    let mut kernel = Kernel::owning(&desired());
    let request = Arp::request((CLIENT, CLIENT4), VIP4).frame();
    let claim = Arp::request((STRANGER, VIP4), VIP4).frame();
    let spoken = Arp::reply((HOST, VIP4), (CLIENT, CLIENT4)).frame();
    let answer = Arp::reply((HOST, VIP4), (CLIENT, CLIENT4)).frame();
    let ping = Packet::icmp(false, 8, 0, &[0; 8]).between(CLIENT4.into(), VIP4.into()).frame();

    kernel.set_clock(now() - LIMIT + 60);
    kernel.xdp(&request).transmitted(&answer, &[Reason::ArpAnswered]);
    // Whoever is quicker than the next ARP still meets it.
    kernel.set_clock(now() - LIMIT - 1);
    assert_eq!(kernel.xdp(&ping).verdict, Verdict::Transmit);
    kernel.xdp(&request).passed(&request, &[]);
    kernel.xdp(&claim).passed(&claim, &[]);
    kernel.xdp(&ping).passed(&ping, &[]);
    // The owner's deadline does not matter any more, in either direction.
    kernel.let_lease_expire();
    kernel.egress(&spoken).untouched(&spoken);

    // An agent comes back.
    kernel.set_clock(now());
    kernel.own_for(Duration::from_secs(60));
    kernel.apply(&desired());
    kernel.xdp(&request).transmitted(&answer, &[Reason::ArpAnswered]);
    assert_eq!(kernel.xdp(&ping).verdict, Verdict::Transmit);
}

#[test]
fn neighbour_discovery_notices_too() {
    let mut kernel = Kernel::owning(&desired());
    kernel.set_clock(now() - LIMIT - 1);
    let asked = super::nd::solicitation(&[]).frame();
    kernel.xdp(&asked).passed(&asked, &[]);
    let ping = Packet::icmp(true, 128, 0, &[0; 8]).between(CLIENT6.into(), VIP6.into()).frame();
    kernel.xdp(&ping).passed(&ping, &[]);
}

#[test]
fn without_a_limit_or_before_the_first_agent_nothing_is_abandoned() {
    let request = Arp::request((CLIENT, CLIENT4), VIP4).frame();
    let answer = Arp::reply((HOST, VIP4), (CLIENT, CLIENT4)).frame();
    let mut never = Kernel::owning(&held(Frontends::new()));
    never.set_clock(1);
    never.xdp(&request).transmitted(&answer, &[Reason::ArpAnswered]);
    let mut fresh = Kernel::owning(&desired());
    fresh.xdp(&request).transmitted(&answer, &[Reason::ArpAnswered]);
}

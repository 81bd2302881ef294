//! Every branch of the kernel programs: packet in, verdict and packet out.

mod frames;
mod kernel;

use frames::*;
use kernel::*;
use kube_vip::plan::Way;
use kube_vip_common::frontend::Protocol;

#[test]
fn smoke() {
    let here = ("10.0.0.1:8080".parse().unwrap(), "host", Way::Here);
    let frontends = Frontends::from([((VIP4.into(), 80, Protocol::Tcp), frontend(&[here]))]);
    let mut kernel = Kernel::new(&desired(true, frontends), true);
    let outcome = kernel.xdp(&Packet::tcp(false, (40000, 80), SYN, b"").frame());
    println!("{outcome:?} {:?}", parse(&outcome.frame));
    let arp = arp(BROADCAST, CLIENT, 1, (CLIENT, CLIENT4), (Mac::default(), VIP4));
    println!("{:?}", kernel.xdp(&arp));
}
use kube_vip::view::Mac;

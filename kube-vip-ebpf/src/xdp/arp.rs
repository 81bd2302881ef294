//! ARP (RFC 826, RFC 5227) for VIPs. The kernel's own responder never sees a request for one.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::address::Address;
use kube_vip_common::event::ARP_CONFLICT;
use kube_vip_common::stats::Reason;
use kube_vip_common::vip::VIRTUAL;
use network_types::arp::ArpHdr;
use network_types::eth::EthHdr;

use super::{Action, nd};
use crate::family::{Family as _, V4};
use crate::frame::Cursor;
use crate::{count, event, maps, ownership, stage};

/// Hardware type Ethernet, protocol IPv4, six and four bytes (RFC 826).
const ETHERNET_IPV4: ([u8; 2], [u8; 2], u8, u8) = ([0, 1], [8, 0], 6, 4);
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];

#[inline(always)]
pub(crate) fn handle(ctx: XdpContext) -> Action {
    let mut cursor = Cursor::new(&ctx);
    let (Some(ethernet), Some(arp)) = (cursor.take::<EthHdr>(), cursor.take::<ArpHdr>()) else {
        return Action::Pass;
    };
    if (arp.htype, arp.ptype, arp.hlen, arp.plen) != ETHERNET_IPV4 {
        return Action::Pass;
    }
    // A sender that names a VIP as its own claims it, whatever the message is: a reply, an
    // announcement (RFC 5227 §1.1: request with both addresses equal), a request for somebody else.
    if let Some(vip) = maps::vip(&V4::address(arp.spa)).filter(|vip| vip.flags & VIRTUAL != 0) {
        if nd::is_legitimate(vip, arp.sha) || stage::abandoned() != 0 {
            return Action::Pass;
        }
        event::conflict(&ctx, ARP_CONFLICT, Address::from_v4(arp.spa), arp.sha);
        return Action::Drop;
    }
    if arp.oper != REQUEST {
        return Action::Pass;
    }
    let Some(vip) = maps::vip(&V4::address(arp.tpa)).filter(|vip| vip.flags & VIRTUAL != 0) else {
        return Action::Pass;
    };
    if stage::abandoned() != 0 {
        return Action::Pass;
    }
    let own = maps::own_mac(ctx.ingress_ifindex() as u32);
    let (true, Some(own)) = (ownership::owned(vip), own) else {
        count::reason(Reason::ArpSwallowed);
        return Action::Drop;
    };
    // A probe (sender 0.0.0.0, RFC 5227 §2.1.1) is answered like any request: that is how somebody
    // else's duplicate address detection learns that the address is taken.
    arp.oper = REPLY;
    (arp.tha, arp.tpa, arp.sha, arp.spa) = (arp.sha, arp.spa, own, arp.tpa);
    ethernet.dst_addr = arp.tha;
    ethernet.src_addr = own;
    count::reason(Reason::ArpAnswered);
    Action::Transmit
}

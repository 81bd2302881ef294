//! Neighbour discovery (RFC 4861) for VIPs. The kernel's own responder never sees a solicitation
//! for one.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::address::Address;
use kube_vip_common::event::ND_CONFLICT;
use kube_vip_common::stats::Reason;
use kube_vip_common::vip::{VIRTUAL, Vip};
use network_types::eth::EthHdr;
use network_types::ip::Ipv6Hdr;

use super::Action;
use crate::family::{Family as _, V6, protocol};
use crate::frame::{Cursor, Word};
use crate::{count, event, helpers, maps, ownership};

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Options (RFC 4861 §4.6.1), each eight bytes long on Ethernet.
const SOURCE_LINK_LAYER: [u8; 2] = [1, 1];
const TARGET_LINK_LAYER: [u8; 2] = [2, 1];
/// Flags of an advertisement (RFC 4861 §4.4).
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

const UNSPECIFIED: [u8; 16] = [0; 16];
/// ff02::1, and its Ethernet address (RFC 2464 §7).
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// Prefix of solicited-node multicast addresses, ff02::1:ff00:0/104 (RFC 4291 §2.7.1).
const SOLICITED_NODE: [u8; 13] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];

/// Most options, in units of eight bytes, that are looked at: senders use one or two.
const OPTIONS: usize = 8;


/// Whether the packet is one of the two messages that name a target.
#[inline(always)]
pub(super) fn is_solicitation_or_advertisement(ctx: &XdpContext) -> bool {
    let mut cursor = Cursor::new(ctx);
    let _ethernet = cursor.take::<EthHdr>();
    let icmp = cursor.take::<Ipv6Hdr>().is_some_and(|ip| ip.next_hdr == protocol::ICMPV6);
    icmp && matches!(cursor.peek::<u8>(), Some(SOLICITATION | ADVERTISEMENT))
}

#[inline(never)]
pub(super) fn handle(ctx: &mut XdpContext) -> Action {
    let mut cursor = Cursor::new(ctx);
    let (Some(ethernet), Some(ip)) = (cursor.take::<EthHdr>(), cursor.take::<Ipv6Hdr>()) else {
        return Action::Pass;
    };
    let (Some(head), Some(target)) = (cursor.take::<[Word; 2]>(), cursor.take::<[u8; 16]>()) else {
        return Action::Pass;
    };
    let kind = head[0][0];
    // The link-layer address that the neighbours' caches would take.
    let claimed = match cursor.peek::<[u8; 8]>() {
        Some([a, b, mac @ ..]) if kind == ADVERTISEMENT && [a, b] == TARGET_LINK_LAYER => mac,
        _ => ethernet.src_addr,
    };
    let named = if kind == ADVERTISEMENT { *target } else { ip.src_addr };
    if let Some(vip) = virtual_ip(named) {
        if is_legitimate(vip, claimed) {
            return Action::Pass;
        }
        event::conflict(ctx, ND_CONFLICT, Address(named), claimed);
        return Action::Drop;
    }
    if kind == ADVERTISEMENT {
        return Action::Pass;
    }
    let Some(vip) = virtual_ip(*target) else {
        return Action::Pass;
    };
    let (ip, head, target) = (*ip, *head, *target);
    let own = maps::own_mac(ctx.ingress_ifindex() as u32);
    let (Some(asker), true, Some(own)) =
        (asker(ethernet.src_addr, &ip, head, target, &mut cursor), ownership::owned(vip), own)
    else {
        count::reason(Reason::NdSwallowed);
        return Action::Drop;
    };
    match advertise(ctx, own, ip.src_addr, target, asker) {
        Some(()) => {
            count::reason(Reason::NdAnswered);
            Action::Transmit
        }
        None => {
            count::reason(Reason::NdSwallowed);
            Action::Drop
        }
    }
}

#[inline(always)]
fn virtual_ip(address: [u8; 16]) -> Option<&'static Vip> {
    maps::vip(&V6::address(address)).filter(|vip| vip.flags & VIRTUAL != 0)
}

/// Whether that Ethernet address may speak for the VIP: the owner's, or while the owner is not
/// known any agent's.
#[inline(always)]
pub(super) fn is_legitimate(vip: &Vip, mac: [u8; 6]) -> bool {
    maps::peer(mac).is_some_and(|node| vip.owner == 0 || vip.owner == node)
}

/// The Ethernet address of who asks, if the solicitation is valid (RFC 4861 §7.1.1).
#[inline(always)]
fn asker(
    sender: [u8; 6],
    ip: &Ipv6Hdr,
    head: [Word; 2],
    target: [u8; 16],
    cursor: &mut Cursor<'_>,
) -> Option<[u8; 6]> {
    let length = V6::payload_length(ip);
    if ip.hop_limit != 255 || head[0][1] != 0 || length < 24 || length % 8 != 0 {
        return None;
    }
    let mut sum = V6::pseudo(ip.src_addr, ip.dst_addr, protocol::ICMPV6, length);
    for word in head.into_iter().chain(crate::family::words(target)) {
        sum = sum.add(u32::from_ne_bytes(word));
    }
    let mut link_layer = None;
    let mut inside = 0;
    for unit in 0..OPTIONS {
        if 24 + unit as u16 * 8 >= length {
            break;
        }
        let [first, second] = cursor.take::<[Word; 2]>()?;
        sum = sum.add(u32::from_ne_bytes(*first)).add(u32::from_ne_bytes(*second));
        if inside > 0 {
            inside -= 1;
            continue;
        }
        let [kind, units, a, b] = *first;
        let [c, d, e, f] = *second;
        if [kind, units] == SOURCE_LINK_LAYER {
            link_layer = Some([a, b, c, d, e, f]);
        }
        inside = units.checked_sub(1)?;
    }
    let too_long = usize::from(length) > 24 + OPTIONS * 8;
    if too_long || inside != 0 || sum.checksum() != 0 {
        return None;
    }
    if ip.src_addr == UNSPECIFIED {
        // Duplicate address detection (RFC 4862 §5.4): to the group, and without an address to
        // answer to.
        let to_group = ip.dst_addr.first_chunk() == Some(&SOLICITED_NODE);
        return (to_group && link_layer.is_none()).then_some(ALL_NODES_MAC);
    }
    Some(link_layer.unwrap_or(sender))
}

/// Makes the frame the advertisement that answers it (RFC 4861 §7.2.4).
#[inline(always)]
fn advertise(
    ctx: &mut XdpContext,
    own: [u8; 6],
    source: [u8; 16],
    target: [u8; 16],
    asker: [u8; 6],
) -> Option<()> {
    /// The message with its one option.
    const LENGTH: usize = 32;
    let unspecified = source == UNSPECIFIED;
    let destination = if unspecified { ALL_NODES } else { source };
    let flags = if unspecified { OVERRIDE } else { SOLICITED | OVERRIDE };

    helpers::set_length(ctx, (size_of::<EthHdr>() + size_of::<Ipv6Hdr>() + LENGTH) as u64)?;
    let mut cursor = Cursor::new(ctx);
    let ethernet = cursor.take::<EthHdr>()?;
    let ip = cursor.take::<Ipv6Hdr>()?;
    let message = cursor.take::<[Word; LENGTH / 4]>()?;
    (ethernet.dst_addr, ethernet.src_addr) = (asker, own);
    V6::write(ip, target, destination, protocol::ICMPV6, LENGTH as u16);
    ip.hop_limit = 255;
    let [t0, t1, t2, t3] = crate::family::words(target);
    let [a, b, c, d, e, f] = own;
    let [kind, units] = TARGET_LINK_LAYER;
    let rest = [[flags, 0, 0, 0], t0, t1, t2, t3, [kind, units, a, b], [c, d, e, f]];
    let mut sum = V6::pseudo(target, destination, protocol::ICMPV6, LENGTH as u16)
        .add(u32::from_ne_bytes([ADVERTISEMENT, 0, 0, 0]));
    for word in rest {
        sum = sum.add(u32::from_ne_bytes(word));
    }
    let [c0, c1] = sum.checksum().to_ne_bytes();
    let [r0, r1, r2, r3, r4, r5, r6] = rest;
    *message = [[ADVERTISEMENT, 0, c0, c1], r0, r1, r2, r3, r4, r5, r6];
    Some(())
}

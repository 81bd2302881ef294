//! Neighbour discovery (RFC 4861) for VIPs. The kernel's own responder never sees a solicitation
//! for one.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::event::ND_CONFLICT;
use kube_vip_common::stats::Reason;
use kube_vip_common::vip::{VIRTUAL, Vip};
use network_types::eth::EthHdr;
use network_types::ip::Ipv6Hdr;

use super::Action;
use crate::family::{Family as _, Halves, V6, protocol};
use crate::frame::{Both, Cursor, Word};
use crate::{count, event, helpers, maps, ownership, stage};

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Options (RFC 4861 §4.6.1), each eight bytes long on Ethernet.
const SOURCE_LINK_LAYER: [u8; 2] = [1, 1];
const TARGET_LINK_LAYER: [u8; 2] = [2, 1];
/// Flags of an advertisement (RFC 4861 §4.4).
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

const UNSPECIFIED: [u8; 16] = [0; 16];
/// `ff02::1`, and its Ethernet address (RFC 2464 §7).
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// Prefix of solicited-node multicast addresses, `ff02::1:ff00:0/104` (RFC 4291 §2.7.1).
const SOLICITED_NODE: [u8; 13] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];

/// Most options, in units of eight bytes, that are looked at: senders use one or two.
const OPTIONS: usize = 8;

/// Whether the packet is one of the two messages that name a target.
#[inline(always)]
pub(super) fn is_solicitation_or_advertisement(cursor: &Cursor<'_>) -> bool {
    let packet = cursor.peek::<Both<Ipv6Hdr, u8>>();
    packet.is_some_and(|Both(ip, kind)| {
        ip.next_hdr == protocol::ICMPV6 && matches!(kind, SOLICITATION | ADVERTISEMENT)
    })
}

#[inline(always)]
pub(crate) fn handle(ctx: XdpContext) -> Action {
    let mut cursor = Cursor::new(&ctx);
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
        Some([a, b, mac @ ..]) if kind == SOLICITATION && [a, b] == SOURCE_LINK_LAYER => mac,
        _ => ethernet.src_addr,
    };
    let named = if kind == ADVERTISEMENT { Halves::of(target) } else { V6::source(ip) };
    if let Some(vip) = virtual_ip(named) {
        if is_legitimate(vip, claimed) || stage::abandoned() != 0 {
            return Action::Pass;
        }
        event::conflict(&ctx, ND_CONFLICT, V6::address(named), claimed);
        return Action::Drop;
    }
    if kind == ADVERTISEMENT {
        return Action::Pass;
    }
    let Some(vip) = virtual_ip(Halves::of(target)) else {
        return Action::Pass;
    };
    if stage::abandoned() != 0 {
        return Action::Pass;
    }
    let own = maps::own_mac(ctx.ingress_ifindex() as u32);
    let owned = ownership::owned(vip);
    let asker = asker(XdpContext::new(ctx.ctx));
    let answered = match own {
        Some(own) if owned && asker != INVALID => advertise(ctx, Packed::new(own), asker),
        _ => None,
    };
    if answered.is_none() {
        count::reason(Reason::NdSwallowed);
        return Action::Drop;
    }
    count::reason(Reason::NdAnswered);
    Action::Transmit
}

#[inline(always)]
fn virtual_ip(address: Halves) -> Option<&'static Vip> {
    maps::vip(&V6::address(address)).filter(|vip| vip.flags & VIRTUAL != 0)
}

/// Whether that Ethernet address may speak for the VIP: the owner's, or while the owner is not
/// known any agent's.
#[inline(always)]
pub(super) fn is_legitimate(vip: &Vip, mac: [u8; 6]) -> bool {
    maps::peer(mac).is_some_and(|node| vip.owner == 0 || vip.owner == node)
}

/// The Ethernet address of who asks, if the solicitation is valid (RFC 4861 §7.1.1).
#[inline(never)]
fn asker(ctx: XdpContext) -> Packed {
    let mut cursor = Cursor::new(&ctx);
    valid_asker(&mut cursor).unwrap_or(INVALID)
}

#[inline(always)]
fn valid_asker(cursor: &mut Cursor<'_>) -> Option<Packed> {
    let sender = cursor.take::<EthHdr>()?.src_addr;
    let ip = cursor.take::<Ipv6Hdr>()?;
    let head = *cursor.take::<[Word; 2]>()?;
    let target = Halves::of(cursor.take::<[u8; 16]>()?);
    let length = u16::from_be_bytes(ip.payload_len);
    if ip.hop_limit != 255 || head[0][1] != 0 || length < 24 || length % 8 != 0 {
        return None;
    }
    let [t0, t1, t2, t3] = target.numbers();
    let mut sum = V6::pseudo(V6::source(ip), V6::destination(ip), protocol::ICMPV6, length)
        .add(u32::from_ne_bytes(head[0]))
        .add(u32::from_ne_bytes(head[1]))
        .add(t0)
        .add(t1)
        .add(t2)
        .add(t3);
    let mut link_layer = None;
    let mut inside = 0;
    for unit in 0..OPTIONS {
        if 24 + unit as u16 * 8 >= length {
            break;
        }
        let option = *cursor.take::<[u8; 8]>()?;
        let option = u64::from_ne_bytes(option);
        sum = sum.add(option as u32).add((option >> 32) as u32);
        if inside > 0 {
            inside -= 1;
            continue;
        }
        let [kind, units] = ((option.to_be() >> 48) as u16).to_be_bytes();
        if [kind, units] == SOURCE_LINK_LAYER {
            link_layer = Some(Packed(option.to_be() << 16 >> 16));
        }
        inside = units.checked_sub(1)?;
    }
    let too_long = usize::from(length) > 24 + OPTIONS * 8;
    if too_long || inside != 0 || sum.checksum() != 0 {
        return None;
    }
    if V6::source(ip) == Halves::of(&UNSPECIFIED) {
        // Duplicate address detection (RFC 4862 §5.4): to the group, and without an address to
        // answer to.
        let to_group = ip.dst_addr.first_chunk() == Some(&SOLICITED_NODE);
        return (to_group && link_layer.is_none()).then_some(Packed::new(ALL_NODES_MAC));
    }
    Some(match link_layer {
        Some(link_layer) => link_layer,
        None => Packed::new(sender),
    })
}

/// An Ethernet address in the lower 48 bits of a number: kept in a register, where six bytes on the
/// stack would be stored in ways the verifier calls misaligned.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Packed(u64);

/// Nobody asks from here.
const INVALID: Packed = Packed(0);

impl Packed {
    #[inline(always)]
    const fn new([a, b, c, d, e, f]: [u8; 6]) -> Self {
        Self(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }

    #[inline(always)]
    const fn bytes(self) -> [u8; 6] {
        let [_, _, a, b, c, d, e, f] = self.0.to_be_bytes();
        [a, b, c, d, e, f]
    }
}

/// Makes the frame the advertisement that answers it (RFC 4861 §7.2.4).
#[inline(never)]
fn advertise(mut ctx: XdpContext, own: Packed, asker: Packed) -> Option<()> {
    /// The message with its one option.
    const LENGTH: usize = 32;
    let mut cursor = Cursor::new(&ctx);
    let _ethernet = cursor.take::<EthHdr>()?;
    let source = V6::source(cursor.take::<Ipv6Hdr>()?);
    let _head = cursor.take::<[Word; 2]>()?;
    let target = Halves::of(cursor.take::<[u8; 16]>()?);
    let unspecified = source == Halves::of(&UNSPECIFIED);
    let destination = if unspecified { Halves::of(&ALL_NODES) } else { source };
    let flags = if unspecified { OVERRIDE } else { SOLICITED | OVERRIDE };

    helpers::set_length(&mut ctx, 0, (size_of::<EthHdr>() + size_of::<Ipv6Hdr>() + LENGTH) as u64)?;
    let mut cursor = Cursor::new(&ctx);
    let ethernet = cursor.take::<EthHdr>()?;
    let ip = cursor.take::<Ipv6Hdr>()?;
    let message = cursor.take::<[Word; LENGTH / 4]>()?;
    (ethernet.dst_addr, ethernet.src_addr) = (asker.bytes(), own.bytes());
    V6::write(ip, target, destination, protocol::ICMPV6, LENGTH as u16);
    ip.hop_limit = 255;
    let [t0, t1, t2, t3] = target.numbers();
    let [kind, units] = TARGET_LINK_LAYER;
    let [a, b, c, d, e, f] = own.bytes();
    let (head, tail) = ([flags, 0, 0, 0], ([kind, units, a, b], [c, d, e, f]));
    let sum = V6::pseudo(target, destination, protocol::ICMPV6, LENGTH as u16)
        .add(u32::from_ne_bytes([ADVERTISEMENT, 0, 0, 0]))
        .add(u32::from_ne_bytes(head))
        .add(t0)
        .add(t1)
        .add(t2)
        .add(t3)
        .add(u32::from_ne_bytes(tail.0))
        .add(u32::from_ne_bytes(tail.1));
    let [c0, c1] = sum.checksum().to_ne_bytes();
    let [t0, t1, t2, t3] = [t0, t1, t2, t3].map(u32::to_ne_bytes);
    *message = [[ADVERTISEMENT, 0, c0, c1], head, t0, t1, t2, t3, tail.0, tail.1];
    Some(())
}

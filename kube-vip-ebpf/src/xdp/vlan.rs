//! VLAN tags (IEEE 802.1Q), one or two: taken off before anything else, so that every other stage
//! sees plain Ethernet, and put on again in front of what is passed up or sent.
//!
//! Frames that cannot be ours are not changed at all.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::filter::{ADDRESSES, Filter};
use kube_vip_common::stats::Reason;
use network_types::arp::ArpHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use super::{Action, nd};
use crate::family::{Family, Halves, V4, V6};
use crate::frame::{Both, Cursor, Word};
use crate::maps::FILTER;
use crate::{count, ethertype, helpers};

/// Both Ethernet addresses.
type Addresses = [Word; 3];

/// The tags of a frame, the outer one in the lower half: type and control information as they lie
/// in memory. No tag is 0.
type Tags = u64;

/// Takes the tags off; 0 where the frame stays as it is, because it cannot be ours.
#[inline(always)]
pub(crate) fn pop(mut ctx: XdpContext) -> Tags {
    pop_from(&mut ctx).unwrap_or(0)
}

#[inline(always)]
fn pop_from(ctx: &mut XdpContext) -> Option<Tags> {
    let mut cursor = Cursor::new(ctx);
    let addresses = *cursor.take::<Addresses>()?;
    let outer = u32::from_ne_bytes(*cursor.take::<Word>()?);
    let mut inner = 0;
    if let Some([a, b, c, d]) = cursor.peek::<Word>()
        && ethertype::is_tag(u16::from_ne_bytes([a, b]))
    {
        inner = u32::from_ne_bytes([a, b, c, d]);
        cursor.skip(size_of::<Word>());
    }
    let ether_type = u16::from_ne_bytes(*cursor.take::<[u8; 2]>()?);
    let ours = is_ours(ether_type, &cursor, FILTER.get(ADDRESSES)?);
    if !ours {
        return None;
    }
    helpers::grow_head(ctx, -length(inner))?;
    *Cursor::new(ctx).take::<Addresses>()? = addresses;
    Some(u64::from(outer) | u64::from(inner) << 32)
}

/// Length of the tags, given the inner one or 0.
#[inline(always)]
const fn length(inner: u32) -> i32 {
    (if inner == 0 { size_of::<Word>() } else { 2 * size_of::<Word>() }) as i32
}

/// Whether what lies behind the tags can be for an address of ours, or about one.
#[inline(always)]
fn is_ours(ether_type: u16, cursor: &Cursor<'_>, filter: &Filter) -> bool {
    match ether_type {
        ethertype::ARP => cursor
            .peek::<ArpHdr>()
            .is_some_and(|arp| V4::bit(arp.spa).is_set(filter) || V4::bit(arp.tpa).is_set(filter)),
        ethertype::IPV4 => {
            cursor.peek::<Ipv4Hdr>().is_some_and(|ip| V4::bit(V4::destination(&ip)).is_set(filter))
        }
        // The target of a solicitation or advertisement stands where others have data.
        ethertype::IPV6 if nd::is_solicitation_or_advertisement(cursor) => cursor
            .peek::<Both<Ipv6Hdr, Both<[Word; 2], [u8; 16]>>>()
            .is_some_and(|Both(ip, Both(_, target))| {
                V6::bit(V6::source(&ip)).is_set(filter)
                    || V6::bit(Halves::of(&target)).is_set(filter)
            }),
        ethertype::IPV6 => {
            cursor.peek::<Ipv6Hdr>().is_some_and(|ip| V6::bit(V6::destination(&ip)).is_set(filter))
        }
        _ => false,
    }
}

/// Puts the tags on again; what to do with the frame.
#[inline(always)]
pub(crate) fn push(mut ctx: XdpContext, tags: Tags, action: u32) -> u32 {
    if push_onto(&mut ctx, tags).is_some() {
        return action;
    }
    count::reason(Reason::TagLost);
    Action::Drop as u32
}

#[inline(always)]
fn push_onto(ctx: &mut XdpContext, tags: Tags) -> Option<()> {
    let addresses = *Cursor::new(ctx).take::<Addresses>()?;
    let (outer, inner) = (tags as u32, (tags >> 32) as u32);
    helpers::grow_head(ctx, length(inner))?;
    let mut cursor = Cursor::new(ctx);
    *cursor.take::<Addresses>()? = addresses;
    *cursor.take::<Word>()? = outer.to_ne_bytes();
    if inner != 0 {
        *cursor.take::<Word>()? = inner.to_ne_bytes();
    }
    Some(())
}

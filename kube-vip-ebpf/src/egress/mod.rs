//! What leaves through an uplink: the fence, then replies.

use aya_ebpf::programs::TcContext;
use network_types::eth::EthHdr;

use crate::ethertype;
use crate::family::{V4, V6};
use crate::frame::Cursor;
use crate::stage;

mod error;
mod fence;
mod fragments;
mod reply;
pub(crate) mod unusual;

/// What becomes of a packet. The values mean the same to TCX and to clsact with direct action.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// On, to the next program (`TCX_NEXT`, `TC_ACT_UNSPEC`).
    Next = -1,
    /// It ends here (`TCX_DROP`, `TC_ACT_SHOT`).
    Drop = 2,
}

impl Action {
    /// What a stage answered.
    #[inline(always)]
    const fn from_number(number: i32) -> Self {
        if number == Self::Drop as i32 { Self::Drop } else { Self::Next }
    }
}

/// The stage of an IP version for packets that are no plain TCP or UDP.
trait Unusual {
    /// The IP header is at `network`.
    fn unusual(ctx: &TcContext, network: usize) -> Action;
}

impl Unusual for V4 {
    #[inline(always)]
    fn unusual(ctx: &TcContext, network: usize) -> Action {
        Action::from_number(stage::unusual_reply4(ctx.skb.skb, network as u64))
    }
}

impl Unusual for V6 {
    #[inline(always)]
    fn unusual(ctx: &TcContext, network: usize) -> Action {
        Action::from_number(stage::unusual_reply6(ctx.skb.skb, network as u64))
    }
}

/// As [`crate::frame::again`].
#[inline(always)]
fn again(ctx: &TcContext) -> TcContext {
    TcContext::new(ctx.skb.skb)
}

/// What leaves with VLAN tags in the frame itself.
#[inline(always)]
pub(crate) fn tagged(ctx: TcContext) -> Action {
    unusual::tagged(ctx)
}

/// Judges one packet.
#[inline(always)]
pub fn handle(ctx: &TcContext) -> Action {
    let mut cursor = Cursor::new(ctx);
    let Some(ethernet) = cursor.take::<EthHdr>() else {
        return Action::Next;
    };
    match ethernet.ether_type {
        ethertype::IPV4 => reply::handle::<V4>(ctx, cursor),
        ethertype::IPV6 if fence::is_discovery(&cursor) => {
            fence::discovery(again(ctx), size_of::<EthHdr>())
        }
        ethertype::IPV6 => reply::handle::<V6>(ctx, cursor),
        ethertype::ARP => fence::arp(again(ctx), size_of::<EthHdr>()),
        other if ethertype::is_tag(other) => Action::from_number(stage::tagged(ctx.skb.skb)),
        _ => Action::Next,
    }
}

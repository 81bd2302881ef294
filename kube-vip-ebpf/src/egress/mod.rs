//! What leaves through an uplink: the fence, then replies.

use aya_ebpf::programs::TcContext;
use network_types::eth::EthHdr;

use crate::ethertype;
use crate::family::{V4, V6};
use crate::frame::Cursor;

mod fence;
mod reply;

/// What becomes of a packet. The values mean the same to TCX and to clsact with direct action.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// On, to the next program (`TCX_NEXT`, `TC_ACT_UNSPEC`).
    Next = -1,
    /// It ends here (`TCX_DROP`, `TC_ACT_SHOT`).
    Drop = 2,
}

/// As [`crate::frame::again`].
#[inline(always)]
fn again(ctx: &TcContext) -> TcContext {
    TcContext::new(ctx.skb.skb)
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
        ethertype::IPV6 if fence::is_discovery(&cursor) => fence::discovery(again(ctx)),
        ethertype::IPV6 => reply::handle::<V6>(ctx, cursor),
        ethertype::ARP => fence::arp(again(ctx)),
        _ => Action::Next,
    }
}

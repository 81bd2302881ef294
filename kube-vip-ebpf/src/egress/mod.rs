//! What leaves through an uplink: the fence, then replies.

use aya_ebpf::programs::TcContext;
use network_types::eth::EthHdr;

use crate::ethertype;
use crate::family::{V4, V6};
use crate::frame::Cursor;
use crate::stage;

pub(crate) mod clamp;
pub(crate) mod error;
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

/// The stages of an IP version for packets that few are like.
trait Unusual {
    /// A SYN-ACK whose MSS is to be limited.
    fn clamp(ctx: &TcContext);
    /// The IP header is at `network`.
    fn unusual(ctx: &TcContext, network: usize) -> Action;
}

impl Unusual for V4 {
    #[inline(always)]
    fn clamp(ctx: &TcContext) {
        stage::clamp4(ctx.skb.skb);
    }

    #[inline(always)]
    fn unusual(ctx: &TcContext, network: usize) -> Action {
        let mut answer = stage::unusual_reply4(ctx.skb.skb, network as u64);
        if answer == unusual::ERROR {
            answer = stage::error_leaving4(ctx.skb.skb, network as u64);
        }
        Action::from_number(answer)
    }
}

impl Unusual for V6 {
    #[inline(always)]
    fn clamp(ctx: &TcContext) {
        stage::clamp6(ctx.skb.skb);
    }

    #[inline(always)]
    fn unusual(ctx: &TcContext, network: usize) -> Action {
        let mut answer = stage::unusual_reply6(ctx.skb.skb, network as u64);
        if answer == unusual::ERROR {
            answer = stage::error_leaving6(ctx.skb.skb, network as u64);
        }
        Action::from_number(answer)
    }
}

/// As [`crate::frame::again`].
#[inline(always)]
fn again(ctx: &TcContext) -> TcContext {
    TcContext::new(ctx.skb.skb)
}

/// What leaves with VLAN tags in the frame itself.
#[inline(always)]
fn tagged(ctx: &TcContext) -> Action {
    let found = stage::behind_tags(ctx.skb.skb);
    // LLVM knows that it is small and would leave out what tells the verifier so.
    let network = core::hint::black_box((found >> 8) as usize);
    match found & 0xff {
        unusual::IPV4 => V4::unusual(ctx, network),
        unusual::IPV6 => V6::unusual(ctx, network),
        unusual::DISCOVERY => fence::discovery(again(ctx), network),
        unusual::ARP => fence::arp(again(ctx), network),
        _ => Action::Next,
    }
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
        other if ethertype::is_tag(other) => tagged(ctx),
        _ => Action::Next,
    }
}

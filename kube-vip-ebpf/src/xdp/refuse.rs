//! Tells a client that nobody serves it.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::stats::Reason;
use network_types::eth::EthHdr;

use super::{Action, Verdict, closed, is_anothers, reset, unreachable};
use crate::count;
use crate::family::Family;
use crate::frame::{Cursor, again};

/// How a client is told.
#[derive(Clone, Copy)]
pub enum Refusal {
    /// By a TCP RST.
    Reset(Reason),
    /// By an ICMP or ICMPv6 error.
    Unreachable(Reason),
    /// By an ICMP or ICMPv6 error that says how big a packet may be.
    TooBig(u16),
    /// By the kernel's own RST: an agent's frame does not say where its client is on the link.
    Closed(Reason),
}

impl Refusal {
    /// As a number, for the stage: how in the lowest byte, why above, a size above that.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        let (how, reason) = match self {
            Self::TooBig(mtu) => (TOO_BIG | (mtu as u64) << 32, Reason::TooBig),
            Self::Reset(reason) => (RESET, reason),
            Self::Unreachable(reason) => (UNREACHABLE, reason),
            Self::Closed(reason) => (CLOSED, reason),
        };
        how | (reason as u64) << 8
    }
}

const RESET: u64 = 0;
const UNREACHABLE: u64 = 1;
const CLOSED: u64 = 2;
const TOO_BIG: u64 = 3;

#[inline(always)]
pub(crate) fn stage<F: Family>(mut ctx: XdpContext, refusal: u64) -> u64 {
    Verdict::Done(answer::<F>(&mut ctx, refusal)).pack()
}

#[inline(always)]
fn answer<F: Family>(ctx: &mut XdpContext, refusal: u64) -> Action {
    if Cursor::new(ctx).peek::<EthHdr>().is_none_or(|ethernet| is_anothers(ctx, &ethernet)) {
        return Action::Pass;
    }
    let answer = match refusal & 0xff {
        RESET => reset::answer::<F>(again(ctx)),
        UNREACHABLE => unreachable::answer::<F>(again(ctx), 0),
        TOO_BIG => unreachable::answer::<F>(again(ctx), (refusal >> 32) as u16),
        _ => closed::answer::<F>(again(ctx)),
    };
    match answer {
        Some(action) => {
            count::numbered((refusal >> 8) as u32 & 0xff_ffff);
            action
        }
        None => {
            count::reason(Reason::Unanswerable);
            Action::Drop
        }
    }
}

//! For an address of ours and no plain TCP or UDP, which [`judge`](super::judge) has at hand: with
//! extension headers, or of another protocol.

use aya_ebpf::programs::XdpContext;
use network_types::eth::EthHdr;

use super::{Action, Verdict, balance, transport};
use crate::family::{Family, Payload, protocol};
use crate::frame::Cursor;

#[inline(always)]
pub(crate) fn stage<F: Family>(ctx: XdpContext, _: u64) -> u64 {
    handle::<F>(&ctx).pack()
}

#[inline(always)]
fn handle<F: Family>(ctx: &XdpContext) -> Verdict {
    let mut cursor = Cursor::new(ctx);
    let (Some(ethernet), Some(ip)) = (cursor.take::<EthHdr>(), cursor.take::<F::Header>()) else {
        return Verdict::Done(Action::Pass);
    };
    match F::payload(ip, &mut cursor) {
        Payload::Protocol(protocol @ (protocol::TCP | protocol::UDP)) => {
            match transport::parse(&mut cursor, protocol) {
                Some(transport) => balance::handle::<F>(ctx, ethernet, ip, transport),
                None => Verdict::Unbalanced,
            }
        }
        _ => Verdict::Unbalanced,
    }
}

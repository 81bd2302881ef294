//! Echo requests to a VIP (RFC 792, RFC 4443 §4.1), answered while it is owned.

use kube_vip_common::checksum::Sum;
use kube_vip_common::mark::ORDINARY_TTL;
use kube_vip_common::stats::Reason;
use kube_vip_common::vip::Vip;
use network_types::eth::EthHdr;

use super::{Action, is_unicast, turn};
use crate::family::{Family, protocol};
use crate::frame::Cursor;
use crate::{count, ownership};

/// Type and code of a request and the type of its reply, for IPv4 and IPv6.
const V4: ([u8; 2], u8) = ([8, 0], 0);
const V6: ([u8; 2], u8) = ([128, 0], 129);

/// Nothing where it is no echo request.
#[inline(always)]
pub(super) fn handle<F: Family>(
    ethernet: &mut EthHdr,
    ip: &mut F::Header,
    cursor: &mut Cursor<'_>,
    vip: &Vip,
) -> Option<Action> {
    let (request, reply) = if F::ICMP == protocol::ICMP { V4 } else { V6 };
    if cursor.peek::<[u8; 2]>()? != request {
        return None;
    }
    let [kind, code, check @ ..] = cursor.take::<[u8; 4]>()?;
    if !is_unicast(ethernet) || !ownership::owned(vip) {
        count::reason(Reason::EchoSwallowed);
        return Some(Action::Drop);
    }
    // Swapped addresses sum to the same; only the type changes.
    let change = Sum::default()
        .remove(u16::from_ne_bytes([*kind, *code]).into())
        .add(u16::from_ne_bytes([reply, *code]).into());
    *check = change.update(u16::from_ne_bytes(*check)).to_ne_bytes();
    *kind = reply;
    F::turn(ip);
    F::set_ttl(ip, ORDINARY_TTL);
    turn(ethernet);
    count::reason(Reason::EchoAnswered);
    Some(Action::Transmit)
}

//! The MSS that a SYN-ACK tells the client (RFC 9293 §3.7.1), where the file says that clients are
//! to send no more than fits into a tunnel. What they send passes the owner first and then the
//! tunnel; replies do not, so the client's own MSS stays.

use aya_ebpf::programs::TcContext;
use kube_vip_common::settings::Settings;
use network_types::eth::EthHdr;
use network_types::tcp::TcpHdr;

use crate::family::{Family, protocol};
use crate::frame::Cursor;
use crate::helpers;
use crate::maps::SETTINGS;

const CHECK: usize = 16;
/// Kinds of options (RFC 9293 §3.1).
const END: u8 = 0;
const NOTHING: u8 = 1;
const MSS: u8 = 2;
/// Most options that are looked at; what sets an MSS has it among the first.
const OPTIONS: u32 = 8;

/// Whether the MSS of that IP version is limited, and to what.
#[inline(always)]
fn limit<F: Family>(settings: &Settings) -> u16 {
    if F::ICMP == protocol::ICMP { settings.mss4 } else { settings.mss6 }
}

/// Whether any is.
#[inline(always)]
pub(super) fn is_wanted<F: Family>() -> bool {
    SETTINGS.get(0).is_some_and(|settings| limit::<F>(settings) != 0)
}

/// A SYN-ACK without tags and extension headers.
#[inline(always)]
pub(crate) fn stage<F: Family>(ctx: TcContext) -> i64 {
    // What cannot be changed is still right: larger segments are answered with what fits.
    clamp::<F>(&ctx).unwrap_or(0)
}

#[inline(always)]
fn clamp<F: Family>(ctx: &TcContext) -> Option<i64> {
    let most = limit::<F>(SETTINGS.get(0)?);
    let mut cursor = Cursor::new(ctx);
    let _ethernet = cursor.take::<EthHdr>()?;
    let ip = cursor.take::<F::Header>()?;
    if F::plain(ip, &mut cursor) != Some(protocol::TCP) {
        return None;
    }
    let segment = cursor.offset(ctx);
    let header = usize::from(cursor.take::<TcpHdr>()?.doff()) * 4;
    let (mut at, end) = (segment + size_of::<TcpHdr>(), segment + header);
    for _ in 0..OPTIONS {
        if at + 4 > end {
            return None;
        }
        let [kind, length, high, low] = ctx.load::<[u8; 4]>(at).ok()?;
        match kind {
            END => return None,
            NOTHING => at += 1,
            MSS => {
                let told = u16::from_be_bytes([high, low]);
                if told <= most {
                    return None;
                }
                // A word of the checksum begins at each second byte of the segment.
                let [old, new] = if (at - segment) & 1 == 0 {
                    [told, most]
                } else {
                    [told.swap_bytes(), most.swap_bytes()]
                };
                helpers::replace_port(ctx, segment + CHECK, old, new, false).ok()?;
                ctx.store(at + 2, &most.to_be_bytes(), 0).ok()?;
                return Some(1);
            }
            _ if length < 2 => return None,
            _ => at += usize::from(length),
        }
    }
    None
}

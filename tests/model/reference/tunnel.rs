//! What comes out of a tunnel: an agent's frame like any other, once the outer header is gone.

use kube_vip_common::stats::Reason;

use super::host::{Host, tunnelled};
use super::packet::{Frame, Ip};
use super::{End, ours, unbalanced};

/// An IP packet in one that is for an address of ours. Hosts may have other tunnels between them: ours
/// is only what bears the mark and is for an address of ours inside.
pub(super) fn judge(host: &mut Host, frame: &Frame, outer: &Ip) -> End {
    if !host.is.vips.get(&outer.destination).is_some_and(|vip| vip.own) {
        return unbalanced::judge(host, frame, outer);
    }
    let plain = outer.header_length() == if outer.is_v4() { 20 } else { 40 };
    let inner =
        if outer.is_v4() { Ip::parse_v4(&outer.payload) } else { Ip::parse_v6(&outer.payload) };
    let marked = |ip: &Ip| (240..248).contains(&ip.ttl);
    let inner = inner.filter(|ip| marked(ip) && host.is.vips.contains_key(&ip.destination));
    let (Some(inner), true, false) = (inner, plain, host.is_anothers(frame.to)) else {
        return End::Untouched;
    };
    let Some(node) = host.is.peer_ips.get(&outer.source) else {
        return End::Dropped(Reason::TunnelRefused);
    };
    // The router's address would say nothing of who sent it.
    let frame = Frame { from: tunnelled(*node), rest: inner.bytes(), ..frame.clone() };
    match ours(host, &frame, &inner) {
        End::Untouched => End::Changed(super::Verdict::Pass, frame, vec![]),
        End::Counted(reason) => End::Changed(super::Verdict::Pass, frame, vec![reason]),
        end => end,
    }
    .and(Reason::Decapsulated)
}

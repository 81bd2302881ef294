//! Another agent asks whether the data plane works; the layout of questions and answers is in
//! `kube-vip-common/src/probe.rs`.

use std::net::IpAddr;

use kube_vip_common::stats::Reason;

use super::checksum::checksum;
use super::host::Host;
use super::packet::{Content, Frame, Ip, UDP, pseudo};
use super::{End, Verdict};

const HASH_VERSION: [u8; 2] = [0, 1];

/// Where the age is in an answer's frame, by version.
pub(crate) const AGE: [usize; 2] = [14 + 20 + 8 + 24, 14 + 40 + 8 + 24];

/// A datagram for the port of probes at an address that agents know this host by.
pub(super) fn judge(host: &Host, frame: &Frame, ip: &Ip) -> End {
    answer(host, frame, ip).unwrap_or(End::Untouched)
}

/// Nothing where it is no question, or not a peer's.
fn answer(host: &Host, frame: &Frame, ip: &Ip) -> Option<End> {
    let plain = ip.header_length() == if ip.is_v4() { 20 } else { 40 };
    let ((Content::Whole(UDP), 0), true) = (ip.content(), plain) else { return None };
    let question: [u8; 32] = *ip.behind(8).first_chunk()?;
    if question[..6] != *b"kvip\x01\x01" || !host.is.peer_ips.contains_key(&ip.source) {
        return None;
    }
    if !frame.is_complete(ip) {
        return Some(End::Dropped(Reason::Malformed));
    }
    let mut segment = [&ip.payload[2..4], &ip.payload[..2], &[0, 40, 0, 0]].concat();
    segment.extend(b"kvip\x01\x02");
    segment.extend(HASH_VERSION);
    segment.extend(&question[8..16]);
    segment.extend(host.is.digest.to_be_bytes());
    segment.extend(host.age.to_be_bytes());
    let version = env!("CARGO_PKG_VERSION").split('.').map(|part| part.parse().unwrap_or(0));
    segment.extend(version.chain([0]).take(4).collect::<Vec<u8>>());
    let (own, asker): (IpAddr, IpAddr) = (ip.destination, ip.source);
    let check = match checksum(&pseudo(own, asker, UDP, &segment)) {
        0 => 0xffff,
        check => check,
    };
    segment[6..8].copy_from_slice(&check.to_be_bytes());
    let rest = Ip::new(own, asker, UDP, segment).bytes();
    Some(End::Changed(Verdict::Transmit, frame.returned(rest), vec![Reason::ProbeAnswered]))
}

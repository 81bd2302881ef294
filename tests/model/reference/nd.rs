//! Neighbour discovery for VIPs (RFC 4861).

use std::net::{IpAddr, Ipv6Addr};

use kube_vip_common::stats::Reason;

use super::checksum::checksum;
use super::host::Host;
use super::packet::{Frame, ICMPV6, Ip, Mac, pseudo, take};
use super::{Conflict, End, Verdict};

pub(crate) const ROUTER_SOLICITATION: u8 = 133;
pub(crate) const SOLICITATION: u8 = 135;
pub(crate) const ADVERTISEMENT: u8 = 136;

/// Most units of eight bytes with options that are looked at.
const OPTIONS: usize = 8;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The kind of a control message that is not behind an extension header.
pub(super) fn kind(ip: &Ip) -> Option<u8> {
    let is_icmp = !ip.is_v4() && ip.protocol == ICMPV6;
    ip.payload.first().copied().filter(|_| is_icmp)
}

pub(super) fn names_a_target(ip: &Ip) -> bool {
    matches!(kind(ip), Some(SOLICITATION | ADVERTISEMENT))
}

/// The target of a message that names one.
pub(super) fn target(ip: &Ip) -> Option<Ipv6Addr> {
    let bytes: [u8; 16] = *ip.payload.get(8..)?.first_chunk()?;
    Some(bytes.into())
}

pub(super) fn judge(host: &Host, frame: &Frame, ip: &Ip) -> End {
    let Some(target) = target(ip) else { return End::Untouched };
    let advertises = kind(ip) == Some(ADVERTISEMENT);
    // An advertisement speaks for its target, a solicitation for its sender: neighbours take the
    // link-layer address out of its first option, or the frame's where there is none.
    let speaks_for: IpAddr = if advertises { target.into() } else { ip.source };
    if let Some(vip) = host.virtual_ip(speaks_for) {
        let option = ip.payload[24..].first_chunk::<8>();
        let mac = match option {
            Some([kind, 1, mac @ ..]) if *kind == if advertises { 2 } else { 1 } => *mac,
            _ => frame.from,
        };
        if host.may_speak(vip, mac) {
            return End::Untouched;
        }
        return End::Conflict(Conflict { by_nd: true, address: speaks_for, mac });
    }
    let (false, Some(vip)) = (advertises, host.virtual_ip(target.into())) else {
        return End::Untouched;
    };
    let asker = asker(frame, ip).filter(|_| host.owns(vip));
    let (Some(own), Some(asker)) = (host.is.uplink, asker) else {
        return End::Dropped(Reason::NdSwallowed);
    };
    let (to, flags) = if ip.source == Ipv6Addr::UNSPECIFIED {
        // Duplicate address detection has no address yet: everybody is told (RFC 4861 §7.2.4).
        (ALL_NODES.into(), 0x20)
    } else {
        (ip.source, 0x60)
    };
    let option = [&[2, 1], &own[..]].concat();
    let mut message =
        [&[ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0], &target.octets()[..], &option].concat();
    let check = checksum(&pseudo(target.into(), to, ICMPV6, &message));
    message[2..4].copy_from_slice(&check.to_be_bytes());
    let mut answer = Ip::new(target.into(), to, ICMPV6, message);
    answer.ttl = 255;
    let frame = Frame { to: asker, from: own, rest: answer.bytes(), ..frame.clone() };
    End::Changed(Verdict::Transmit, frame, vec![Reason::NdAnswered])
}

/// The Ethernet address that a valid solicitation is to be answered to (RFC 4861 §7.1.1).
fn asker(frame: &Frame, ip: &Ip) -> Option<Mac> {
    let length = ip.length();
    let message = ip.payload.get(..length)?;
    let whole = pseudo(ip.source, ip.destination, ICMPV6, message);
    let valid = ip.ttl == 255
        && message.get(1) == Some(&0)
        && (24..=24 + OPTIONS * 8).contains(&length)
        && length.is_multiple_of(8)
        && checksum(&whole) == 0;
    if !valid {
        return None;
    }
    let mut source = None;
    let mut options = &message[24..];
    while let Some([kind, units, mac @ ..]) = options.first_chunk::<8>() {
        if [*kind, *units] == [1, 1] {
            source = Some(*mac);
        }
        let length = usize::from(*units) * 8;
        options = options.get(length..).filter(|_| length > 0)?;
    }
    if ip.source == Ipv6Addr::UNSPECIFIED {
        // RFC 4862 §5.4.3: to the solicited-node group, without an address to answer to.
        let IpAddr::V6(group) = ip.destination else { return None };
        let mut group = &group.octets()[..];
        let prefix: [u8; 13] = take(&mut group)?;
        let solicited = prefix == [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];
        return (solicited && source.is_none()).then_some([0x33, 0x33, 0, 0, 0, 1]);
    }
    Some(source.unwrap_or(frame.from))
}

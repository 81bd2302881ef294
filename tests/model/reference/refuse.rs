//! Nobody serves this client: it is told.

use std::net::IpAddr;

use kube_vip_common::stats::Reason;

use super::balance::ORDINARY;
use super::checksum::checksum;
use super::host::{Endpoint, Host, THIS, Tuple};
use super::packet::{
    ACK, Content, FIN, Frame, ICMP, ICMPV6, Ip, RST, SYN, TCP, Transport, UDP, pseudo,
};
use super::{End, Verdict, is_from_agent};

/// Most bytes that an error quotes: a packet with more headers is not answered.
const QUOTED: usize = 136;

#[derive(Clone, Copy, Debug)]
pub(super) enum Refusal {
    Reset(Reason),
    Unreachable(Reason),
    /// Packets may be so big.
    TooBig(u16),
    /// By a port of the kernel's that nobody listens on: an agent's frame does not say where its
    /// client is on the link.
    Closed(Reason),
    Dropped(Reason),
}

impl Refusal {
    pub(super) const fn tcp(from_agent: bool, reason: Reason) -> Self {
        if from_agent { Self::Closed(reason) } else { Self::Reset(reason) }
    }
}

pub(super) fn refuse(host: &mut Host, frame: &Frame, ip: &Ip, refusal: Refusal) -> End {
    if host.is_anothers(frame.to) {
        return End::Untouched;
    }
    let (answer, reason) = match refusal {
        Refusal::Reset(reason) => (reset(frame, ip), reason),
        Refusal::Unreachable(reason) => (unreachable(host, frame, ip, 0), reason),
        Refusal::TooBig(mtu) => (unreachable(host, frame, ip, mtu), Reason::TooBig),
        Refusal::Closed(reason) => (closed(host, frame, ip), reason),
        Refusal::Dropped(reason) => return End::Dropped(reason),
    };
    match answer {
        Some((verdict, frame)) => End::Changed(verdict, frame, vec![reason]),
        None => End::Dropped(Reason::Unanswerable),
    }
}

/// Whether errors may be sent to this address: not to groups, nobody or oneself (RFC 1122 §3.2.2,
/// RFC 4443 §2.4).
fn is_answerable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !matches!(v4.octets()[0], 0 | 127 | 224..),
        // Nothing out of ::/64 either, where both special addresses are.
        IpAddr::V6(v6) => !v6.is_multicast() && v6.octets()[..8] != [0; 8],
    }
}

fn tcp(ip: &Ip) -> Option<(Transport, usize)> {
    let (Content::Whole(TCP), at) = ip.content() else { return None };
    Some((Transport::parse(TCP, ip.behind(at))?, at))
}

/// RFC 9293 §3.10.7.1, as a host without the connection.
fn reset(frame: &Frame, ip: &Ip) -> Option<(Verdict, Frame)> {
    let (tcp, at) = tcp(ip)?;
    if tcp.has(RST) || !frame.is_complete(ip) || !frame.is_unicast() || !is_answerable(ip.source) {
        return None;
    }
    let (sequence, acknowledgement, flags) = if tcp.has(ACK) {
        (tcp.acknowledgement, 0, RST)
    } else {
        // Of lengths that contradict each other no sense is made.
        let text = (ip.total() as u32).wrapping_sub((ip.header_length() + at) as u32 + tcp.header);
        let marks = u32::from(tcp.has(SYN)) + u32::from(tcp.has(FIN));
        (0, tcp.sequence.wrapping_add(text).wrapping_add(marks), RST | ACK)
    };
    let mut segment = [tcp.destination, tcp.source].map(u16::to_be_bytes).concat();
    segment.extend([sequence, acknowledgement].map(u32::to_be_bytes).concat());
    segment.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
    let check = checksum(&pseudo(ip.destination, ip.source, TCP, &segment));
    segment[16..18].copy_from_slice(&check.to_be_bytes());
    let mut rest = Ip::new(ip.destination, ip.source, TCP, segment).bytes();
    // No frame is shorter than 60 bytes (IEEE 802.3); what was there stays as padding.
    rest.extend(
        frame
            .rest
            .iter()
            .copied()
            .chain([0; 60])
            .skip(rest.len())
            .take(46usize.saturating_sub(rest.len())),
    );
    Some((Verdict::Transmit, frame.returned(rest)))
}

/// "Destination unreachable" (RFC 792, RFC 4443 §3.1), or with a size "too big", with the headers and the eight bytes behind them.
fn unreachable(host: &Host, frame: &Frame, ip: &Ip, mtu: u16) -> Option<(Verdict, Frame)> {
    let (Content::Whole(protocol) | Content::First(protocol), at) = ip.content() else {
        return None;
    };
    let quoted = ip.header_length() + at + 8;
    let barred = quoted > QUOTED || !frame.is_complete(ip) || is_from_agent(host, frame.from, ip);
    if !frame.is_unicast() || !is_answerable(ip.source) || barred {
        return None;
    }
    let kind = match (ip.is_v4(), protocol == UDP) {
        // RFC 1191 §4, RFC 4443 §3.2.
        (true, _) if mtu > 0 => [3, 4],
        (false, _) if mtu > 0 => [2, 0],
        (true, true) => [3, 3],
        (true, false) => [3, 1],
        (false, true) => [1, 4],
        (false, false) => [1, 3],
    };
    let quotation = frame.rest.iter().copied().chain([0; QUOTED]).take(quoted);
    let mut message: Vec<u8> =
        kind.into_iter().chain([0; 4]).chain(mtu.to_be_bytes()).chain(quotation).collect();
    let check = if ip.icmp() == ICMPV6 {
        checksum(&pseudo(ip.destination, ip.source, ICMPV6, &message))
    } else {
        checksum(&message)
    };
    message[2..4].copy_from_slice(&check.to_be_bytes());
    let answer = Ip::new(ip.destination, ip.source, ip.icmp(), message);
    debug_assert!(matches!(answer.protocol, ICMP | ICMPV6));
    Some((Verdict::Transmit, frame.returned(answer.bytes())))
}

fn closed(host: &mut Host, frame: &Frame, ip: &Ip) -> Option<(Verdict, Frame)> {
    let (tcp, at) = tcp(ip)?;
    let port = host.is.closed_port;
    let here = host.is.nodes.get(&THIS).copied().unwrap_or_default().address(ip.is_v4());
    if port == 0 || !is_answerable(here) {
        return None;
    }
    let reply = Tuple {
        source: here,
        source_port: port,
        destination: ip.source,
        destination_port: tcp.source,
        protocol: TCP,
    };
    host.has.half.insert(reply, Endpoint::new(ip.destination, tcp.destination, 0));
    let mut ip = ip.clone();
    ip.change(|ip| {
        ip.destination = here;
        ip.set_port(at + 2, port);
        ip.ttl = ORDINARY;
    });
    Some((Verdict::Pass, Frame { rest: ip.bytes(), ..frame.clone() }))
}

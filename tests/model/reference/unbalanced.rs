//! For an address of ours, but no frontend's.

use kube_vip_common::stats::Reason;

use super::balance::ORDINARY;
use super::checksum::follow;
use super::host::{Host, THIS, Tuple, Vip};
use super::packet::{Content, Frame, Ip, SCTP, TCP, Transport, UDP, pseudo};
use super::refuse::{self, Refusal};
use super::{End, Verdict, is_from_agent, nat, probe};

pub(super) fn judge(host: &mut Host, frame: &Frame, ip: &Ip) -> End {
    let Some(vip) = host.is.vips.get(&ip.destination).copied() else { return End::Untouched };
    let owns = host.is.vips.values().any(|vip| vip.owner == THIS);
    let (content, at) = ip.content();
    if let (Some(protocol), true) = (content.protocol(), owns)
        && let Some(transport) = Transport::parse(protocol, ip.behind(at))
        && let Some(end) = nat::reply(host, frame, ip, &transport)
    {
        return end;
    }
    if host.is_anothers(frame.to) {
        return End::Untouched;
    }
    let transport = match content.protocol() {
        Some(protocol @ (TCP | UDP | SCTP)) => Transport::parse(protocol, ip.behind(at)),
        _ => None,
    };
    if transport.is_some_and(|transport| vip.own && is_probe(host, &transport)) {
        return probe::judge(host, frame, ip);
    }
    let direct = transport.is_some_and(|transport| vip.served && direct(host, ip, &transport));
    let end = if is_from_agent(host, frame.from, ip) && (vip.is_virtual || !vip.held) {
        // Not known here yet. Never up: the kernel would route it in circles.
        End::Dropped(Reason::UnknownFromAgent)
    } else if !vip.is_virtual {
        End::Untouched
    } else if let Some(end) = echo(host, frame, ip, vip) {
        end
    } else if !vip.held {
        not_held(host, frame, ip, content)
    } else {
        End::Counted(Reason::PassedUp)
    };
    if direct { end.and(Reason::FlowReplaced) } else { end }
}

fn is_probe(host: &Host, transport: &Transport) -> bool {
    let port = transport.destination;
    transport.protocol == UDP && port != 0 && port == host.is.probe_port
}

/// The client speaks straight to a backend here, with a port that a balanced connection had before:
/// the record of that one must not rewrite the backend's replies. Whether it ended at once.
fn direct(host: &mut Host, ip: &Ip, transport: &Transport) -> bool {
    let reply = Tuple {
        source: ip.destination,
        source_port: transport.destination,
        destination: ip.source,
        destination_port: transport.source,
        protocol: transport.protocol,
    };
    if transport.goes_on() {
        return false;
    }
    let known = host.has.replies.get(&reply).or_else(|| host.has.half.get(&reply));
    let Some(vip) = known.copied() else { return false };
    if transport.protocol == TCP {
        // The backend's SYN-ACK will tell when the old connection is gone.
        for map in [&mut host.has.replies, &mut host.has.half] {
            map.entry(reply).and_modify(|vip| vip.direct = true);
        }
        return false;
    }
    host.has.forget(&Tuple::flow_of(&reply, &vip), &reply);
    true
}

/// Echo requests (RFC 792, RFC 4443 §4.1).
fn echo(host: &Host, frame: &Frame, ip: &Ip, vip: Vip) -> Option<End> {
    let (request, reply) = if ip.is_v4() { (8, 0) } else { (128, 129) };
    let (Content::Whole(protocol), at) = ip.content() else { return None };
    let message = ip.behind(at);
    let [kind, code, check @ ..] = *message.first_chunk::<4>()?;
    if (protocol, kind, code) != (ip.icmp(), request, 0) {
        return None;
    }
    if !frame.is_unicast() || !host.owns(vip) {
        return Some(End::Dropped(Reason::EchoSwallowed));
    }
    let mut answer = ip.clone();
    // Whom the header's checksum covers changes places, which it does not see.
    answer.change(|ip| {
        (ip.source, ip.destination) = (ip.destination, ip.source);
        ip.ttl = ORDINARY;
    });
    let covered = |message: &[u8]| {
        let length = ip.length().saturating_sub(at).clamp(4, message.len());
        let mut message = message[..length].to_vec();
        message[2..4].fill(0);
        if ip.is_v4() { message } else { pseudo(ip.source, ip.destination, protocol, &message) }
    };
    let old = covered(answer.behind(at));
    answer.payload[at] = reply;
    let check = follow(u16::from_be_bytes(check), &old, &covered(answer.behind(at)));
    answer.payload[at + 2..at + 4].copy_from_slice(&check.to_be_bytes());
    Some(End::Changed(
        Verdict::Transmit,
        frame.returned(answer.bytes()),
        vec![Reason::EchoAnswered],
    ))
}

/// The kernel has no such address and would route the packet out again.
fn not_held(host: &mut Host, frame: &Frame, ip: &Ip, content: Content) -> End {
    let refusal = match content {
        Content::Whole(TCP) if frame.is_unicast() => Refusal::Reset(Reason::NoFrontendReset),
        Content::Whole(protocol) | Content::First(protocol)
            if protocol != ip.icmp() && protocol != TCP && frame.is_unicast() =>
        {
            Refusal::Unreachable(Reason::NoFrontendUnreachable)
        }
        Content::Whole(_) | Content::First(_) => return End::Dropped(Reason::Unanswerable),
        Content::Later => return End::Dropped(Reason::Fragment),
        Content::Malformed => return End::Dropped(Reason::Malformed),
    };
    refuse::refuse(host, frame, ip, refusal)
}

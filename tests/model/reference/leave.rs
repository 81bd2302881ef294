//! What leaves through the uplink: the fence, then replies.

use std::net::IpAddr;

use kube_vip_common::stats::Reason;

use super::host::{Endpoint, Fate, Host, Tuple, add};
use super::packet::{
    self, ACK, Content, FIN, Frame, INIT_ACK, Ip, RST, SCTP, SYN, TCP, Transport, UDP,
};
use super::{End, Outcome, Verdict, arp, errors, fragments, nd};

/// A frame leaves.
pub(crate) fn leave(host: &mut Host, bytes: &[u8]) -> Outcome {
    judge(host, bytes).outcome(bytes)
}

fn judge(host: &mut Host, bytes: &[u8]) -> End {
    let Some(frame) = Frame::parse(bytes) else { return End::Untouched };
    let ip = match frame.kind {
        packet::ARP => {
            return fence(host, [arp::sender(&frame)], Reason::ArpFenced);
        }
        packet::IPV4 => Ip::parse_v4(&frame.rest),
        packet::IPV6 => Ip::parse_v6(&frame.rest),
        _ => None,
    };
    let Some(ip) = ip else { return End::Untouched };
    match nd::kind(&ip) {
        // Too short for its fixed part it fills nobody's cache.
        Some(nd::ROUTER_SOLICITATION | nd::SOLICITATION | nd::ADVERTISEMENT)
            if ip.payload.len() < 8 =>
        {
            End::Untouched
        }
        Some(nd::ADVERTISEMENT) => {
            let target = nd::target(&ip).map(IpAddr::from);
            fence(host, [target, Some(ip.source)], Reason::NdFenced)
        }
        Some(nd::ROUTER_SOLICITATION | nd::SOLICITATION) => {
            fence(host, [Some(ip.source)], Reason::NdFenced)
        }
        _ => match ip.content().0 {
            Content::Later => fragments::leave(host, &frame, ip),
            _ => match errors::leave(host, &frame, &ip) {
                Some(end) => end,
                None => reply(host, &frame, ip),
            },
        },
    }
}

/// Nothing is said in the name of a VIP that is not owned.
fn fence<const N: usize>(host: &Host, names: [Option<IpAddr>; N], reason: Reason) -> End {
    let vips = names.into_iter().flatten().filter_map(|name| host.virtual_ip(name));
    if vips.into_iter().any(|vip| !host.owns(vip)) {
        return End::Dropped(reason);
    }
    End::Untouched
}

/// The source of a backend's reply becomes the VIP again.
fn reply(host: &mut Host, frame: &Frame, mut ip: Ip) -> End {
    let (content, at) = ip.content();
    let Some(protocol @ (TCP | UDP | SCTP)) = content.protocol() else { return End::Untouched };
    let segment = ip.behind(at);
    let Some([s0, s1, d0, d1]) = segment.first_chunk::<4>() else { return End::Untouched };
    let reply = Tuple {
        source: ip.source,
        source_port: u16::from_be_bytes([*s0, *s1]),
        destination: ip.destination,
        destination_port: u16::from_be_bytes([*d0, *d1]),
        protocol,
    };
    if !host.is.served.contains(&(reply.source, reply.source_port)) {
        return End::Untouched;
    }
    let transport = Transport::parse(protocol, segment);
    let opening = transport.and_then(|transport| answer(&transport, segment));
    let Some(vip) = origin(host, &reply, opening) else { return End::Untouched };
    if vip.direct && opening.is_some() {
        // To a client that spoke straight to the backend.
        host.has.forget(&Tuple::flow_of(&reply, &vip), &reply);
        return End::Counted(Reason::FlowReplaced);
    }
    let plain =
        frame.tags.is_empty() && matches!(content, Content::Whole(_)) && (ip.is_v4() || at == 0);
    if let Some(transport) = transport.filter(|said| plain && (said.has(FIN) || said.has(RST)))
        && let Some(vip) = host.has.replies.get(&reply).copied()
    {
        host.has.ends(&Tuple::flow_of(&reply, &vip), &transport, false);
    }
    // A checksum that is not there cannot follow.
    let end = match protocol {
        TCP => 18,
        UDP => 8,
        _ => 0,
    };
    if segment.len() < end {
        return End::Dropped(Reason::ReplyFailed);
    }
    if matches!(content, Content::First(_)) {
        let fate = Fate {
            verdict: Verdict::Pass,
            source: vip.address,
            destination: ip.destination,
            to: frame.to,
            from: frame.from,
            ttl: ip.ttl,
            backend: vip.backend,
            tunnel: None,
        };
        host.has.fragments.insert(fragments::parts(&ip, true), fate);
    }
    ip.change(|ip| {
        ip.source = vip.address;
        ip.set_port(at, vip.port);
        if vip.client_port != 0 {
            ip.set_port(at + 2, vip.client_port);
        }
    });
    add(&mut host.has.replied, vip.backend, 14 + frame.rest.len());
    End::Changed(Verdict::Pass, Frame { rest: ip.bytes(), ..frame.clone() }, vec![])
}

/// What the client of a connection that opens will acknowledge: the number behind a SYN-ACK's, the
/// tag in an INIT ACK.
fn answer(transport: &Transport, segment: &[u8]) -> Option<u32> {
    if transport.chunk == Some(INIT_ACK) {
        return segment.get(16..20)?.first_chunk().map(|tag| u32::from_be_bytes(*tag));
    }
    let opens = transport.has(SYN) && transport.has(ACK);
    opens.then(|| transport.sequence.wrapping_add(1))
}

/// The VIP that a reply belongs to. A connection that opens may have the tuple of one that is
/// closing, and what the backend says first the client will have to acknowledge.
fn origin(host: &mut Host, reply: &Tuple, opening: Option<u32>) -> Option<Endpoint> {
    let known = host.has.replies.get(reply).copied();
    if opening.is_none() && known.is_some() {
        return known;
    }
    let Some(half) = host.has.half.get_mut(reply) else { return known };
    let vip = *half;
    if opening.is_some() {
        half.answer = opening;
    } else if reply.protocol == UDP {
        half.answer = Some(0);
    }
    Some(vip)
}

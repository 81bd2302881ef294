//! ICMP errors, which quote a packet: each end must see the packet as it sent it.

use std::net::IpAddr;

use kube_vip_common::stats::Reason;

use super::balance::{ORDINARY, choose, forward};
use super::checksum::follow;
use super::host::{Host, THIS, Tuple, add};
use super::packet::{Content, Frame, ICMPV6, Ip, SCTP, TCP, Transport, UDP, pseudo};
use super::{End, Verdict, is_from_agent, nat};

/// Bytes of an error before what it quotes, and of what is behind the quoted header.
const HEAD: usize = 8;
const QUOTED: usize = 8;

/// An error with the packet it is about.
struct Error {
    /// Where the message begins.
    at: usize,
    quoted: Ip,
    /// Where its ports are, behind its header.
    ports_at: usize,
    protocol: u8,
    ports: (u16, u16),
}

fn parse(ip: &Ip) -> Option<Error> {
    let (Content::Whole(protocol), at) = ip.content() else { return None };
    let message = ip.behind(at);
    let kinds: &[u8] = if ip.is_v4() { &[3, 11, 12] } else { &[1, 2, 3, 4] };
    if protocol != ip.icmp() || !kinds.contains(message.first()?) {
        return None;
    }
    let inside = message.get(HEAD..)?;
    let quoted = if ip.is_v4() { Ip::parse_v4(inside)? } else { Ip::parse_v6(inside)? };
    let (content, ports_at) = quoted.content();
    let protocol = content.protocol().filter(|p| matches!(*p, TCP | UDP | SCTP))?;
    let head = quoted.behind(ports_at).first_chunk::<QUOTED>()?;
    // Beyond the packet's end by its own word there is nothing.
    if ip.header_length() + at + HEAD + quoted.header_length() + ports_at + QUOTED > ip.total() {
        return None;
    }
    let [s0, s1, d0, d1, ..] = *head;
    let ports = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
    Some(Error { at, quoted, ports_at, protocol, ports })
}

/// Writes the quotation anew, and the addresses before it, with right checksums but for that of a
/// quoted TCP header, at which nobody looks.
fn rewritten(
    ip: &Ip,
    error: &Error,
    ends: (IpAddr, IpAddr),
    quoted_ends: (IpAddr, IpAddr),
    ports: (u16, u16),
) -> Ip {
    let mut quoted = error.quoted.clone();
    let behind = error.ports_at + 4;
    let kept = quoted.payload[behind..].to_vec();
    quoted.change(|quoted| {
        (quoted.source, quoted.destination) = quoted_ends;
        quoted.set_port(error.ports_at, ports.0);
        quoted.set_port(error.ports_at + 2, ports.1);
    });
    if error.protocol == TCP {
        quoted.payload[behind..].copy_from_slice(&kept);
    }
    let covered = |ip: &Ip| {
        let end = ip.length().clamp(error.at + 4, ip.payload.len());
        let mut message = ip.payload[error.at..end].to_vec();
        message[2..4].fill(0);
        if ip.is_v4() { message } else { pseudo(ip.source, ip.destination, ICMPV6, &message) }
    };
    let mut after = ip.clone();
    after.change(|ip| (ip.source, ip.destination) = ends);
    after.payload.truncate(error.at + HEAD);
    after.payload.extend(quoted.bytes());
    let check = error.at + 2;
    let old = u16::from_be_bytes([ip.payload[check], ip.payload[check + 1]]);
    let new = follow(old, &covered(ip), &covered(&after));
    after.payload[check..check + 2].copy_from_slice(&new.to_be_bytes());
    after
}

/// An error arrives; nothing where it is about no packet of a frontend.
pub(super) fn judge(host: &mut Host, frame: &Frame, ip: &Ip) -> Option<End> {
    let error = parse(ip)?;
    let (client, vip) = (error.quoted.destination, error.quoted.source);
    if vip != ip.destination {
        return None;
    }
    if let Some(end) = translated(host, frame, ip, &error) {
        return Some(end);
    }
    // The packet turned round is the client's.
    let (vip_port, client_port) = error.ports;
    let frontend = *host.is.frontends.get(&(vip, vip_port, error.protocol))?;
    let transport = Transport {
        protocol: error.protocol,
        source: client_port,
        destination: vip_port,
        sequence: 0,
        acknowledgement: 0,
        chunk: None,
        header: 0,
        flags: 0,
    };
    let turned = Ip { source: client, destination: vip, ..error.quoted.clone() };
    add(&mut host.has.arrived, frontend.id, frame.length(ip));
    let slot = choose(host, &frontend, &turned, &transport);
    let from_agent = is_from_agent(host, frame.from, ip);
    let ours = from_agent || slot.node == THIS || slot.node == 0;
    let flow = Tuple {
        source: client,
        source_port: client_port,
        destination: vip,
        destination_port: vip_port,
        protocol: error.protocol,
    };
    let known = host.has.flows.get(&flow).or_else(|| host.has.half.get(&flow)).copied();
    if let Some(endpoint) = known.filter(|_| ours || slot.was_here()) {
        let (ends, quoted) = ((ip.source, endpoint.address), (endpoint.address, client));
        let ports = (endpoint.port, endpoint.clients(client_port));
        let mut after = rewritten(ip, &error, ends, quoted, ports);
        if from_agent {
            after.change(|ip| ip.ttl = ORDINARY);
        }
        add(&mut host.has.sent, endpoint.backend, frame.length(ip));
        let counted = if from_agent { vec![Reason::DeliveredForPeer] } else { vec![] };
        let frame = Frame { rest: after.bytes(), ..frame.clone() };
        return Some(End::Changed(Verdict::Pass, frame, counted));
    }
    if !ours {
        return Some(forward(host, frame, ip, slot));
    }
    if frontend.host_address && !from_agent || host.is_anothers(frame.to) {
        return Some(End::Untouched);
    }
    Some(End::Dropped(Reason::ErrorUnmatched))
}

/// An error about a packet that was translated here goes on as the flow's packets of its own
/// direction do.
fn translated(host: &mut Host, frame: &Frame, ip: &Ip, error: &Error) -> Option<End> {
    if !host.is.vips.values().any(|vip| vip.owner == THIS) {
        return None;
    }
    let way = Tuple {
        source: error.quoted.destination,
        source_port: error.ports.1,
        destination: error.quoted.source,
        destination_port: error.ports.0,
        protocol: error.protocol,
    };
    let to = *host.has.translations.get(&way)?;
    if to.link.interface == 0 {
        return Some(End::Dropped(Reason::NatClientUnknown));
    }
    if let Some(end) = nat::unfit(host, frame, ip, to.link) {
        return Some(end);
    }
    let (ends, quoted) = ((to.source, to.destination), (to.destination, to.source));
    let mut after = rewritten(ip, error, ends, quoted, (to.destination_port, to.source_port));
    after.change(|ip| ip.ttl = nat::next_ttl(ip.ttl));
    Some(nat::sent(host, frame, &after, to))
}

/// An error leaves; nothing where it is about nothing that was delivered here.
pub(super) fn leave(host: &Host, frame: &Frame, ip: &Ip) -> Option<End> {
    let error = parse(ip)?;
    let (client, backend) = (error.quoted.source, error.quoted.destination);
    let (client_port, backend_port) = error.ports;
    if !host.is.served.contains(&(backend, backend_port)) {
        return None;
    }
    let reply = Tuple {
        source: backend,
        source_port: backend_port,
        destination: client,
        destination_port: client_port,
        protocol: error.protocol,
    };
    let vip = host.has.replies.get(&reply).or_else(|| host.has.half.get(&reply))?;
    let (ends, quoted) = ((vip.address, ip.destination), (client, vip.address));
    let after = rewritten(ip, &error, ends, quoted, (vip.clients(client_port), vip.port));
    let frame = Frame { rest: after.bytes(), ..frame.clone() };
    Some(End::Changed(Verdict::Pass, frame, vec![]))
}

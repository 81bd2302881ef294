//! Address translation, for a client on the host that its backend runs on: the owner rewrites both
//! addresses and both ports (DESIGN §4, step 5).

use std::net::IpAddr;

use kube_vip_common::stats::Reason;

use super::balance::{ORDINARY, flow, forward};
use super::host::{Host, Link, Slot, THIS, Translation, Tuple, add};
use super::packet::{ACK, FIN, Frame, Ip, RST, SYN, TCP, Transport};
use super::{End, Verdict};

/// What the tests' interface is numbered.
const ARRIVED_ON: u32 = 1;

/// How far a connection has come.
const REPLIED: u16 = 1;
const ESTABLISHED: u16 = 2;
const CLIENT_DONE: u16 = 4;
const BACKEND_DONE: u16 = 8;
const RESET: u16 = 16;

/// Of a packet to a backend, what balancing says of it.
#[derive(Clone, Copy)]
pub(super) struct Way {
    pub(super) slot: Slot,
    pub(super) from_agent: bool,
}

/// A packet of a flow that was translated before; nothing where there is none.
pub(super) fn known(
    host: &mut Host,
    frame: &Frame,
    ip: &Ip,
    transport: &Transport,
    way: Way,
) -> Option<End> {
    let key = flow(ip, transport);
    let to = *host.has.translations.get(&key)?;
    let backend = host.is.backends.get(&to.backend);
    let gone = backend.is_none_or(|b| (b.address, b.port) != (to.destination, to.destination_port));
    let ended =
        to.state & RESET != 0 || to.state & CLIENT_DONE != 0 && to.state & BACKEND_DONE != 0;
    let over = match transport.protocol {
        TCP => transport.opens() && (ended || gone),
        _ => gone,
    };
    if over {
        host.has.translations.remove(&to.other(key.protocol));
        host.has.translations.remove(&key);
        return None;
    }
    translate(host, frame, ip, transport, to, Some(way))
}

/// What a backend sends back to a port of the VIP.
pub(super) fn reply(host: &mut Host, frame: &Frame, ip: &Ip, transport: &Transport) -> Option<End> {
    let to = *host.has.translations.get(&flow(ip, transport)).filter(|to| to.reply)?;
    if to.link.interface == 0 {
        return Some(End::Dropped(Reason::NatClientUnknown));
    }
    translate(host, frame, ip, transport, to, None)
}

fn translate(
    host: &mut Host,
    frame: &Frame,
    ip: &Ip,
    transport: &Transport,
    to: Translation,
    way: Option<Way>,
) -> Option<End> {
    if let Some(end) = unfit(host, frame, ip, to.link) {
        return Some(end);
    }
    let key = flow(ip, transport);
    let state = next(to.state, to.reply, transport);
    if state != to.state {
        let other = to.other(key.protocol);
        let leads_back = host.has.translations.get(&other).is_some_and(|back| {
            (back.source, back.source_port) == (key.destination, key.destination_port)
                && (back.destination, back.destination_port) == (key.source, key.source_port)
        });
        if !leads_back {
            host.has.translations.remove(&key);
            return None;
        }
        let link = way
            .filter(|way| way.slot.backend == to.backend)
            .map(|way| link(host, way.slot, ip.is_v4()));
        let client = way.map(|way| client_link(frame, way.from_agent));
        for (key, link) in [(key, link), (other, client)] {
            if let Some(entry) = host.has.translations.get_mut(&key) {
                entry.state = state;
                entry.link = link.filter(|link| link.interface != 0).unwrap_or(entry.link);
            }
        }
    }
    Some(send(host, frame, ip, to))
}

/// The first packet of a flow to be translated.
pub(super) fn open(
    host: &mut Host,
    frame: &Frame,
    ip: &Ip,
    transport: &Transport,
    Way { slot, from_agent }: Way,
) -> End {
    if host.is_anothers(frame.to) {
        return End::Untouched;
    }
    let owner = host.is.vips.get(&ip.destination).map_or(0, |vip| vip.owner);
    if owner != THIS {
        return hand_over(host, frame, ip, slot, owner, from_agent);
    }
    let there = link(host, slot, ip.is_v4());
    if there.interface == 0 {
        return End::Dropped(Reason::NoNextHop);
    }
    if let Some(end) = unfit(host, frame, ip, there) {
        return end;
    }
    let Some(backend) = host.is.backends.get(&slot.backend).copied() else {
        return End::Many(vec![], Verdict::Drop);
    };
    let Some(port) = port(host, ip, transport, backend.address, backend.port) else {
        return End::Dropped(Reason::NatPortsExhausted);
    };
    let key = flow(ip, transport);
    let to = Translation {
        source: ip.destination,
        source_port: port,
        destination: backend.address,
        destination_port: backend.port,
        backend: slot.backend,
        reply: false,
        link: there,
        state: next(0, false, transport),
    };
    let back = Translation {
        source: ip.destination,
        source_port: transport.destination,
        destination: ip.source,
        destination_port: transport.source,
        reply: true,
        link: client_link(frame, from_agent),
        ..to
    };
    host.has.translations.insert(to.other(key.protocol), back);
    host.has.translations.insert(key, to);
    send(host, frame, ip, to)
}

/// Only the owner translates.
fn hand_over(
    host: &mut Host,
    frame: &Frame,
    ip: &Ip,
    slot: Slot,
    owner: u32,
    from_agent: bool,
) -> End {
    let node = host.is.nodes.get(&owner).copied().unwrap_or_default();
    if from_agent {
        End::Dropped(Reason::NatNotOwner)
    } else if owner == 0 || node.hop(ip.is_v4()).interface == 0 {
        End::Dropped(Reason::NatNoOwner)
    } else {
        forward(host, frame, ip, Slot { node: owner, ..slot })
    }
}

/// The client's own port, else the next of a row that scatters over those from 1024 on, which is
/// neither a frontend's nor taken; 64 are tried.
fn port(
    host: &mut Host,
    ip: &Ip,
    transport: &Transport,
    server: IpAddr,
    server_port: u16,
) -> Option<u16> {
    let (vip, protocol) = (ip.destination, transport.protocol);
    let mut port = transport.source;
    for _ in 0..65 {
        let reply = Tuple {
            source: server,
            source_port: server_port,
            destination: vip,
            destination_port: port,
            protocol,
        };
        if port >= 1024
            && !host.is.frontends.contains_key(&(vip, port, protocol))
            && !host.has.translations.contains_key(&reply)
        {
            return Some(port);
        }
        let fraction = host.has.next_try.wrapping_mul(0x9e37_79b1);
        host.has.next_try = host.has.next_try.wrapping_add(1);
        port = 1024 + ((u64::from(fraction) * 64512) >> 32) as u16;
    }
    None
}

fn next(state: u16, reply: bool, transport: &Transport) -> u16 {
    let is = |flag| transport.protocol == TCP && transport.flags & flag != 0;
    let mut state = state;
    if is(RST) {
        return state | RESET;
    }
    if is(ACK) {
        state &= !RESET;
    }
    if reply {
        state |= REPLIED;
    } else if state & REPLIED != 0 && !is(SYN) {
        state |= ESTABLISHED;
    }
    match (is(FIN), reply) {
        (true, true) => state | BACKEND_DONE,
        (true, false) => state | CLIENT_DONE,
        _ => state,
    }
}

pub(super) fn unfit(host: &Host, frame: &Frame, ip: &Ip, link: Link) -> Option<End> {
    let flooded = match link.interface {
        ARRIVED_ON => link.own != frame.to,
        _ => host.is_anothers(frame.to),
    };
    if flooded {
        return Some(End::Untouched);
    }
    (ip.ttl <= 1).then_some(End::Dropped(Reason::NatTtlExceeded))
}

fn link(host: &Host, slot: Slot, v4: bool) -> Link {
    let hop = host.is.nodes.get(&slot.node).copied().unwrap_or_default().hop(v4);
    Link { interface: hop.interface, mac: hop.mac, own: hop.own }
}

fn client_link(frame: &Frame, from_agent: bool) -> Link {
    let interface = if from_agent || !frame.is_unicast() { 0 } else { ARRIVED_ON };
    Link { interface, mac: frame.from, own: frame.to }
}

fn send(host: &mut Host, frame: &Frame, ip: &Ip, to: Translation) -> End {
    let (_, at) = ip.content();
    let mut ip = ip.clone();
    ip.change(|ip| {
        (ip.source, ip.destination) = (to.source, to.destination);
        ip.set_port(at, to.source_port);
        ip.set_port(at + 2, to.destination_port);
        ip.ttl = next_ttl(ip.ttl);
    });
    sent(host, frame, &ip, to)
}

/// What leaves is no agent's frame.
pub(super) fn next_ttl(ttl: u8) -> u8 {
    let marked = |ttl: u8| (240..248).contains(&ttl);
    if marked(ttl) || marked(ttl - 1) { ORDINARY } else { ttl - 1 }
}

/// A packet as it leaves.
pub(super) fn sent(host: &mut Host, frame: &Frame, ip: &Ip, to: Translation) -> End {
    let counter = if to.reply { &mut host.has.replied } else { &mut host.has.sent };
    add(counter, to.backend, frame.length(ip));
    out(frame, ip, to.link)
}

fn out(frame: &Frame, ip: &Ip, link: Link) -> End {
    let frame = Frame { to: link.mac, from: link.own, rest: ip.bytes(), ..frame.clone() };
    let same_link = link.interface == ARRIVED_ON;
    let verdict = if same_link { Verdict::Transmit } else { Verdict::Redirect };
    End::Changed(verdict, frame, vec![])
}

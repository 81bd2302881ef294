//! A packet for a frontend.

use kube_vip_common::stats::Reason;

use super::host::{Endpoint, Ends, Frontend, Host, Node, Slot, THIS, Tuple, add};
use super::packet::{FIN, Frame, IP6IP6, IPIP, Ip, RST, SCTP, TCP, Transport, UDP, octets};
use super::refuse::{self, Refusal};
use super::{End, LAST, Verdict, marked, nat, position};

/// TTL of a frame that an agent sends on at position 0.
pub(super) const FIRST: u8 = 240;

/// The mark of an agent's own look at a backend, which is not balanced.
const LOOK: u8 = 239;

/// What the kernel is given where a mark was.
pub(super) const ORDINARY: u8 = 64;

pub(super) fn judge(
    host: &mut Host,
    frame: &Frame,
    ip: &Ip,
    frontend: Frontend,
    transport: Transport,
) -> End {
    if frontend.host_address && ip.ttl == LOOK {
        return End::Untouched;
    }
    add(&mut host.has.arrived, frontend.id, frame.length(ip));
    let position = position(host, frame.from, ip);
    let from_agent = position.is_some();
    let hash = hash(&frontend, ip, &transport);
    let slot = choose(host, &frontend, ip, &transport);
    let table = host.is.tables.get(&frontend.id);
    // Of an agent's frame some backend here, if not the table's own.
    let local = table.map(|table| pick(&table.locals, hash)).unwrap_or_default();
    let settling = table.is_some_and(|table| table.settling);
    // The slot has moved, or another host has looked elsewhere already.
    let elsewhere = slot.past != [0; 4] || position.is_some_and(|position| position > 0);
    // Another agent's choice of node counts. Without any backend connections go on until they end.
    let ours = from_agent || slot.node == THIS || slot.node == 0;
    if (ours || slot.was_here())
        && let Some(endpoint) = known(host, ip, &transport, elsewhere)
    {
        return deliver(host, frame, ip, endpoint, from_agent);
    }
    let way = nat::Way { slot, from_agent };
    let node = host.is.nodes.get(&slot.node).copied().unwrap_or_default();
    // The reply would never leave the client's own host.
    let client_there = slot.node != THIS && slot.node != 0 && node.address(ip.is_v4()) == ip.source;
    let mut translated = false;
    if !ours {
        let hop = node.hop(ip.is_v4());
        if hop.interface == 0 {
            return End::Dropped(Reason::NoNextHop);
        }
        if !client_there && (hop.tunnel.is_some() || frame.from != hop.mac) {
            return forward(host, frame, ip, slot);
        }
        translated = true;
        if transport.protocol == SCTP {
            if frontend.host_address {
                return End::Untouched;
            }
            let refusal = Refusal::Unreachable(Reason::NoBackendUnreachable);
            return refuse::refuse(host, frame, ip, refusal);
        }
    }
    let goes_on = transport.goes_on();
    let translatable = transport.protocol != SCTP;
    if !goes_on
        && ours
        && let Some(endpoint) = again(host, ip, &transport)
    {
        return deliver(host, frame, ip, endpoint, from_agent);
    }
    translated |= translatable && !goes_on && from_agent && client_there;
    if translatable
        && (translated || goes_on)
        && let Some(end) = nat::known(host, frame, ip, &transport, way)
    {
        return end;
    }
    let refusal = if goes_on {
        if let Some(endpoint) = half_open(host, ip, &transport, elsewhere) {
            return deliver(host, frame, ip, endpoint, from_agent);
        }
        let position = position.unwrap_or(onward(ip));
        let told = host.is.strays.get(&flow(ip, &transport)).copied();
        if let Some(end) = second_chance(host, frame, ip, slot, told, position) {
            return end;
        }
        if settling {
            Refusal::Dropped(Reason::Unsettled)
        } else {
            Refusal::tcp(from_agent, Reason::NoFlowReset)
        }
    } else if translated {
        return nat::open(host, frame, ip, &transport, way);
    } else {
        let tables = slot;
        let slot = if from_agent && slot.node != THIS { local } else { slot };
        if let Some(backend) = host.is.backends.get(&slot.backend).filter(|_| slot.node != 0) {
            let backend = Endpoint::new(backend.address, backend.port, slot.backend);
            let Some((endpoint, changed)) = begin(host, backend, flow(ip, &transport)) else {
                return End::Dropped(Reason::FlowTableFull);
            };
            let end = deliver(host, frame, ip, endpoint, from_agent);
            return if changed { end.and(Reason::PortChanged) } else { end };
        }
        // Of the agent's table and this host's one is the newer: perhaps it is this one.
        let elsewhere = from_agent && tables.node != 0 && slot.node == 0;
        if elsewhere {
            let only = Slot { past: [0; 4], ..tables };
            let position = position.unwrap_or_default();
            if let Some(end) = second_chance(host, frame, ip, only, None, position) {
                return end;
            }
        }
        match transport.protocol {
            _ if elsewhere && settling => Refusal::Dropped(Reason::Unsettled),
            _ if frontend.silent => Refusal::Dropped(Reason::NoBackendDropped),
            TCP => Refusal::tcp(from_agent, Reason::NoBackendReset),
            _ => Refusal::Unreachable(Reason::NoBackendUnreachable),
        }
    };
    // On a host's own address the kernel may have a connection of its own.
    if frontend.host_address && !from_agent {
        return End::Untouched;
    }
    refuse::refuse(host, frame, ip, refusal)
}

/// The slot of a client's packet.
pub(super) fn choose(host: &Host, frontend: &Frontend, ip: &Ip, transport: &Transport) -> Slot {
    let table = host.is.tables.get(&frontend.id);
    table.map(|table| pick(&table.slots, hash(frontend, ip, transport))).unwrap_or_default()
}

/// The slot of a hash among these: its upper half, scaled.
fn pick(slots: &[Slot], hash: u64) -> Slot {
    let index = (u128::from(hash >> 32) * slots.len() as u128) >> 32;
    slots.get(index as usize).copied().unwrap_or_default()
}

/// What hosts must agree on to the bit: `MurmurHash3`'s finisher over the seed and the words of the
/// tuple, or of the client alone.
fn hash(frontend: &Frontend, ip: &Ip, transport: &Transport) -> u64 {
    let number = |bytes: &[u8]| bytes.iter().fold(0, |n: u128, byte| n << 8 | u128::from(*byte));
    let (client, vip) = (number(&octets(ip.source)), number(&octets(ip.destination)));
    let ports = u64::from(transport.source) << 16 | u64::from(transport.destination);
    let ports = u64::from(transport.protocol) << 32 | ports;
    let halves = |n: u128| [(n >> 64) as u64, n as u64];
    let words = match (ip.is_v4(), frontend.by_client) {
        (true, true) => vec![client as u64],
        (true, false) => vec![(client << 32 | vip) as u64, ports],
        (false, true) => halves(client).to_vec(),
        (false, false) => {
            let [high, low] = halves(vip);
            [&halves(client)[..], &[high ^ low.rotate_left(32), ports]].concat()
        }
    };
    words.iter().fold(frontend.seed, |hash, word| {
        let mut h = (hash ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        h ^= h >> 32;
        h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        h ^ h >> 29
    })
}

/// To a peer.
pub(super) fn forward(host: &mut Host, frame: &Frame, ip: &Ip, slot: Slot) -> End {
    let node = host.is.nodes.get(&slot.node).copied().unwrap_or_default();
    let hop = node.hop(ip.is_v4());
    if hop.interface == 0 {
        return End::Dropped(Reason::NoNextHop);
    }
    let same_link = hop.interface == 1;
    let flooded = if same_link { frame.to != hop.own } else { host.is_anothers(frame.to) };
    if flooded {
        // The host it was for forwards it.
        return End::Untouched;
    }
    if hop.tunnel.is_some() {
        return tunnel(host, frame, ip, (slot, onward(ip)));
    }
    if frame.from == hop.mac {
        return End::Dropped(Reason::BackToSender);
    }
    add(&mut host.has.sent, slot.backend, frame.length(ip));
    towards(host, frame, ip, &node, onward(ip))
}

/// The position that a client's packet gets; the last one where it may be an agent's.
fn onward(ip: &Ip) -> u8 {
    if marked(ip).is_some() { LAST } else { 0 }
}

/// To a peer behind a router, which gets the packet at that position.
pub(super) fn tunnel(host: &mut Host, frame: &Frame, ip: &Ip, (slot, position): (Slot, u8)) -> End {
    host.has.onward = Some((slot, position));
    let node = host.is.nodes.get(&slot.node).copied().unwrap_or_default();
    let hop = node.hop(ip.is_v4());
    let Some(mtu) = hop.tunnel.filter(|_| hop.interface != 0) else {
        return End::Dropped(Reason::NoNextHop);
    };
    if let Some(most) = too_big(ip, mtu) {
        return refuse::refuse(host, frame, ip, Refusal::TooBig(most));
    }
    add(&mut host.has.sent, slot.backend, frame.length(ip));
    towards(host, frame, ip, &node, position)
}

/// The largest packet that fits into a tunnel, where this one does not.
fn too_big(ip: &Ip, mtu: u32) -> Option<u16> {
    let room = if ip.is_v4() { 20 } else { 40 };
    (ip.total() as u32 + room > mtu).then(|| mtu.saturating_sub(room) as u16)
}

/// Out to a node, which gets the packet at that position: with new Ethernet addresses and the mark;
/// if it is behind a router in another packet.
fn towards(host: &Host, frame: &Frame, ip: &Ip, node: &Node, position: u8) -> End {
    let (v4, hop) = (ip.is_v4(), node.hop(ip.is_v4()));
    let mut ip = ip.clone();
    ip.change(|ip| ip.ttl = FIRST + position);
    let (mut rest, mut counted) = (ip.bytes(), vec![]);
    if hop.tunnel.is_some() {
        let here = host.is.nodes.get(&THIS).copied().unwrap_or_default();
        let protocol = if v4 { IPIP } else { IP6IP6 };
        let outer = Ip::around(here.address(v4), node.address(v4), protocol, ip.total());
        rest = [outer.bytes(), rest].concat();
        counted.push(Reason::Tunnelled);
    }
    let frame = Frame { to: hop.mac, from: hop.own, rest, ..frame.clone() };
    let verdict = if hop.interface == 1 { Verdict::Transmit } else { Verdict::Redirect };
    End::Changed(verdict, frame, counted)
}

/// To a host that may know the connection: the one that is said to have it, or of those that the slot
/// leads or led to the next one in the order of all hosts.
fn second_chance(
    host: &mut Host,
    frame: &Frame,
    ip: &Ip,
    slot: Slot,
    told: Option<u32>,
    position: u8,
) -> Option<End> {
    // Of a number only so much is a node's.
    let told = told.map(|id| id & 0xff).filter(|id| *id != 0);
    if slot.node == THIS && slot.past == [0; 4] && told.is_none() {
        return None;
    }
    if host.is_anothers(frame.to) {
        return Some(End::Untouched);
    }
    let v4 = ip.is_v4();
    let sender = host.is.peers.get(&frame.from).copied().filter(|id| *id != 0);
    let here = host.is.nodes.get(&THIS).copied().unwrap_or_default();
    let node = |id: u32| host.is.nodes.get(&id).copied().unwrap_or_default();
    let reached = |id: &u32| {
        ![0, THIS].contains(id)
            && node(*id).hop(v4).interface != 0
            // By another way it is the same host.
            && sender.is_none_or(|sender| node(sender).rank != node(*id).rank)
            // What a client on that host sends is never delivered there.
            && node(*id).address(v4) != ip.source
    };
    if position >= LAST {
        return None;
    }
    let (id, reason) = match told.filter(reached) {
        Some(id) => (id, Reason::StrayLed),
        None => {
            let candidates = [&[slot.node][..], &slot.past].concat();
            let by_rank = |id: &u32| (node(*id).rank.wrapping_sub(here.rank), *id);
            let next = candidates.into_iter().filter(reached).min_by_key(by_rank)?;
            (next, Reason::SecondChance)
        }
    };
    let node = node(id);
    let end = if node.hop(v4).tunnel.is_some() {
        // Whose backend it is nobody knows here.
        tunnel(host, frame, ip, (Slot { node: id, ..Slot::default() }, position + 1))
    } else {
        towards(host, frame, ip, &node, position + 1)
    };
    Some(end.and(reason))
}

pub(super) fn flow(ip: &Ip, transport: &Transport) -> Tuple {
    Tuple {
        source: ip.source,
        source_port: transport.source,
        destination: ip.destination,
        destination_port: transport.destination,
        protocol: transport.protocol,
    }
}

/// Where a flow goes that was delivered here before. A SYN begins anew; UDP has no end of its own,
/// so it moves when its backend is gone or down. That records of connections that have ended count
/// no more after a while needs a clock.
fn known(host: &mut Host, ip: &Ip, transport: &Transport, elsewhere: bool) -> Option<Endpoint> {
    let flow = flow(ip, transport);
    let endpoint = *host.has.flows.get(&flow)?;
    if transport.protocol == UDP {
        return Some(endpoint).filter(|endpoint| is_there(host, endpoint));
    }
    if transport.opens() {
        let Ends { client_done, backend_done, reset } = endpoint.ends;
        if elsewhere && (reset || client_done && backend_done) {
            host.has.flows.remove(&flow);
        }
        return None;
    }
    if transport.has(FIN) || transport.has(RST) || endpoint.ends != Ends::default() {
        host.has.ends(&flow, transport, true);
    }
    Some(endpoint)
}

/// Whether the backend of a flow still is one.
fn is_there(host: &Host, endpoint: &Endpoint) -> bool {
    host.is.backends.get(&endpoint.backend).is_some_and(|backend| {
        !backend.down && (backend.address, backend.port) == (endpoint.address, endpoint.port)
    })
}

/// Where the handshake's last segment goes. It proves that its sender exists by what it
/// acknowledges; then the flow is a whole one. Where the connection may have begun again elsewhere,
/// nothing else counts.
fn half_open(host: &mut Host, ip: &Ip, transport: &Transport, elsewhere: bool) -> Option<Endpoint> {
    let flow = flow(ip, transport);
    let endpoint = *host.has.half.get(&flow)?;
    let answers = |answer| transport.acknowledged() == Some(answer);
    confirm(host, flow, endpoint, answers);
    Some(endpoint).filter(|_| !elsewhere || host.has.flows.contains_key(&flow))
}

/// Where a further UDP packet goes of a flow that is not yet a whole one; the backend's answer makes
/// it one.
fn again(host: &mut Host, ip: &Ip, transport: &Transport) -> Option<Endpoint> {
    let flow = flow(ip, transport);
    if transport.protocol != UDP || host.has.flows.contains_key(&flow) {
        return None;
    }
    let endpoint = *host.has.half.get(&flow)?;
    if !is_there(host, &endpoint) {
        return None;
    }
    confirm(host, flow, endpoint, |_| true);
    Some(endpoint)
}

fn confirm(host: &mut Host, flow: Tuple, endpoint: Endpoint, proved: impl Fn(u32) -> bool) {
    let reply = Tuple::reply_to(&flow, &endpoint);
    let Some(vip) = host.has.half.get(&reply).copied() else { return };
    if vip.answer.is_some_and(proved) {
        host.has.half.remove(&flow);
        host.has.half.remove(&reply);
        host.has.flows.insert(flow, endpoint);
        host.has.replies.insert(reply, Endpoint { answer: None, ..vip });
    }
}

/// Remembers both directions of a flow that begins; whether the client's port had to change.
fn begin(host: &mut Host, backend: Endpoint, flow: Tuple) -> Option<(Endpoint, bool)> {
    let same = |other: &&Endpoint| {
        (other.address, other.port, other.backend)
            == (backend.address, backend.port, backend.backend)
    };
    if let Some(old) = host.has.flows.get(&flow).copied() {
        if flow.protocol != UDP && same(&&old) {
            // A SYN out of the blue must not harm a connection. What the backend answers it comes
            // from the VIP.
            host.has.not_direct(&Tuple::reply_to(&flow, &old));
            host.has.flows.insert(flow, Endpoint { ends: Ends::default(), ..old });
            return Some((old, false));
        }
        host.has.flows.remove(&flow);
    }
    let before = host.has.half.get(&flow).filter(same).map_or(0, |half| half.client_port);
    // SCTP keeps its ports.
    for turn in 0..if flow.protocol == SCTP { 1 } else { 4 } {
        let client_port = if turn == 0 { before } else { another_port(&flow, turn) };
        let endpoint = Endpoint { client_port, ..backend };
        let reply = Tuple::reply_to(&flow, &endpoint);
        let vip = Endpoint {
            client_port: if client_port == 0 || client_port == flow.source_port {
                0
            } else {
                flow.source_port
            },
            ..Endpoint::new(flow.destination, flow.destination_port, backend.backend)
        };
        let ours = |other: &Endpoint| {
            (other.address, other.port, other.client_port)
                == (vip.address, vip.port, vip.client_port)
        };
        if !host.has.replies.get(&reply).is_none_or(ours) {
            continue;
        }
        if flow.protocol == UDP {
            host.has.replies.remove(&reply);
        }
        if ours(host.has.half.entry(reply).or_insert(vip)) {
            host.has.not_direct(&reply);
            host.has.half.insert(flow, endpoint);
            return Some((endpoint, turn > 0));
        }
    }
    None
}

fn another_port(flow: &Tuple, turn: u32) -> u16 {
    let ports = u32::from(flow.source_port) ^ turn << 16 ^ u32::from(flow.destination_port) << 8;
    (1024 + (ports.wrapping_mul(0x9e37_79b1) >> 16) % 64512) as u16
}

/// To a backend here: its address and port become the destination.
fn deliver(host: &mut Host, frame: &Frame, ip: &Ip, endpoint: Endpoint, from_agent: bool) -> End {
    add(&mut host.has.sent, endpoint.backend, frame.length(ip));
    let mut ip = ip.clone();
    ip.change(|ip| {
        ip.destination = endpoint.address;
        ip.set_port(ip.content().1 + 2, endpoint.port);
        if endpoint.client_port != 0 {
            ip.set_port(ip.content().1, endpoint.client_port);
        }
        if from_agent {
            ip.ttl = ORDINARY;
        }
    });
    let counted = if from_agent { vec![Reason::DeliveredForPeer] } else { vec![] };
    End::Delivered(Frame { rest: ip.bytes(), ..frame.clone() }, counted)
}

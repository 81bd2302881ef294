//! The data plane as the documents have it (DESIGN §4, the RFCs), in plain and slow code: a frame in,
//! the verdict, the frame that comes out, counters, events and changed state.
//!
//! Nothing here is shared with the programs but the names of the counters. Frames are parsed into
//! structures, changed and written again; checksums are computed over everything.

mod arp;
mod balance;
mod checksum;
mod errors;
mod fragments;
pub(crate) mod host;
mod leave;
mod nat;
mod nd;
pub(crate) mod packet;
mod probe;
mod refuse;
mod tunnel;
mod unbalanced;

use std::net::IpAddr;

pub(crate) use checksum::checksum;
use kube_vip_common::stats::Reason;
pub(crate) use leave::leave;
pub(crate) use probe::AGE;

use self::host::Host;
use self::packet::{Content, Frame, Ip, Mac, Transport};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Drop,
    /// On its way, to the kernel or to the next program.
    Pass,
    Transmit,
    Redirect,
}

/// Somebody at `mac` claims a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub(crate) by_nd: bool,
    pub(crate) address: IpAddr,
    pub(crate) mac: Mac,
}

/// What becomes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    /// As it goes on; of a dropped one nobody sees it.
    pub(crate) frame: Vec<u8>,
    pub(crate) counted: Vec<Reason>,
    pub(crate) conflict: Option<Conflict>,
    /// It is on its way to a backend here.
    pub(crate) delivered: bool,
}

/// An end without a frame of its own.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// As it came.
    Untouched,
    /// As it came, and counted.
    Counted(Reason),
    Dropped(Reason),
    Conflict(Conflict),
    /// Up to a backend here, changed.
    Delivered(Frame, Vec<Reason>),
    Changed(Verdict, Frame, Vec<Reason>),
    /// As it came.
    Many(Vec<Reason>, Verdict),
}

impl End {
    /// Something else was counted too.
    fn and(self, reason: Reason) -> Self {
        match self {
            Self::Untouched => Self::Counted(reason),
            Self::Counted(other) => Self::Many(vec![reason, other], Verdict::Pass),
            Self::Dropped(other) => Self::Many(vec![reason, other], Verdict::Drop),
            Self::Many(others, verdict) => Self::Many([vec![reason], others].concat(), verdict),
            Self::Delivered(frame, counted) => {
                Self::Delivered(frame, [vec![reason], counted].concat())
            }
            Self::Changed(verdict, frame, counted) => {
                Self::Changed(verdict, frame, [vec![reason], counted].concat())
            }
            Self::Conflict(_) => self,
        }
    }

    fn outcome(self, bytes: &[u8]) -> Outcome {
        let mut outcome = Outcome {
            verdict: Verdict::Pass,
            frame: bytes.to_vec(),
            counted: vec![],
            conflict: None,
            delivered: matches!(self, Self::Delivered(..)),
        };
        match self {
            Self::Untouched => {}
            Self::Many(reasons, verdict) => (outcome.verdict, outcome.counted) = (verdict, reasons),
            Self::Counted(reason) => outcome.counted.push(reason),
            Self::Dropped(reason) => {
                (outcome.verdict, outcome.counted) = (Verdict::Drop, vec![reason]);
            }
            Self::Conflict(conflict) => {
                outcome.verdict = Verdict::Drop;
                outcome.counted.push(Reason::AddressConflict);
                outcome.conflict = Some(conflict);
            }
            Self::Delivered(frame, reasons) => {
                (outcome.frame, outcome.counted) = (frame.bytes(), reasons);
            }
            Self::Changed(verdict, frame, reasons) => {
                outcome = Outcome { verdict, frame: frame.bytes(), counted: reasons, ..outcome };
            }
        }
        outcome
    }
}

/// A frame arrives on the uplink.
pub(crate) fn arrive(host: &mut Host, bytes: &[u8]) -> Outcome {
    judge(host, bytes).outcome(bytes)
}

fn judge(host: &mut Host, bytes: &[u8]) -> End {
    let Some(frame) = Frame::parse(bytes) else { return End::Untouched };
    let ip = match frame.kind {
        packet::ARP => return arp::judge(host, &frame),
        packet::IPV4 => Ip::parse_v4(&frame.rest),
        packet::IPV6 => Ip::parse_v6(&frame.rest),
        _ => None,
    };
    let Some(ip) = ip else { return End::Untouched };
    if nd::names_a_target(&ip) {
        return nd::judge(host, &frame, &ip);
    }
    // Before any judgement on its form: what is not for an address of ours goes on as it is.
    if !host.is.vips.contains_key(&ip.destination) {
        return End::Untouched;
    }
    match (ip.content(), frame.kind) {
        ((Content::Whole(packet::IPIP), _), packet::IPV4)
        | ((Content::Whole(packet::IP6IP6), 0), packet::IPV6) => tunnel::judge(host, &frame, &ip),
        _ => ours(host, &frame, &ip),
    }
}

/// For an address of ours.
fn ours(host: &mut Host, frame: &Frame, ip: &Ip) -> End {
    host.has.onward = None;
    let (content, at) = ip.content();
    if content == Content::Later {
        return fragments::follow(host, frame, ip);
    }
    if let Some(end) = errors::judge(host, frame, ip) {
        return end;
    }
    let end = if let Some(protocol) = content.protocol()
        && let Some(transport) = Transport::parse(protocol, ip.behind(at))
        && let Some(frontend) =
            host.is.frontends.get(&(ip.destination, transport.destination, protocol)).copied()
    {
        balance::judge(host, frame, ip, frontend, transport)
    } else {
        unbalanced::judge(host, frame, ip)
    };
    if matches!(content, Content::First(_)) {
        fragments::remember(host, frame, ip, &end);
    }
    end
}

/// Whoever has a frame with this position knows that nobody follows.
const LAST: u8 = 4;

/// The position that a TTL of 240 to 247 names.
fn marked(ip: &Ip) -> Option<u8> {
    ip.ttl.checked_sub(240).filter(|position| *position < 8)
}

/// The mark between agents says "from an agent, position 0 to 7". It is believed from a known agent's
/// Ethernet address only, for a client that is not that host. Who is not the owner believes the last
/// one from anybody, so that no frame goes round.
fn position(host: &Host, from: Mac, ip: &Ip) -> Option<u8> {
    let position = marked(ip)?;
    let number = host.is.peers.get(&from).copied().filter(|number| *number != host::THIS);
    let believed = number.is_some_and(|number| {
        let node = host.is.nodes.get(&number).copied().unwrap_or_default();
        // Through a tunnel only agents send.
        node.address(ip.is_v4()) != ip.source || from == host::tunnelled(number)
    });
    let vip = host.is.vips.get(&ip.destination).copied();
    let owned = vip.is_some_and(|vip| if vip.is_virtual { host.owns(vip) } else { vip.held });
    (believed || position == LAST && !owned).then_some(position)
}

fn is_from_agent(host: &Host, from: Mac, ip: &Ip) -> bool {
    position(host, from, ip).is_some()
}

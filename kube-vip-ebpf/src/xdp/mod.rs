//! What arrives on an uplink, stage by stage.
//!
//! ```text
//! vlan       tags are taken off, and put on again at the end
//! handle ─┬─ arp, nd        requests for a VIP, claims to it
//!         ├─ judge ─┬─ filter: not ours ────────────────> up, untouched
//!         │         ├─ balance: a frontend's packet ─┬─> deliver: its flow is known here, up
//!         │         │                                └─> forward: to a peer, out again
//!         │         └─ unusual: no plain TCP or UDP ─┬─> balance, where it is a frontend's
//!         │                                          ├─> follow: a fragment, after its first
//!         │                                          └─> nat_error, error: an ICMP error, to whom
//!         │                                                  it concerns
//!         └─ finish ┬─ decapsulate: out of a tunnel ──> judge
//!                   ├─ open: a flow begins here ─> begin ─> recorded: deliver
//!                   ├─ nat: its flow is translated, out again
//!                   ├─ nat_open: such a flow begins, here or at the owner
//!                   ├─ nat_seek: its port is found
//!                   ├─ nat_begin: and goes, out again
//!                   ├─ stray: a connection goes on, unknown here ─> its client exists: deliver
//!                   ├─ second: no, to a host that may know
//!                   ├─ tunnel: to a peer behind a router, out again
//!                   ├─ nat_reply: to its client, out again
//!                   ├─ unbalanced: ours, no frontend ─┬─> echo, probe
//!                   │                                 └─> up where held
//!                   └─ refuse: reset, unreachable, too big or closed
//! ```

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::programs::XdpContext;
use kube_vip_common::filter::{ADDRESSES, TRANSPORT};
use network_types::eth::EthHdr;

use crate::family::{Family, V4, V6, protocol};
use crate::frame::Cursor;
use crate::maps::{self, FILTER};
use crate::stage::{self, Stages};
use crate::{ethertype, helpers};

mod agent;
pub(crate) mod arp;
mod balance;
pub(crate) mod begin;
mod chosen;
mod closed;
pub(crate) mod decapsulate;
mod deliver;
mod direct;
mod echo;
pub(crate) mod error;
mod forward;
pub(crate) mod fragments;
mod limited;
pub(crate) mod locate;
pub(crate) mod nat;
pub(crate) mod nat_begin;
pub(crate) mod nat_error;
pub(crate) mod nat_open;
pub(crate) mod nat_reply;
pub(crate) mod nat_seek;
pub(crate) mod nd;
pub(crate) mod open;
pub(crate) mod pick;
pub(crate) mod probe;
pub(crate) mod recorded;
pub(crate) mod refuse;
mod reset;
pub(crate) mod second;
pub(crate) mod stray;
pub(crate) mod transport;
pub(crate) mod tunnel;
pub(crate) mod unbalanced;
mod unreachable;
pub(crate) mod unusual;
pub(crate) mod vlan;

pub use self::chosen::Chosen;
pub use self::forward::Onward;
pub use self::refuse::Refusal;

/// What becomes of a frame.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It ends here.
    Drop = xdp_action::XDP_DROP,
    /// Up, to the kernel.
    Pass = xdp_action::XDP_PASS,
    /// Out through the interface it came in by.
    Transmit = xdp_action::XDP_TX,
    /// Out through another interface.
    Redirect = xdp_action::XDP_REDIRECT,
}

impl Action {
    /// What a stage answered.
    #[inline(always)]
    const fn from_number(number: u64) -> Self {
        match number as u32 {
            xdp_action::XDP_PASS => Self::Pass,
            xdp_action::XDP_TX => Self::Transmit,
            xdp_action::XDP_REDIRECT => Self::Redirect,
            _ => Self::Drop,
        }
    }
}

/// What a stage says that may leave another one something to do.
pub enum Verdict {
    /// The frame is done with.
    Done(Action),
    /// The frame goes out through this interface.
    Redirect(u32),
    /// It is no plain TCP or UDP.
    Unusual,
    /// It is a fragment, but not its packet's first.
    Follow,
    /// It is an ICMP error.
    Error,
    /// It is the first packet of a flow to be delivered here.
    Open(Chosen),
    /// It is that and the backend is found: the flow is to be recorded, at the first or a further
    /// try.
    Begin(Chosen, u8),
    /// Its flow has been recorded.
    Recorded(Chosen),
    /// It is to be translated.
    Nat(Chosen),
    /// It is the first packet of a flow to be translated.
    NatOpen(Chosen),
    /// That flow needs a port.
    NatSeek(Chosen),
    /// That flow has this port now.
    NatBegin(Chosen, u16),
    /// It is the middle of a connection that has no record here.
    Stray(Chosen),
    /// Nor is that one translated.
    Lost(Chosen),
    /// Nor is its handshake under way.
    Astray(Chosen),
    /// It is an IP packet inside another one.
    Decapsulate,
    /// It goes to a peer behind a router.
    Tunnel(Onward),
    /// It is no frontend's.
    Unbalanced,
    /// It is another agent's probe.
    Probe,
    /// The client is told that nobody serves it.
    Refuse(Refusal),
}

/// Kinds of packed verdicts, in the upper byte.
const DONE: u64 = 0;
const OPEN: u64 = 1 << 56;
const STRAY: u64 = 2 << 56;
const UNBALANCED: u64 = 3 << 56;
const REFUSE: u64 = 4 << 56;
const UNUSUAL: u64 = 5 << 56;
const DECAPSULATE: u64 = 6 << 56;
const TUNNEL: u64 = 7 << 56;
const PROBE: u64 = 8 << 56;
const NAT: u64 = 9 << 56;
const NAT_OPEN: u64 = 10 << 56;
const NAT_SEEK: u64 = 11 << 56;
const NAT_BEGIN: u64 = 12 << 56;
const FOLLOW: u64 = 13 << 56;
const ERROR: u64 = 14 << 56;
const REDIRECT: u64 = 15 << 56;
const BEGIN: u64 = 16 << 56;
const RECORDED: u64 = 17 << 56;
const LOST: u64 = 18 << 56;
const ASTRAY: u64 = 19 << 56;
const KIND: u64 = 0x7f << 56;
/// Flag of a packed verdict: it is about a first fragment.
pub(crate) const FIRST_FRAGMENT: u64 = 1 << 63;
/// Where a port is, above what is chosen.
const PORT: u32 = 40;

impl Verdict {
    /// As a number, for a stage's answer.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        match self {
            Self::Done(action) => DONE | action as u64,
            Self::Open(chosen) => OPEN | chosen.pack(),
            Self::Begin(chosen, turn) => BEGIN | chosen.pack() | (turn as u64) << begin::TURN,
            Self::Recorded(chosen) => RECORDED | chosen.pack(),
            Self::Nat(chosen) => NAT | chosen.pack(),
            Self::NatOpen(chosen) => NAT_OPEN | chosen.pack(),
            Self::NatSeek(chosen) => NAT_SEEK | chosen.pack(),
            Self::NatBegin(chosen, port) => NAT_BEGIN | chosen.pack() | (port as u64) << PORT,
            Self::Stray(chosen) => STRAY | chosen.pack(),
            Self::Lost(chosen) => LOST | chosen.pack(),
            Self::Astray(chosen) => ASTRAY | chosen.pack(),
            Self::Redirect(ifindex) => REDIRECT | ifindex as u64,
            Self::Decapsulate => DECAPSULATE,
            Self::Tunnel(onward) => TUNNEL | onward.pack(),
            Self::Unusual => UNUSUAL,
            Self::Follow => FOLLOW,
            Self::Error => ERROR,
            Self::Unbalanced => UNBALANCED,
            Self::Probe => PROBE,
            Self::Refuse(refusal) => REFUSE | refusal.pack(),
        }
    }

    /// The port in the number of a flow that begins.
    #[inline(always)]
    const fn port(word: u64) -> u16 {
        (word >> PORT) as u16
    }

    /// Whether the number is that of a packet that is refused.
    #[inline(always)]
    const fn is_refusal(word: u64) -> bool {
        word & KIND == REFUSE
    }

    /// Whether the number is that of a stray.
    #[inline(always)]
    const fn is_stray(word: u64) -> bool {
        word & KIND == STRAY
    }
}

/// Judges one frame.
#[inline(always)]
pub fn handle(ctx: &mut XdpContext) -> Action {
    let mut cursor = Cursor::new(ctx);
    let Some(mut ethernet) = cursor.take::<EthHdr>() else {
        return Action::Pass;
    };
    let mut tags = 0;
    if ethertype::is_tag(ethernet.ether_type) {
        tags = stage::pop_tags(ctx.ctx);
        if tags == 0 {
            return Action::Pass;
        }
        // What was taken off has moved everything else.
        cursor = Cursor::new(ctx);
        let Some(again) = cursor.take::<EthHdr>() else {
            return Action::Drop;
        };
        ethernet = again;
    }
    let action = match ethernet.ether_type {
        ethertype::IPV4 => {
            let verdict = judge::<V4>(ctx, ethernet, cursor);
            finish::<V4>(ctx, verdict)
        }
        // Solicitations go to a multicast address, so they are looked for before the filter.
        ethertype::IPV6 if nd::is_solicitation_or_advertisement(&cursor) => {
            Action::from_number(stage::nd(ctx.ctx).into())
        }
        ethertype::IPV6 => {
            let verdict = judge::<V6>(ctx, ethernet, cursor);
            finish::<V6>(ctx, verdict)
        }
        ethertype::ARP => Action::from_number(stage::arp(ctx.ctx).into()),
        _ => Action::Pass,
    };
    if tags != 0 && action != Action::Drop {
        return Action::from_number(stage::push_tags(ctx.ctx, tags, action as u32).into());
    }
    action
}

#[inline(always)]
fn judge<F: Family>(ctx: &XdpContext, ethernet: &mut EthHdr, mut cursor: Cursor<'_>) -> Verdict {
    const NOT_OURS: Verdict = Verdict::Done(Action::Pass);
    let Some(ip) = cursor.take::<F::Header>() else {
        return NOT_OURS;
    };
    let bit = F::bit(F::destination(ip));
    let protocol = F::plain(ip, &mut cursor);
    if let Some(protocol @ (protocol::TCP | protocol::UDP)) = protocol
        && let Some(transport) = transport::parse(&mut cursor, protocol)
    {
        let port = bit.with_port(transport.ports.destination);
        return match FILTER.get(TRANSPORT) {
            Some(filter) if bit.is_set(filter) || port.is_set(filter) => {
                balance::handle::<F>(ctx, ethernet, ip, transport)
            }
            _ => NOT_OURS,
        };
    }
    if !FILTER.get(ADDRESSES).is_some_and(|filter| bit.is_set(filter)) {
        return NOT_OURS;
    }
    if protocol == Some(F::ENCAPSULATED) { Verdict::Decapsulate } else { Verdict::Unusual }
}

/// What few packets need, by stages of their own; each may leave the ones below it something to do.
#[inline(always)]
fn finish<F: Family + Stages>(ctx: &XdpContext, verdict: Verdict) -> Action {
    let mut word = match verdict {
        Verdict::Done(action) => return action,
        Verdict::Redirect(ifindex) => return redirect(ifindex),
        verdict => verdict.pack(),
    };
    if word & KIND == DECAPSULATE {
        word = F::decapsulate(ctx, 0);
    }
    if word & KIND == UNUSUAL {
        word = F::unusual(ctx, 0);
    }
    if word & KIND == FOLLOW {
        word = F::follow(ctx, 0);
    }
    if word & KIND == ERROR {
        word = F::nat_error(ctx, 0);
    }
    if word & KIND == ERROR {
        word = F::error(ctx, 0);
    }
    if word & KIND == OPEN {
        word = F::open(ctx, word & !KIND);
    }
    for _ in 0..begin::TURNS {
        if word & KIND == BEGIN {
            word = F::begin(ctx, word & !KIND);
        }
    }
    if word & KIND == RECORDED {
        word = F::recorded(ctx, word & !KIND);
    }
    // A stray may have been translated before its slot moved.
    if word & KIND == NAT || word & KIND == STRAY {
        word = F::nat(ctx, word);
    }
    if word & KIND == NAT_OPEN {
        word = F::nat_open(ctx, word & !KIND);
    }
    if word & KIND == NAT_SEEK {
        word = F::nat_seek(ctx, word & !KIND);
    }
    if word & KIND == NAT_BEGIN {
        word = F::nat_begin(ctx, word & !KIND);
    }
    if word & KIND == LOST {
        word = F::stray(ctx, word & !KIND);
    }
    if word & KIND == ASTRAY {
        word = F::second(ctx, word & !KIND);
    }
    if word & KIND == UNBALANCED {
        word = F::nat_reply(ctx, word);
    }
    if word & KIND == UNBALANCED {
        word = F::unbalanced(ctx, word);
    }
    if word & KIND == PROBE {
        word = F::probe(ctx, word);
    }
    if word & FIRST_FRAGMENT != 0 {
        word = F::remember(ctx, word);
    }
    if word & KIND == TUNNEL {
        word = F::tunnel(ctx, word & !KIND);
    }
    if word & KIND == REFUSE {
        word = F::refuse(ctx, word & !KIND);
    }
    if word & KIND == REDIRECT { redirect(word as u32) } else { Action::from_number(word) }
}

#[inline(always)]
fn redirect(ifindex: u32) -> Action {
    helpers::redirect(ifindex);
    Action::Redirect
}

/// Whether the frame was for this host alone: errors are never sent about others (RFC 1122 §3.2.2).
#[inline(always)]
fn is_unicast(ethernet: &EthHdr) -> bool {
    ethernet.dst_addr[0] & 1 == 0
}

/// Whether the frame was for another host alone. A switch floods what it does not know the place of,
/// and a bridge's port takes everything up: the host it was for answers it.
#[inline(always)]
fn is_anothers(ctx: &XdpContext, ethernet: &EthHdr) -> bool {
    let own = maps::own_mac(ctx.ingress_ifindex() as u32);
    is_unicast(ethernet) && own.is_some_and(|own| own != ethernet.dst_addr)
}

/// Turns the frame's direction on the link.
#[inline(always)]
fn turn(ethernet: &mut EthHdr) {
    (ethernet.src_addr, ethernet.dst_addr) = (ethernet.dst_addr, ethernet.src_addr);
}

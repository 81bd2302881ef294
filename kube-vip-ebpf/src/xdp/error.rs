//! ICMP errors about what a backend sent: packet too big, nobody there. They come to the VIP, quote
//! a packet from the VIP, and have to reach the host that has the flow: its slot is that of the
//! packet's other direction. There the quotation becomes the packet that the backend sent.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::checksum::{self, Sum};
use kube_vip_common::frontend::HOST_ADDRESS;
use kube_vip_common::mark::ORDINARY_TTL;
use kube_vip_common::node::{NAT, THIS_NODE};
use kube_vip_common::stats::Reason;
use network_types::eth::EthHdr;

use super::{Action, Verdict, agent, balance, forward, is_anothers, pick};
use crate::family::{Family, Payload, Ports, Record as _, protocol};
use crate::frame::{Cursor, length};
use crate::maps::{self, NODES};
use crate::{count, record};

/// The first eight bytes of what is quoted: all that is sure to be there (RFC 792).
type Head = [[u8; 2]; 4];

/// Whether it is an error that quotes a packet, of a control message at the cursor.
#[inline(always)]
pub(super) fn is_one<F: Family>(cursor: &Cursor<'_>) -> bool {
    cursor.peek::<u8>().is_some_and(F::is_error)
}

/// An error about a packet that came from where the error goes, by its parts.
pub(super) struct Quoting<'a, F: Family> {
    pub(super) ethernet: &'a mut EthHdr,
    pub(super) ip: &'a mut F::Header,
    /// The error's checksum.
    pub(super) error: &'a mut [u8; 2],
    pub(super) quoted: &'a mut F::Header,
    /// Ports of the packet that is quoted.
    pub(super) source: &'a mut [u8; 2],
    pub(super) destination: &'a mut [u8; 2],
    /// Its checksum, if it is UDP.
    pub(super) check: &'a mut [u8; 2],
    pub(super) protocol: u8,
}

/// Nothing where it is none.
#[inline(always)]
pub(super) fn quoting<F: Family>(ctx: &XdpContext) -> Option<Quoting<'_, F>> {
    let mut cursor = Cursor::new(ctx);
    let ethernet = cursor.take::<EthHdr>()?;
    let ip = cursor.take::<F::Header>()?;
    if F::payload(ctx, ip, &mut cursor) != Payload::Protocol(F::ICMP) {
        return None;
    }
    let [_, error, _, _] = cursor.take::<Head>()?;
    let quoted = cursor.take::<F::Header>()?;
    let protocol = F::payload(ctx, quoted, &mut cursor).protocol()?;
    if !matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP) {
        return None;
    }
    let [source, destination, _, check] = cursor.take::<Head>()?;
    // Beyond the packet's end by its own word nothing is under its checksum.
    let end = cursor.offset(ctx) - size_of::<EthHdr>();
    if F::source(quoted) != F::destination(ip) || end as u64 > F::length(ip).into() {
        return None;
    }
    Some(Quoting { ethernet, ip, error, quoted, source, destination, check, protocol })
}

#[inline(always)]
pub(crate) fn stage<F: Family>(ctx: XdpContext, _: u64) -> u64 {
    handle::<F>(&ctx).unwrap_or(Verdict::Unbalanced).pack()
}

/// Nothing where it is about no packet of a frontend.
#[inline(always)]
fn handle<F: Family>(ctx: &XdpContext) -> Option<Verdict> {
    let Quoting { ethernet, ip, error, quoted, source, destination, check, protocol } =
        quoting::<F>(ctx)?;
    let (client, vip) = (F::destination(quoted), F::source(quoted));
    // As the client's own packets have them.
    let ports = Ports {
        source: u16::from_be_bytes(*destination),
        destination: u16::from_be_bytes(*source),
        protocol,
    };
    let frontend = maps::frontend(F::frontend_key(vip, ports))?;
    let bytes = length(ctx, F::length(ip));
    count::frontend(frontend.id, bytes);
    let slot = pick::slot(frontend, balance::hash::<F>(frontend, client, vip, ports));
    let from_agent = agent::position::<F>(ethernet, ip).is_some();
    let ours = from_agent || slot.node() == THIS_NODE || !slot.is_some();
    if ours || slot.was_here() {
        let flow = F::tuple(client, vip, ports);
        if let Some(endpoint) = record::flow::<F>(&flow).or_else(|| record::half::<F>(&flow)) {
            let (address, port, backend) = F::parts(&endpoint);
            let port = port.to_be_bytes();
            let client_port = match endpoint.clients() {
                0 => *destination,
                changed => changed.to_be_bytes(),
            };
            let in_ports = swapped(*source, port).join(swapped(*destination, client_port));
            let in_check = follow(protocol, check, F::change(vip, address).join(in_ports));
            // Once in what is quoted, once before the message.
            let in_message = F::error_change(vip, address).join(F::error_change(vip, address));
            let sum = in_message.join(in_ports).join(in_check);
            *error = sum.update(u16::from_ne_bytes(*error)).to_ne_bytes();
            (*source, *destination) = (port, client_port);
            F::set_source(quoted, address);
            F::set_destination(ip, address);
            if from_agent {
                F::set_ttl(ip, ORDINARY_TTL);
                count::reason(Reason::DeliveredForPeer);
            }
            count::sent(backend, bytes);
            return Some(Verdict::Done(Action::Pass));
        }
        if ours {
            let left = frontend.flags & HOST_ADDRESS != 0 && !from_agent;
            if left || is_anothers(ctx, ethernet) {
                return Some(Verdict::Done(Action::Pass));
            }
            count::reason(Reason::ErrorUnmatched);
            return Some(Verdict::Done(Action::Drop));
        }
    }
    let hop = NODES.get(slot.node().into()).map(F::hop).filter(|hop| hop.ifindex != 0);
    Some(match hop {
        None => forward::dropped(ctx, Reason::NoNextHop, ethernet.src_addr),
        // Its host has no agent that would know the flow.
        Some(hop) if hop.way == NAT => {
            forward::dropped(ctx, Reason::ErrorUnmatched, ethernet.src_addr)
        }
        Some(hop) => forward::to::<F>(ctx, ethernet, ip, hop, slot),
    })
}

/// What a change of port means for a checksum that covers it.
#[inline(always)]
pub(super) fn swapped(old: [u8; 2], new: [u8; 2]) -> Sum {
    Sum::default().remove(u16::from_ne_bytes(old).into()).add(u16::from_ne_bytes(new).into())
}

/// Makes the checksum of a quoted UDP header follow a change; what that means for the error's own.
/// That of TCP is beyond the eight bytes, and nobody looks at it.
#[inline(always)]
pub(super) fn follow(protocol: u8, check: &mut [u8; 2], change: Sum) -> Sum {
    let before = u16::from_ne_bytes(*check);
    if protocol != protocol::UDP || before == 0 {
        return Sum::default();
    }
    let after = checksum::udp(change.update(before));
    *check = after.to_ne_bytes();
    Sum::default().remove(before.into()).add(after.into())
}

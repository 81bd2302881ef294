//! ICMP errors about what was delivered to a backend here: nobody there, packet too big. They quote
//! the packet as it was delivered; the client knows only the one that it sent to the VIP.

use aya_ebpf::programs::TcContext;
use kube_vip_common::checksum;
use kube_vip_common::filter::BACKENDS;
use kube_vip_common::stats::Reason;

use super::Action;
use crate::family::{Family, Payload, Ports, Record as _, protocol};
use crate::frame::{Cursor, Word};
use crate::maps::FILTER;
use crate::{count, helpers, record};

/// Where the checksum is in a control message, and the destination port and the checksum of UDP in
/// what is quoted.
const CHECK: usize = 2;
const QUOTED_PORT: usize = 2;
const QUOTED_CHECK: usize = 6;

/// What has to change.
struct Change<F: Family> {
    network: usize,
    message: usize,
    quoted: usize,
    /// Behind the quoted header.
    head: usize,
    sender: F::Bytes,
    backend: (F::Bytes, u16),
    vip: (F::Bytes, u16),
    /// The client's port as the backend knows it, and as it is.
    client: (u16, u16),
    /// Of a quoted UDP header; 0 where there is none.
    check: u16,
}

#[inline(always)]
pub(crate) fn handle<F: Family>(ctx: TcContext, network: usize) -> Action {
    let Some(change) = about_delivered::<F>(&ctx, network) else {
        return Action::Next;
    };
    if rewrite(&ctx, &change).is_err() {
        count::reason(Reason::ReplyFailed);
        return Action::Drop;
    }
    Action::Next
}

#[inline(always)]
fn about_delivered<F: Family>(ctx: &TcContext, network: usize) -> Option<Change<F>> {
    let mut cursor = Cursor::new(ctx);
    cursor.skip(network & 0xff);
    let ip = cursor.take::<F::Header>()?;
    if F::payload(ctx, ip, &mut cursor) != Payload::Protocol(F::ICMP) {
        return None;
    }
    let message = cursor.offset(ctx);
    let [[kind, ..], _] = *cursor.take::<[Word; 2]>()?;
    if !F::is_error(kind) {
        return None;
    }
    let quoted = cursor.offset(ctx);
    let inner = cursor.take::<F::Header>()?;
    let protocol = F::payload(ctx, inner, &mut cursor).protocol()?;
    if !matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP) {
        return None;
    }
    let head = cursor.offset(ctx);
    let [[s0, s1, d0, d1], [_, _, c0, c1]] = *cursor.take::<[Word; 2]>()?;
    // Beyond the packet's end by its own word nothing is under its checksum.
    if (cursor.offset(ctx) - network) as u64 > F::length(ip).into() {
        return None;
    }
    let (client, backend) = (F::source(inner), F::destination(inner));
    // As the backend's own packets have them.
    let ports = Ports {
        source: u16::from_be_bytes([d0, d1]),
        destination: u16::from_be_bytes([s0, s1]),
        protocol,
    };
    let is_backend = |filter| F::bit(backend).with_port(ports.source).is_set(filter);
    if !FILTER.get(BACKENDS).is_some_and(is_backend) {
        return None;
    }
    let reply = F::tuple(backend, client, ports);
    let origin = record::reply::<F>(&reply).or_else(|| record::half::<F>(&reply))?;
    let (vip, port, _) = F::parts(&origin);
    let client_port = match origin.clients() {
        0 => ports.destination,
        changed => changed,
    };
    let check = if protocol == protocol::UDP { u16::from_ne_bytes([c0, c1]) } else { 0 };
    Some(Change {
        network,
        message,
        quoted,
        head,
        sender: F::source(ip),
        backend: (backend, ports.source),
        vip: (vip, port),
        client: (ports.destination, client_port),
        check,
    })
}

#[inline(always)]
fn rewrite<F: Family>(ctx: &TcContext, change: &Change<F>) -> Result<(), i64> {
    let Change { network, message, quoted, head, sender, check, .. } = *change;
    let ((backend, old), (vip, new)) = (change.backend, change.vip);
    let (known, client) = change.client;
    let at = message + CHECK;
    if known != client {
        helpers::replace_port(ctx, at, known, client, false)?;
        ctx.store(head, &client.to_be_bytes(), 0)?;
    }
    if old != new {
        helpers::replace_port(ctx, at, old, new, false)?;
        ctx.store(head + QUOTED_PORT, &new.to_be_bytes(), 0)?;
    }
    if check != 0 {
        let sum = F::change(backend, vip)
            .remove(old.to_be().into())
            .add(new.to_be().into())
            .remove(known.to_be().into())
            .add(client.to_be().into());
        let after = checksum::udp(sum.update(check));
        ctx.l4_csum_replace(at, check.into(), after.into(), 2)?;
        ctx.store(head + QUOTED_CHECK, &after.to_ne_bytes(), 0)?;
    }
    F::replace_in_error(ctx, at, backend, vip)?;
    F::replace_destination(ctx, quoted, backend, vip)?;
    F::replace_in_error(ctx, at, sender, vip)?;
    F::replace_source(ctx, network, sender, vip)
}

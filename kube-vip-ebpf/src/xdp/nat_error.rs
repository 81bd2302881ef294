//! ICMP errors about packets of translated flows, from either end or from a router between: they
//! go where the flow's packets of that direction go, and quote what the other end sent.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::settings::TRANSLATES;
use kube_vip_common::stats::Reason;

use super::error::{self, Quoting};
use super::{Action, Verdict, nat};
use crate::count;
use crate::family::{Family, Ports};
use crate::frame::length;
use crate::maps::SETTINGS;

#[inline(always)]
pub(crate) fn stage<F: Family>(ctx: XdpContext, _: u64) -> u64 {
    handle::<F>(&ctx).unwrap_or(Verdict::Error).pack()
}

/// Nothing where it is about no packet of a translated flow.
#[inline(always)]
fn handle<F: Family>(ctx: &XdpContext) -> Option<Verdict> {
    if SETTINGS.get(0)?.flags & TRANSLATES == 0 {
        return None;
    }
    let Quoting { ethernet, ip, error, quoted, source, destination, check, protocol } =
        error::quoting::<F>(ctx)?;
    // The way of the error: against that of the packet it quotes.
    let ports = Ports {
        source: u16::from_be_bytes(*destination),
        destination: u16::from_be_bytes(*source),
        protocol,
    };
    let (from, to) = (F::destination(quoted), F::source(quoted));
    let way = F::translation(&F::tuple(from, to, ports))?;
    if way.link.ifindex == 0 {
        count::reason(Reason::NatClientUnknown);
        return Some(Verdict::Done(Action::Drop));
    }
    if let Some(verdict) = nat::unfit::<F>(ctx, ethernet, ip, &way.link) {
        return Some(verdict);
    }
    let turned = [way.ports.destination, way.ports.source].map(u16::to_be_bytes);
    let in_header = F::change(to, way.destination).join(F::change(from, way.source));
    let in_ports = error::swapped(*source, turned[0]).join(error::swapped(*destination, turned[1]));
    let in_check = error::follow(protocol, check, in_header.join(in_ports));
    // Both addresses change twice: in the header before the message, and in the one it quotes.
    let in_message = F::error_change(to, way.destination)
        .join(F::error_change(from, way.source))
        .join(F::error_change(to, way.destination))
        .join(F::error_change(F::source(ip), way.source));
    let sum = in_message.join(in_ports).join(in_check);
    *error = sum.update(u16::from_ne_bytes(*error)).to_ne_bytes();
    [*source, *destination] = turned;
    F::set_source(quoted, way.destination);
    F::set_destination(quoted, way.source);
    // A router may be no one the other end has a way to, and it may not be let through as what it is.
    let outer = F::change(F::source(ip), way.source).join(F::change(to, way.destination));
    F::translate(ip, way.source, way.destination, nat::next_ttl(F::ttl(ip)), outer);
    Some(nat::out::<F>(ctx, ethernet, &way, length(ctx, F::length(ip))))
}

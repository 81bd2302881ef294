//! The first packet of a translated flow, for which a port has been found: its way there is recorded
//! too, and it goes.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::frontend::FROM_NODE;
use kube_vip_common::nat::{self, PortRange};
use kube_vip_common::node::THIS_NODE;
use kube_vip_common::stats::Reason;
use network_types::eth::EthHdr;

use super::nat::{forget, link, send, tell};
use super::{Action, Chosen, Verdict, locate};
use crate::count;
use crate::family::{Family, Life, Ports, Translation};
use crate::frame::Cursor;
use crate::maps::{self, BACKENDS, NODES, SETTINGS};
use crate::stage::Stages;

#[inline(always)]
pub(crate) fn stage<F: Family + Stages>(ctx: XdpContext, word: u64) -> u64 {
    let verdict = handle::<F>(&ctx, Chosen::unpack(word), Verdict::port(word));
    verdict.unwrap_or(Verdict::Done(Action::Drop)).pack()
}

/// Nothing where the packet is not what the caller saw.
#[inline(always)]
fn handle<F: Family + Stages>(ctx: &XdpContext, chosen: Chosen, port: u16) -> Option<Verdict> {
    let transport = locate::transport::<F>(ctx)?;
    let mut cursor = Cursor::new(ctx);
    let ethernet = cursor.take::<EthHdr>()?;
    let ip = cursor.take::<F::Header>()?;
    let (client, vip, ports) = (F::source(ip), F::destination(ip), transport.ports);
    let id = chosen.slot.backend();
    let backend = BACKENDS.get(id)?;
    let (source, _) = source::<F>(vip, ports)?;
    let to = Translation {
        source,
        destination: F::bytes(&backend.address),
        ports: Ports { source: port, destination: backend.port, protocol: ports.protocol },
        backend: id,
        reply: false,
        link: link(F::hop(NODES.get(chosen.slot.node().into())?)),
        life: Life { state: nat::next(0, false, transport.signs), seen: maps::clock() },
    };
    let flow = F::tuple(client, vip, ports);
    if !F::nat_insert(&flow, &F::nat_value(&to)) {
        forget::<F>(&flow, &to);
        count::reason(Reason::FlowTableFull);
        return Some(Verdict::Done(Action::Drop));
    }
    tell::<F>(&flow);
    Some(send::<F>(ctx, ethernet, ip, transport, &to))
}

/// The address a flow of that frontend is to come from, and its ports.
#[inline(always)]
pub(super) fn source<F: Family>(vip: F::Bytes, ports: Ports) -> Option<(F::Bytes, PortRange)> {
    let frontend = maps::frontend(F::frontend_key(vip, ports))?;
    if frontend.flags & FROM_NODE == 0 {
        return Some((vip, PortRange::OF_VIP));
    }
    let here = F::of_node(NODES.get(THIS_NODE.into())?);
    Some((here, SETTINGS.get(0)?.nat_ports))
}

//! Refuses a TCP segment that another agent forwarded here.
//!
//! The frame comes from that agent's Ethernet address, so where its client is on the link only the
//! kernel's routing knows. The segment is passed up to a port of this host that is taken and never
//! listened on; the kernel resets it, and the way back leads through the reply path like any other.

use aya_ebpf::programs::XdpContext;
use kube_vip_common::backend::NOBODY;
use kube_vip_common::mark::ORDINARY_TTL;
use kube_vip_common::node::THIS_NODE;
use network_types::eth::EthHdr;

use super::{Action, transport};
use crate::family::{Family, Payload, Ports, protocol};
use crate::frame::Cursor;
use crate::maps::{NODES, SETTINGS};

#[inline(never)]
pub(super) fn answer<F: Family>(ctx: XdpContext) -> Option<Action> {
    let mut cursor = Cursor::new(&ctx);
    let _ethernet = cursor.take::<EthHdr>()?;
    let ip = cursor.take::<F::Header>()?;
    let Payload::Protocol(protocol::TCP) = F::payload(&ctx, ip, &mut cursor) else {
        return None;
    };
    let mut transport = transport::parse(&mut cursor, protocol::TCP)?;
    let port = SETTINGS.get(0)?.closed_port;
    let here = F::of_node(NODES.get(THIS_NODE.into())?);
    if port == 0 || !F::is_answerable(here) {
        return None;
    }
    let (client, vip, ports) = (F::source(ip), F::destination(ip), transport.ports);
    let reply_ports = Ports { source: port, destination: ports.source, protocol: ports.protocol };
    let reply = F::tuple(here, client, reply_ports);
    // Nobody proved anything here, so it may be evicted by its like.
    F::half().insert(&reply, &F::endpoint(vip, ports.destination, NOBODY), 0).ok()?;
    transport.set_destination(port, F::change(vip, here));
    F::set_destination(ip, here);
    F::set_ttl(ip, ORDINARY_TTL);
    Some(Action::Pass)
}

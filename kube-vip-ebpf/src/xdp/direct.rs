//! A client that speaks straight to a backend here. If it uses the port that a balanced connection
//! of its had before, the record of that would rewrite the backend's replies: it has to end.

use kube_vip_common::stats::Reason;

use super::transport::Transport;
use crate::count;
use crate::family::{Family, Ports};

#[inline(always)]
pub(super) fn handle<F: Family>(ip: &F::Header, transport: &Transport<'_>) {
    // Inside a TCP connection nothing can have changed since its SYN.
    if transport.has_connections() && !transport.opens {
        return;
    }
    let (client, backend, ports) = (F::source(ip), F::destination(ip), transport.ports);
    let reply_ports =
        Ports { source: ports.destination, destination: ports.source, protocol: ports.protocol };
    let reply = F::tuple(backend, client, reply_ports);
    let Some(origin) = F::reverse(&reply) else {
        return;
    };
    if transport.is_tcp() {
        // The balanced connection may still be closing; the backend's SYN-ACK tells when it is gone.
        F::mark_direct(&reply);
        return;
    }
    let (vip, port, _) = F::parts(&origin);
    let flow = F::tuple(client, vip, Ports { destination: port, ..ports });
    F::forget(&flow, &reply);
    count::reason(Reason::FlowReplaced);
}

//! A client that speaks straight to a backend here. If it uses the port that a balanced connection
//! of its had before, the record of that would rewrite the backend's replies: it has to end.

use kube_vip_common::stats::Reason;

use super::transport::Transport;
use crate::family::Family;
use crate::{count, record};

#[inline(always)]
pub(super) fn handle<F: Family>(ip: &F::Header, transport: &Transport<'_>) {
    // Inside a TCP connection nothing can have changed since its SYN.
    if transport.has_connections() && !transport.opens {
        return;
    }
    let (client, backend, ports) = (F::source(ip), F::destination(ip), transport.ports);
    let reply = F::tuple(backend, client, ports.turned());
    let Some(origin) = record::reply::<F>(&reply).or_else(|| record::half::<F>(&reply)) else {
        return;
    };
    if transport.is_tcp() {
        // The balanced connection may still be closing; the backend's SYN-ACK tells when it is gone.
        record::mark_direct::<F>(&reply);
        return;
    }
    record::forget::<F>(&record::flow_tuple::<F>(client, ports.turned(), &origin), &reply);
    count::reason(Reason::FlowReplaced);
}

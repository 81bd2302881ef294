//! How many new connections a client may open at a frontend that limits them, counted where their
//! flows are recorded: a datagram does not say elsewhere whether it begins something.

use kube_vip_common::rate::Client;
use kube_vip_common::stats::Reason;

use crate::family::{Family, Ports};
use crate::{count, maps};

/// Whether the client has used up what the frontend allows it; one more is counted either way.
#[inline(always)]
pub(super) fn exceeded<F: Family>(ip: &F::Header, ports: Ports) -> bool {
    let Some(frontend) = maps::frontend(F::frontend_key(F::destination(ip), ports)) else {
        return false;
    };
    if frontend.interval == 0 {
        return false;
    }
    let client = Client { address: F::address(F::source(ip)), frontend: frontend.id, pad: 0 };
    let exceeded = !maps::admits(&client, frontend.interval);
    if exceeded {
        count::reason(Reason::RateLimited);
    }
    exceeded
}

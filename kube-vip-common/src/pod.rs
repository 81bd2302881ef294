//! Lets aya copy these types between the agent and the kernel.

use aya::Pod;

use crate::address::Address;
use crate::backend::Backend;
use crate::event::Event;
use crate::filter::Filter;
use crate::flow::{Endpoint4, Endpoint6, Tuple4, Tuple6};
use crate::frontend::{Frontend, FrontendKey, Listed};
use crate::lease::Lease;
use crate::node::{Node, PeerKey, Uplink};
use crate::settings::Settings;
use crate::stats::{BackendTraffic, Traffic};
use crate::table::Line;
use crate::vip::Vip;

macro_rules! pod {
    ($($type:ty),+ $(,)?) => {
        $(
            // SAFETY: the type is `repr(C)`, has no padding (its fields fill the size asserted
            // beside it) and any bytes are a value of it.
            unsafe impl Pod for $type {}
        )+
    };
}

pod!(
    Address,
    Backend,
    BackendTraffic,
    Endpoint4,
    Endpoint6,
    Event,
    Filter,
    Frontend,
    FrontendKey,
    Lease,
    Line,
    Listed,
    Node,
    PeerKey,
    Settings,
    Traffic,
    Tuple4,
    Tuple6,
    Uplink,
    Vip,
);

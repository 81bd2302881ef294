//! Lets aya copy these types between the agent and the kernel.

use aya::Pod;

use crate::address::Address;
use crate::backend::Backend;
use crate::client::{ClientEnd, ClientKey};
use crate::clock::Clock;
use crate::event::{Event, EventTime};
use crate::filter::Filter;
use crate::flow::{Endpoint4, Endpoint6, Tuple4, Tuple6};
use crate::fragment::{Fate, FragmentKey};
use crate::frontend::{Frontend, FrontendKey, Listed};
use crate::lease::Lease;
use crate::nat::{Nat4, Nat6, PortRange};
use crate::node::{Node, Peer, PeerKey, Uplink};
use crate::rate::{Allowance, Client};
use crate::settings::Settings;
use crate::stats::{BackendTraffic, Count, Traffic};
use crate::stray::Stray;
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
    Allowance,
    Backend,
    BackendTraffic,
    Client,
    ClientEnd,
    ClientKey,
    Clock,
    Count,
    Endpoint4,
    Endpoint6,
    Event,
    EventTime,
    Fate,
    Filter,
    FragmentKey,
    Frontend,
    FrontendKey,
    Lease,
    Line,
    Listed,
    Nat4,
    Nat6,
    Node,
    Peer,
    PeerKey,
    PortRange,
    Settings,
    Stray,
    Traffic,
    Tuple4,
    Tuple6,
    Uplink,
    Vip,
);

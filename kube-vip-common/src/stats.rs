//! Counters, all per CPU.

use crate::assert_size;

/// Value of `STATS`, by [`Reason`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
}

/// Value of `FRONTEND_STATS`: what arrived for a frontend, by its id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes, Ethernet headers included.
    pub bytes: u64,
}

/// Value of `BACKEND_STATS`: what went to a backend and what came back, by its id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendTraffic {
    /// Forwarded or delivered by this host.
    pub sent: Traffic,
    /// Replies that left this host; only backends here have any.
    pub replies: Traffic,
}

assert_size!(Count: 8, Traffic: 16, BackendTraffic: 32);

/// Declares [`Reason`] with the name and the sentence for each.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet was answered or dropped: index into `STATS`.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Reason {
            /// All of them, in the order of their indices.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name in status and metrics.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// One sentence for people.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+),)+
                }
            }
        }
    };
}

reasons! {
    /// ARP request for an owned VIP, answered.
    ArpAnswered = "arp_answered",
    /// ARP request for a VIP that is not owned here, dropped.
    ArpSwallowed = "arp_swallowed",
    /// Neighbour solicitation for an owned VIP, answered.
    NdAnswered = "nd_answered",
    /// Neighbour solicitation for a VIP that is not owned here, or malformed, dropped.
    NdSwallowed = "nd_swallowed",
    /// Somebody else claimed a VIP by ARP or neighbour discovery, dropped.
    AddressConflict = "address_conflict",
    /// An event that was not sent because its kind had one a moment ago.
    EventSuppressed = "event_suppressed",
    /// Echo request to an owned VIP, answered.
    EchoAnswered = "echo_answered",
    /// Echo request to a VIP that is not owned here, dropped.
    EchoSwallowed = "echo_swallowed",
    /// To a VIP held here, no frontend: passed to the kernel.
    PassedUp = "passed_up",
    /// Delivered to a backend here on another agent's word.
    DeliveredForPeer = "delivered_for_peer",
    /// TCP to a VIP not held here, no frontend: answered with RST.
    NoFrontendReset = "no_frontend_reset",
    /// To a VIP not held here, no frontend: answered with unreachable.
    NoFrontendUnreachable = "no_frontend_unreachable",
    /// TCP to a frontend without a ready backend: answered with RST.
    NoBackendReset = "no_backend_reset",
    /// UDP to a frontend without a ready backend: answered with unreachable.
    NoBackendUnreachable = "no_backend_unreachable",
    /// To a frontend without a ready backend that is told not to answer: dropped.
    NoBackendDropped = "no_backend_dropped",
    /// New connection of a client that has opened too many in a second: dropped.
    RateLimited = "rate_limited",
    /// TCP in the middle of a connection this host does not know: answered with RST.
    NoFlowReset = "no_flow_reset",
    /// Of a connection this host does not know, or for a backend that is not here: sent on to a host
    /// that may know better.
    SecondChance = "second_chance",
    /// Of a connection that another host has said is there: sent on to it.
    StrayLed = "stray_led",
    /// Of a connection that nobody is left to know, while tables or the owner have just changed:
    /// dropped, it is sent again.
    Unsettled = "unsettled",
    /// From an agent, for a VIP or frontend not known here yet: dropped.
    UnknownFromAgent = "unknown_from_agent",
    /// The chosen backend is on the host the packet came from: dropped.
    BackToSender = "back_to_sender",
    /// The way to the chosen backend's host is not known: dropped.
    NoNextHop = "no_next_hop",
    /// Sent through a tunnel to a peer behind a router.
    Tunnelled = "tunnelled",
    /// Too big for the tunnel to the chosen backend's host: answered with the size that fits.
    TooBig = "too_big",
    /// The frame had no room for a tunnel's header: dropped.
    TunnelFailed = "tunnel_failed",
    /// Came through a tunnel from a peer.
    Decapsulated = "decapsulated",
    /// Came through a tunnel from a host that is no peer, as if from an agent: dropped.
    TunnelRefused = "tunnel_refused",
    /// Another agent's probe, answered.
    ProbeAnswered = "probe_answered",
    /// A fragment of a packet to a VIP whose first one was not let through or has not come: dropped.
    Fragment = "fragment",
    /// A fragment that went where the first one of its packet had gone.
    FragmentFollowed = "fragment_followed",
    /// An ICMP error about a flow that nobody here knows: dropped.
    ErrorUnmatched = "error_unmatched",
    /// A frontend's packet with headers cut short: dropped.
    Malformed = "malformed",
    /// To a VIP not held here, of a kind that is never answered: dropped.
    Unanswerable = "unanswerable",
    /// A record of a flow could not be written: dropped.
    FlowTableFull = "flow_table_full",
    /// No free port for another translated connection to a backend: dropped.
    NatPortsExhausted = "nat_ports_exhausted",
    /// To be translated, but its TTL or hop limit was used up: dropped.
    NatTtlExceeded = "nat_ttl_exceeded",
    /// From an agent, to be translated by the VIP's owner, which is not this host: dropped.
    NatNotOwner = "nat_not_owner",
    /// To be translated by the VIP's owner, and no way to it is known: dropped.
    NatNoOwner = "nat_no_owner",
    /// Reply to a client of which this host has only heard through another agent: dropped.
    NatClientUnknown = "nat_client_unknown",
    /// A translated flow that the agent was not told of for want of room: it looks at all of them.
    NatUntold = "nat_untold",
    /// A direct connection ended the record of a balanced one with the same tuple.
    FlowReplaced = "flow_replaced",
    /// A new flow got another source port, its own leads to another VIP's flow at the same backend.
    PortChanged = "port_changed",
    /// ARP that left this host in the name of a VIP not owned here, dropped.
    ArpFenced = "arp_fenced",
    /// Neighbour discovery that left this host in the name of a VIP not owned here, dropped.
    NdFenced = "nd_fenced",
    /// Reply that could not be rewritten, dropped.
    ReplyFailed = "reply_failed",
    /// A frame whose VLAN tags could not be put on again: dropped.
    TagLost = "tag_lost",
    /// A process on this host was led to a backend, by a connection or a datagram to the VIP.
    ClientBalanced = "client_balanced",
    /// A process on this host asked for a frontend without a ready backend: refused.
    ClientRefused = "client_refused",
    /// Where a process was led could not be remembered: it sees the backend's address, not the VIP.
    ClientUnrecorded = "client_unrecorded",
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_reason_has_a_name_of_its_own() {
        let names: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
    }
}

//! One address as the kernel keeps it: how we make ours, and how we know them again.

use std::net::IpAddr;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo,
};

use crate::source::links::local_address;

/// `IFA_PROTO` (Linux 5.18): who put it there. The kernel's own numbers end at 3.
const PROTOCOL: AddressProtocol = AddressProtocol::Other(250);

/// The request for one of ours. The tag is kept as the metric (`IFA_RT_PRIORITY`, Linux 4.18), which
/// has no other effect: it is that of the prefix route, and ours have none.
pub(super) fn message(index: u32, address: IpAddr, tag: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    let mut flags = AddressFlags::Noprefixroute;
    if address.is_ipv4() {
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = 32;
    } else {
        message.header.family = AddressFamily::Inet6;
        message.header.prefix_len = 128;
        // The election decides who has it; detection would only delay it by seconds.
        flags |= AddressFlags::Nodad;
    }
    // Deprecated from the start: good for answering, but not chosen as the source of a new
    // connection (RFC 6724 §5, rule 3). For IPv4 Linux has no such rule; there a /32 is not chosen
    // because it shares no network with any next hop (`inet_select_addr` in net/ipv4/devinet.c).
    let mut lifetime = CacheInfo::default();
    lifetime.ifa_preferred = 0;
    lifetime.ifa_valid = u32::MAX;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
        AddressAttribute::Flags(flags),
        AddressAttribute::CacheInfo(lifetime),
        AddressAttribute::RoutePriority(tag),
        AddressAttribute::Protocol(PROTOCOL),
    ];
    message
}

/// An address that is there.
#[derive(Debug)]
pub(super) struct Entry {
    message: AddressMessage,
    address: IpAddr,
    flags: AddressFlags,
    metric: Option<u32>,
    protocol: Option<AddressProtocol>,
}

impl Entry {
    pub(super) fn read(message: AddressMessage) -> Option<Self> {
        let address = local_address(&message)?;
        let (mut flags, mut metric, mut protocol) = (AddressFlags::empty(), None, None);
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Flags(found) => flags = *found,
                AddressAttribute::RoutePriority(found) => metric = Some(*found),
                AddressAttribute::Protocol(found) => protocol = Some(*found),
                _ => {}
            }
        }
        Some(Self { message, address, flags, metric, protocol })
    }

    pub(super) fn index(&self) -> u32 {
        self.message.header.index
    }

    pub(super) fn address(&self) -> IpAddr {
        self.address
    }

    pub(super) fn message(&self) -> &AddressMessage {
        &self.message
    }

    pub(super) fn is(&self, index: u32, address: IpAddr) -> bool {
        self.index() == index && self.address == address
    }

    /// One of an instance's. A kernel that drops the one mark has the other.
    pub(super) fn is_marked(&self, tag: u32) -> bool {
        self.metric == Some(tag) && self.protocol.is_none_or(|protocol| protocol == PROTOCOL)
    }

    pub(super) fn has_marks(&self) -> bool {
        self.metric.is_some() || self.protocol.is_some()
    }

    /// Nobody has made it an ordinary address meanwhile.
    pub(super) fn is_usable(&self) -> bool {
        let bad = AddressFlags::Tentative | AddressFlags::Dadfailed;
        self.flags.contains(AddressFlags::Deprecated) && !self.flags.intersects(bad)
    }
}

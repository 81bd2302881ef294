//! This host's interfaces and their addresses.
//!
//! Events only say *that* something changed; what is then true is always read from the kernel as a
//! whole. So a lost event, one nobody understood and an ordinary one are all repaired by the same
//! few lines, and the order of addresses is the kernel's own.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::netlink::{EVENT_BUFFER, Event, Events, NetlinkError, Requests};
use crate::view::{Link, Mac};

const GROUPS: [MulticastGroup; 3] =
    [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];

/// After a look, so that a burst of events costs few. The first event is acted on at once.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// Looks take at most one part in this many of a core, however many links and events there are.
const SHARE: u32 = 20;
/// A look for its own sake.
const AT_LEAST_EVERY: Duration = Duration::from_secs(60);
/// After a look that failed, and between tries to listen again.
const RETRY: Duration = Duration::from_secs(1);

/// Interfaces by name.
pub type Links = BTreeMap<String, Link>;

/// What the kernel lists now.
pub async fn snapshot() -> Result<Links, NetlinkError> {
    let requests = Requests::open()?;
    let mut query = LinkMessage::default();
    // Statistics are most of what the kernel says of a link, and nothing here needs them.
    query.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let links = requests.dump("list the interfaces", RouteNetlinkMessage::GetLink(query)).await?;
    let query = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let addresses = requests.dump("list the addresses", query).await?;
    Ok(assemble(links, addresses))
}

/// Follows the interfaces until every receiver is gone. Fails only if the first look does.
pub async fn follow() -> Result<watch::Receiver<Links>, NetlinkError> {
    follow_with(EVENT_BUFFER).await
}

async fn follow_with(buffer: usize) -> Result<watch::Receiver<Links>, NetlinkError> {
    // Listening first: what changes during the first look is seen as an event.
    let events = Events::open(&GROUPS, buffer)?;
    let (sender, receiver) = watch::channel(snapshot().await?);
    tokio::spawn(run(events, buffer, sender));
    Ok(receiver)
}

async fn run(mut events: Events, buffer: usize, links: watch::Sender<Links>) {
    loop {
        let alive = tokio::select! {
            () = links.closed() => return,
            event = events.next() => event.is_some(),
            () = sleep(AT_LEAST_EVERY) => true,
        };
        if !alive {
            warn!("the kernel's events of interfaces have ended, listening again");
            sleep(RETRY).await;
            match Events::open(&GROUPS, buffer) {
                Ok(opened) => events = opened,
                Err(error) => warn!(%error, "cannot listen to events of interfaces"),
            }
        }
        while let Some(event) = events.waiting() {
            if matches!(event, Event::Lost) {
                debug!("events of interfaces were lost, all are read again");
            }
        }
        let started = Instant::now();
        match snapshot().await {
            Ok(now) => {
                links.send_if_modified(|known| {
                    let changed = *known != now;
                    *known = now;
                    changed
                });
                sleep(DEBOUNCE.max(started.elapsed() * SHARE)).await;
            }
            Err(error) => {
                warn!(%error, "cannot look at the interfaces");
                sleep(RETRY).await;
            }
        }
    }
}

pub(super) fn assemble(
    links: Vec<RouteNetlinkMessage>,
    addresses: Vec<RouteNetlinkMessage>,
) -> Links {
    let mut by_index: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
    for message in addresses {
        if let RouteNetlinkMessage::NewAddress(message) = message
            && let Some(address) = local_address(&message)
            && let Ok(network) = IpNet::new(address, message.header.prefix_len)
        {
            by_index.entry(message.header.index).or_default().push(network);
        }
    }
    links
        .into_iter()
        .filter_map(|message| {
            let RouteNetlinkMessage::NewLink(message) = message else { return None };
            let addresses = by_index.remove(&message.header.index).unwrap_or_default();
            read_link(&message, addresses)
        })
        .collect()
}

fn read_link(message: &LinkMessage, addresses: Vec<IpNet>) -> Option<(String, Link)> {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        mac: Mac::default(),
        kind: String::new(),
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        addresses,
    };
    let mut name = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(found) => name = Some(found.clone()),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = kind.to_string();
                    }
                }
            }
            // Others than Ethernet's have other lengths, and are of no use to the data plane.
            LinkAttribute::Address(bytes) => {
                link.mac = bytes.as_slice().try_into().map(Mac).unwrap_or_default();
            }
            _ => {}
        }
    }
    Some((name?, link))
}

/// The host's own end: on a point-to-point link `IFA_ADDRESS` is the other one
/// (`include/uapi/linux/if_addr.h`).
pub(crate) fn local_address(message: &AddressMessage) -> Option<IpAddr> {
    let mut end = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => return Some(*address),
            AddressAttribute::Address(address) => end = Some(*address),
            _ => {}
        }
    }
    end
}

#[cfg(test)]
#[path = "links_tests.rs"]
mod tests;

//! How the addresses of peers and backends are reached: own, on-link with a hardware address, or
//! behind a router.
//!
//! The data plane forwards without the kernel, so the kernel sees no traffic to these neighbours
//! and would let their entries go stale: they are confirmed from here, by asking the kernel to
//! probe. It does so with its own ARP and neighbour solicitations; no packet of ours is sent, and
//! what stays behind at the end is an ordinary entry that ages like any other.

mod query;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use rtnetlink::MulticastGroup;
use rtnetlink::packet_route::RouteNetlinkMessage;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, sleep_until};
use tracing::{debug, warn};

use self::query::Query;
use self::table::{Effect, Neighbour, Table, Target, Way};
use super::netlink::{EVENT_BUFFER, Event, Events, NetlinkError};
use crate::view::Hop;

// Nexthop objects are left out: their replacement causes route events of its own (unless
// net.ipv4.nexthop_compat_mode is off; then the look of each minute finds it).
const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Neigh,
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// Known neighbours are probed this often: less than the least time an entry stays reachable
/// (half of `base_reachable_time`, 15 s), so that they never go stale.
const CONFIRM: Duration = Duration::from_secs(10);
/// Between tries to resolve a neighbour that does not answer; the kernel's own `retrans_time`.
const RESOLVE: Duration = Duration::from_secs(1);
/// Unresolved neighbours asked for in one go. The others follow a second later.
const RESOLVE_AT_MOST: usize = 64;
/// A look at everything for its own sake.
const LOOK: Duration = Duration::from_secs(60);
/// A look at the routes to what is behind routers: of a path MTU the kernel tells only who asks.
const LOOK_BEHIND: Duration = Duration::from_secs(1);
/// After a look, so that a burst of events costs few. The first event is acted on at once.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// Looks take at most one part in this many of a core, however many routes change.
const SHARE: u32 = 20;
/// After a failed look, and between tries to listen again.
const RETRY: Duration = Duration::from_secs(1);

/// The way to each wanted address.
pub type Hops = BTreeMap<IpAddr, Hop>;

/// What a message of the kernel's says of a route or a neighbour, in words.
pub(super) fn read(message: &RouteNetlinkMessage) -> Option<String> {
    match message {
        RouteNetlinkMessage::NewRoute(route) => Some(format!("{:?}", query::read_way(route))),
        RouteNetlinkMessage::NewNeighbour(entry) | RouteNetlinkMessage::DelNeighbour(entry) => {
            Some(format!("{:?}", Neighbour::read(entry)))
        }
        _ => None,
    }
}

/// Follows the ways to the wanted addresses until every receiver is gone. Fails only if the
/// kernel cannot be asked at all; addresses that cannot be reached are entries that say so.
pub async fn follow(
    wanted: watch::Receiver<BTreeSet<IpAddr>>,
) -> Result<watch::Receiver<Hops>, NetlinkError> {
    follow_with(wanted, EVENT_BUFFER, CONFIRM).await
}

async fn follow_with(
    mut wanted: watch::Receiver<BTreeSet<IpAddr>>,
    buffer: usize,
    confirm: Duration,
) -> Result<watch::Receiver<Hops>, NetlinkError> {
    // Listening first: what changes during the first look is seen as an event.
    let events = Events::open(&GROUPS, buffer)?;
    let mut table = Table::default();
    table.want(&wanted.borrow_and_update());
    let (hops, receiver) = watch::channel(Hops::new());
    let mut follower = Follower { table, hops, buffer, look_at: Instant::now(), next: None };
    look(&mut follower.table).await?;
    follower.publish();
    tokio::spawn(follower.run(events, wanted, every(confirm)));
    Ok(receiver)
}

struct Follower {
    table: Table,
    hops: watch::Sender<Hops>,
    /// Size of the event buffer.
    buffer: usize,
    /// Not before this is anything looked up again.
    look_at: Instant,
    /// The unresolved address that is next to be asked for.
    next: Option<Target>,
}

impl Follower {
    async fn run(
        mut self,
        mut events: Events,
        mut wanted: watch::Receiver<BTreeSet<IpAddr>>,
        mut confirm: Interval,
    ) {
        let mut resolve = every(RESOLVE);
        let mut everything = every(LOOK);
        let mut behind = every(LOOK_BEHIND);
        loop {
            tokio::select! {
                () = self.hops.closed() => return,
                Ok(()) = wanted.changed() => {
                    self.table.want(&wanted.borrow_and_update());
                    self.look_at = Instant::now();
                }
                event = events.next() => match event {
                    Some(event) => self.handle(event, &mut events).await,
                    None => events = self.listen_again().await,
                },
                () = sleep_until(self.look_at), if self.table.is_dirty() => self.look().await,
                _ = resolve.tick(), if self.table.has_unresolved() => self.resolve().await,
                _ = confirm.tick() => self.confirm().await,
                _ = everything.tick() => self.table.all_dirty(),
                _ = behind.tick() => self.table.dirty_routed(),
            }
            self.publish();
        }
    }

    async fn handle(&mut self, event: Event, events: &mut Events) {
        let mut vanished = BTreeSet::new();
        let mut next = Some(event);
        while let Some(event) = next {
            match event {
                Event::Lost => {
                    debug!("events of neighbours and routes were lost, all are looked up again");
                    self.table.all_dirty();
                }
                Event::Message(message) => {
                    if let Effect::Vanished(targets) = self.table.apply(&message) {
                        vanished.extend(targets);
                    }
                }
            }
            next = events.waiting();
        }
        if !vanished.is_empty()
            && let Ok(query) = Query::open()
        {
            for target in vanished {
                resolve(&query, &self.table, target).await;
            }
        }
    }

    async fn listen_again(&mut self) -> Events {
        warn!("the kernel's events of neighbours have ended, listening again");
        loop {
            sleep(RETRY).await;
            match Events::open(&GROUPS, self.buffer) {
                Ok(events) => {
                    self.table.all_dirty();
                    return events;
                }
                Err(error) => warn!(%error, "cannot listen to events of neighbours"),
            }
        }
    }

    async fn look(&mut self) {
        let started = Instant::now();
        self.look_at = match look(&mut self.table).await {
            Ok(()) => Instant::now() + DEBOUNCE.max(started.elapsed() * SHARE),
            Err(error) => {
                warn!(%error, "cannot look up the ways to the peers");
                Instant::now() + RETRY
            }
        };
    }

    /// Asks again for neighbours that do not answer, in turn.
    async fn resolve(&mut self) {
        let unresolved = self.table.unresolved();
        let start = self.next.map_or(0, |next| unresolved.partition_point(|one| *one < next));
        let count = unresolved.len().min(RESOLVE_AT_MOST);
        let turn = unresolved.iter().cycle().skip(start).take(count).copied().collect();
        self.next = unresolved.get((start + count) % unresolved.len().max(1)).copied();
        if let Err(error) = self.ask_for(turn).await {
            debug!(%error, "cannot look at unresolved neighbours");
        }
    }

    async fn ask_for(&mut self, targets: Vec<Target>) -> Result<(), NetlinkError> {
        let query = Query::open()?;
        for target in targets {
            let Some(interface) = self.table.on_link(target) else { continue };
            let neighbour = query.neighbour(interface, target.address).await?;
            self.table.found(target, Way::OnLink { interface }, neighbour);
            if neighbour.wants_asking() {
                resolve(&query, &self.table, target).await;
            }
        }
        Ok(())
    }

    /// Has the kernel probe the neighbours that are known.
    async fn confirm(&mut self) {
        let Ok(query) = Query::open() else { return };
        for (target, interface) in self.table.confirmable() {
            // The entry went away or failed meanwhile.
            if let Err(error) = query.probe(interface, target.address).await {
                debug!(%error, "a neighbour is looked up again");
                self.table.dirty(target);
            }
        }
    }

    fn publish(&self) {
        let now = self.table.hops();
        self.hops.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
    }
}

/// Looks up what may have changed.
async fn look(table: &mut Table) -> Result<(), NetlinkError> {
    let query = Query::open()?;
    for target in table.dirty_targets() {
        let way = match target.router_on {
            Some(interface) => Way::OnLink { interface },
            None => query.way(target.address).await?,
        };
        let Way::OnLink { interface } = way else {
            table.found(target, way, Neighbour::Missing);
            continue;
        };
        let mut neighbour = query.neighbour(interface, target.address).await?;
        let ask = neighbour.wants_asking();
        if let (Some(vanished), Neighbour::Asking | Neighbour::Missing) =
            (table.vanished(target, interface), neighbour)
        {
            neighbour = vanished;
        }
        table.found(target, way, neighbour);
        if ask {
            resolve(&query, table, target).await;
        }
    }
    Ok(())
}

/// Makes the kernel ask for a neighbour.
async fn resolve(query: &Query, table: &Table, target: Target) {
    if let Some(interface) = table.on_link(target)
        && let Err(error) = query.resolve(interface, target.address).await
    {
        // An interface that went down: its event has the way looked up again.
        debug!(%error, "cannot resolve a neighbour");
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

#[cfg(test)]
#[path = "neighbours/tests.rs"]
mod tests;

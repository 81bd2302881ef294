//! Which of the connections that are here the tables lead elsewhere, and whom that is told.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use super::Shared;
use super::inbox::port;
use crate::dataplane::{Flow, Port, SysError, World};

/// Between two looks: tables may change many times a second.
const PAUSE: Duration = Duration::from_millis(200);

/// Looking takes at most this part of the time.
const SHARE: u32 = 10;

/// Some time after a change other hosts have the same tables, and what they began meanwhile by older
/// ones is looked for.
const AFTER: Duration = Duration::from_secs(3);

/// IP protocol number (RFC 768). A datagram of a flow that is not known begins one.
const UDP: u8 = 17;

/// Tells other hosts of strays, for ever.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut again = None;
    loop {
        let waits = again.map_or(Duration::from_secs(3600), |at: Instant| {
            at.saturating_duration_since(Instant::now())
        });
        again = match timeout(waits, shared.moved.notified()).await {
            Ok(()) => Some(Instant::now() + AFTER),
            Err(_) => None,
        };
        let began = Instant::now();
        let looking = {
            let shared = Arc::clone(&shared);
            spawn_blocking(move || find(&shared))
        };
        match looking.await {
            Ok(Ok(found)) => shared.tell(found),
            Ok(Err(error)) => tracing::warn!("strays are not told: {error:#}"),
            Err(_) => {}
        }
        sleep(PAUSE.max(began.elapsed() * SHARE)).await;
    }
}

fn find(shared: &Shared) -> Result<BTreeMap<String, Vec<Flow>>, SysError> {
    let world = shared.world();
    let mut finder = Finder::new(&world);
    let mut found = BTreeMap::<String, Vec<Flow>>::new();
    shared.records.flows(|flow| {
        if let Some(host) = finder.host(&flow) {
            match found.get_mut(host) {
                Some(flows) => flows.push(flow),
                None => drop(found.insert(host.to_owned(), vec![flow])),
            }
        }
    })?;
    Ok(found)
}

impl Shared {
    fn tell(&self, mut found: BTreeMap<String, Vec<Flow>>) {
        for (name, outbox) in self.outboxes().values() {
            outbox.strays(found.remove(name).unwrap_or_default());
        }
    }
}

/// Finds out where connections are looked for.
struct Finder<'a> {
    world: &'a World,
    /// Of those tables that any connection came through.
    tables: HashMap<Port, Vec<u8>>,
}

impl<'a> Finder<'a> {
    fn new(world: &'a World) -> Self {
        Self { world, tables: HashMap::new() }
    }

    /// The other host that gets the segments of a connection; nothing where that is this one, or not
    /// known.
    fn host(&mut self, flow: &Flow) -> Option<&'a String> {
        if flow.protocol == UDP {
            return None;
        }
        let port = port(flow)?;
        let frontend = self.world.frontends.get(&port)?;
        let slots = self.tables.entry(port).or_insert_with(|| frontend.slots());
        let node = *slots.get(frontend.slot(flow)?)?;
        self.world.holder(flow.vip, node)
    }
}

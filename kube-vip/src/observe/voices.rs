//! What the kernel programs tell of their own accord: events, and log lines where they are wanted.

use kube_vip_common::event::{ARP_CONFLICT, Event, ND_CONFLICT, PORTS_EXHAUSTED};
use nix::net::if_::if_indextoname;
use tokio::sync::mpsc;
use tracing::warn;

use super::conflicts::Claim;
use crate::dataplane::{Voices, event, poll};
use crate::view::Mac;

/// Passes on what the programs tell: to the log, and who else claims a VIP to whom it concerns, for
/// ever.
pub async fn listen(voices: Voices, claims: mpsc::Sender<Claim>) {
    let Voices { events, logger } = voices;
    let logs = async {
        let Some(Ok(mut logger)) = logger.map(poll) else {
            return std::future::pending().await;
        };
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    };
    let conflicts = async {
        let Ok(mut events) = poll(events) else {
            return std::future::pending().await;
        };
        while let Ok(mut ready) = events.readable_mut().await {
            while let Some(record) = ready.get_inner_mut().next() {
                if let Some(claim) = tell(&record) {
                    // Who is behind with older ones has enough to do.
                    let _ = claims.try_send(claim);
                }
            }
            ready.clear_ready();
        }
    };
    tokio::join!(logs, conflicts);
}

fn tell(record: &[u8]) -> Option<Claim> {
    let event = event(record)?;
    let by = match event.kind {
        ARP_CONFLICT => "ARP",
        ND_CONFLICT => "neighbour discovery",
        PORTS_EXHAUSTED => {
            exhausted(&event);
            return None;
        }
        _ => return None,
    };
    let (address, mac) = (event.address.to_ip(), Mac(event.mac.octets));
    let interface = if_indextoname(event.ifindex).map_or_else(
        |_| format!("number {}", event.ifindex),
        |name| name.to_string_lossy().into_owned(),
    );
    Some(Claim { address, mac, interface, by })
}

fn exhausted(event: &Event) {
    let backend = event.address.to_ip();
    warn!(
        %backend,
        "no free port for another translated connection to this backend: new connections to it are \
         dropped until one ends; more backends, or an agent on its host, help"
    );
}

//! What the programs say of translated flows.

use std::sync::Arc;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep};

use super::Shared;
use super::outbox::Outbox;
use crate::dataplane::{Key, poll};

/// Changes are gathered for so long: of most connections there are several in it.
pub(super) const GATHER: Duration = Duration::from_millis(10);

/// How often it is looked whether the programs had no room to say something.
const COUNT: Duration = Duration::from_secs(1);

/// Passes on what changes, for ever.
pub(super) async fn run(shared: Arc<Shared>, changes: [RingBuf<MapData>; 2]) {
    let [v4, v6] = changes.map(|ring| follow(Arc::clone(&shared), ring));
    tokio::join!(v4, v6);
}

async fn follow(shared: Arc<Shared>, ring: RingBuf<MapData>) {
    let mut ring: AsyncFd<_> = match poll(ring) {
        Ok(ring) => ring,
        Err(error) => {
            tracing::error!("translated connections are told of late, if at all: {error}");
            return;
        }
    };
    while let Ok(mut ready) = ring.readable_mut().await {
        let noticed = Instant::now();
        sleep(GATHER).await;
        let mut keys = Vec::new();
        while let Some(record) = ready.get_inner_mut().next() {
            keys.extend(Key::read(&record));
        }
        ready.clear_ready();
        shared.each(|outbox| outbox.changed(&keys, noticed));
    }
}

/// Has everything told where something was not said.
pub(super) async fn count(shared: Arc<Shared>) {
    let mut known = shared.records.untold();
    loop {
        sleep(COUNT).await;
        let now = shared.records.untold();
        if std::mem::replace(&mut known, now) != now {
            shared.each(Outbox::sweep);
        }
    }
}

//! Tells one other host what it has yet to be told: one message at a time, so many records a second.

use std::sync::Arc;
use std::time::Duration;

use kube_vip_common::nat;
use kube_vip_quorum::cluster::NodeId;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::Shared;
use super::message::{Answer, MOST, Message, Outcome, Translated};
use super::outbox::{Next, Outbox, Sweep};
use crate::dataplane::{Key, Link, Records, Translation, World};
use crate::view::Mac;

/// A record takes its share of a second: twenty thousand translated flows, five times as many strays.
const EACH_TRANSLATION: Duration = Duration::from_micros(50);
const EACH_STRAY: Duration = Duration::from_micros(10);

/// A host that has nothing to be told is greeted this often: its agent may be another one by now.
const GREET: Duration = Duration::from_millis(500);

/// How long a host may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Before a host that did not answer, or could not use what it was told, is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// The same where one does not understand the other.
const STRANGE: Duration = Duration::from_secs(5);

/// How often flows that have been used since are told again: what changes in them is but the time.
const REFRESH: Duration = Duration::from_secs(15);

/// Talks to the host with that number, for ever.
pub(super) async fn run(shared: Arc<Shared>, node: NodeId, outbox: Arc<Outbox>) {
    let mut courier = Courier { shared, node, outbox, sweep: None, began: 0, free: Instant::now() };
    let mut refresh = Instant::now() + REFRESH;
    // Before anything is told it must be known who is there.
    let mut message = Some(Message::Greeting);
    loop {
        if let Some(message) = message.take()
            && let Err(pause) = courier.tell(message).await
        {
            courier.sweep = None;
            courier.outbox.lost();
            sleep(pause).await;
        }
        if !courier.outbox.is_reached() {
            message = Some(Message::Greeting);
            continue;
        }
        if Instant::now() >= refresh {
            refresh = Instant::now() + REFRESH;
            if !courier.shared.world().owned.is_empty() {
                courier.outbox.sweep_by(Sweep::Since(courier.began));
            }
        }
        message = match courier.outbox.next(MOST) {
            Some(Next::Changes(keys)) => Some(courier.read(keys).await),
            Some(Next::Strays(flows)) => Some(Message::Strays(flows)),
            Some(Next::Sweep(sweep)) => {
                courier.begin(sweep);
                None
            }
            None => courier.wait().await,
        };
    }
}

struct Courier {
    shared: Arc<Shared>,
    node: NodeId,
    outbox: Arc<Outbox>,
    /// Translated flows that are being gone through.
    sweep: Option<mpsc::Receiver<Vec<Translated>>>,
    /// The second of the clock in which that began.
    began: u32,
    /// When the next message may leave.
    free: Instant,
}

impl Courier {
    /// What there is to say of flows that have changed: as they are now.
    async fn read(&self, keys: Vec<Key>) -> Message {
        let shared = Arc::clone(&self.shared);
        let read = move || {
            let world = shared.world();
            let read = keys.iter().map(|key| shared.records.translation(key));
            let known = read.filter_map(|known| match known {
                Ok(known) => known,
                Err(error) => {
                    tracing::warn!("a translated connection is not told: {error:#}");
                    None
                }
            });
            known.map(|known| translated(&world, &known)).collect()
        };
        Message::Translations(tokio::task::spawn_blocking(read).await.unwrap_or_default())
    }

    /// Begins to go through all translated flows. It waits where this host's turn has not come.
    fn begin(&mut self, sweep: Sweep) {
        let (found, to_tell) = mpsc::channel(2);
        // What is used while it is gone through may be used after it was read.
        self.began = Records::now().wrapping_sub(2);
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || {
            let world = shared.world();
            let result = shared.records.translations(|some| {
                let told = some.iter().filter(|known| is_told(known, sweep, &world));
                let told: Vec<_> = told.map(|known| translated(&world, known)).collect();
                told.chunks(MOST).all(|chunk| found.blocking_send(chunk.to_vec()).is_ok())
            });
            if let Err(error) = result {
                tracing::warn!("translated connections are not all told: {error:#}");
            }
        });
        self.sweep = Some(to_tell);
    }

    /// Waits for something to say; nothing where the outbox may have it.
    async fn wait(&mut self) -> Option<Message> {
        let sweep = &mut self.sweep;
        let found = async {
            match sweep {
                Some(sweep) => sweep.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.outbox.work.notified() => None,
            found = found => {
                if found.is_none() {
                    self.sweep = None;
                    self.outbox.swept();
                }
                found.map(Message::Translations)
            }
            () = sleep(GREET) => Some(Message::Greeting),
        }
    }

    /// Tells it. An error says how long to wait before the host is told everything again.
    async fn tell(&mut self, message: Message) -> Result<(), Duration> {
        sleep_until(self.free).await;
        let (translations, strays) = match &message {
            Message::Translations(records) => (records.len(), 0),
            Message::Strays(flows) => (0, flows.len()),
            Message::Greeting => (0, 0),
        };
        self.free =
            Instant::now() + EACH_TRANSLATION * translations as u32 + EACH_STRAY * strays as u32;
        let post = self.shared.post().ok_or(PAUSE)?;
        let answer = post.send(self.node, message.encode(), PATIENCE).await;
        let answer = answer.map_err(|error| {
            tracing::debug!(node = self.node, %error, "not told");
            PAUSE
        })?;
        match Answer::decode(&answer) {
            Some(Answer { outcome: Outcome::Taken, life }) => {
                if self.outbox.taken(life, translations, strays) {
                    self.outbox.sweep();
                    self.shared.moved.notify_one();
                }
                Ok(())
            }
            Some(Answer { outcome: Outcome::Later, .. }) => Err(PAUSE),
            // Of another version: perhaps not for long.
            _ => Err(STRANGE),
        }
    }
}

/// Whether a host is told of a flow that was found.
fn is_told(known: &Translation, sweep: Sweep, world: &World) -> bool {
    let owned = world.owned.contains(&known.flow.vip.ip());
    let used = match sweep {
        Sweep::All => true,
        Sweep::Since(second) => known.seen.wrapping_sub(second) < u32::MAX / 2,
    };
    let tcp = known.flow.protocol == TCP;
    owned && used && !nat::is_idle(known.seen, Records::now(), known.state, tcp)
}

/// IP protocol number (RFC 9293).
const TCP: u8 = 6;

/// A translated flow as another host can use it.
fn translated(world: &World, known: &Translation) -> Translated {
    let uplink = world.uplink.map(|(interface, _)| interface);
    let there = |link: Option<Link>| match link {
        // Of another network the other host knows its own way.
        Some(link) if Some(link.interface) == uplink => link.there,
        _ => Mac::default(),
    };
    Translated {
        flow: known.flow,
        port: known.port,
        server: known.server,
        state: known.state,
        idle: Records::now().saturating_sub(known.seen),
        to_client: there(known.to_client),
        to_server: there(known.to_server),
    }
}

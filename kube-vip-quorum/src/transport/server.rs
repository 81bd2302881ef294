//! The side that is connected to.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::connection::{self, ConnectionError, Reader, Writer};
use super::frame::{Kind, MAX_ASIDE, Message};
use super::{Hello, Protection};

/// Answers requests of peers.
pub trait Handler: Send + Sync + 'static {
    /// What this host says of itself to whom it meets now.
    fn hello(&self) -> Hello;

    /// Whether a configured peer has that address; strangers share fewer places.
    fn knows(&self, address: IpAddr) -> bool;

    /// The answer to a request; nothing where the peer is better left to run into its timeout.
    fn handle(self: Arc<Self>, peer: Arc<Hello>, request: Vec<u8>) -> Answering;

    /// The answer to what is somebody else's, as [`handle`](Self::handle).
    fn aside(self: Arc<Self>, peer: Arc<Hello>, body: Vec<u8>) -> Answering;
}

/// An answer under way.
pub type Answering = Pin<Box<dyn Future<Output = Option<Vec<u8>>> + Send>>;

/// How much of this host strangers may occupy.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections of one address that have not shaken hands.
    pub half_open_each: usize,
    /// Such connections of all addresses that no peer is known by.
    pub half_open_strangers: usize,
    /// How long a handshake may take.
    pub handshake: Duration,
    /// Requests of one connection that are answered at the same time.
    pub requests: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            half_open_each: 8,
            half_open_strangers: 64,
            handshake: Duration::from_secs(1),
            requests: 64,
        }
    }
}

/// A port that peers connect to. Dropping it ends all of its connections.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    refused: Arc<AtomicU64>,
    tasks: JoinSet<()>,
}

struct Gate {
    protection: Protection,
    limits: Limits,
    half_open: Mutex<BTreeMap<IpAddr, usize>>,
    strangers: Arc<Semaphore>,
    refused: Arc<AtomicU64>,
}

impl Server {
    /// Listens at that address.
    ///
    /// # Errors
    ///
    /// The address is not this host's, or the port is taken.
    pub async fn listen(
        address: SocketAddr,
        protection: Protection,
        limits: Limits,
        handler: Arc<impl Handler>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let refused = Arc::new(AtomicU64::new(0));
        let gate = Gate {
            protection,
            limits,
            half_open: Mutex::default(),
            strangers: Arc::new(Semaphore::new(limits.half_open_strangers)),
            refused: Arc::clone(&refused),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::new(gate), handler));
        Ok(Self { address, refused, tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all connections; the port is free when this returns.
    pub async fn close(&mut self) {
        self.tasks.shutdown().await;
    }

    /// How many connections were turned away: too many, too slow, or without the secret.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, gate: Arc<Gate>, handler: Arc<impl Handler>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: without a pause this would spin.
                tracing::warn!(%error, "cannot accept a peer's connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(place) = gate.place(from.ip(), handler.knows(from.ip())) else {
            gate.refuse(from, "too many connections that have not shaken hands");
            continue;
        };
        let (gate, handler) = (Arc::clone(&gate), Arc::clone(&handler));
        connections.spawn(async move {
            let shaken = shake(stream, &gate, handler.hello()).await;
            drop(place);
            match shaken {
                Ok((reader, writer, peer)) => {
                    serve(reader, writer, peer, handler, gate.limits.requests).await;
                }
                Err(why) => gate.refuse(from, &why),
            }
        });
    }
}

async fn shake(
    stream: TcpStream,
    gate: &Gate,
    own: Hello,
) -> Result<(Reader, Writer, Hello), String> {
    connection::prepare(&stream).map_err(|error| error.to_string())?;
    let shaken = connection::respond(stream, &gate.protection, own);
    match timeout(gate.limits.handshake, shaken).await {
        Ok(shaken) => shaken.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no handshake within {:?}", gate.limits.handshake)),
    }
}

async fn serve(
    mut reader: Reader,
    mut writer: Writer,
    peer: Hello,
    handler: Arc<impl Handler>,
    requests: usize,
) {
    let peer = Arc::new(peer);
    let (answers, mut to_send) = mpsc::channel::<Message>(requests);
    let mut running = JoinSet::new();
    let sending = async move {
        while let Some(message) = to_send.recv().await {
            writer.send(&message).await?;
        }
        Ok::<(), ConnectionError>(())
    };
    let reading = async {
        let places = Arc::new(Semaphore::new(requests));
        loop {
            let message = reader.next().await?;
            let is_aside = match message.kind {
                Kind::Request => false,
                Kind::Aside if message.body.len() <= MAX_ASIDE => true,
                Kind::Aside | Kind::Answer => continue,
            };
            while running.try_join_next().is_some() {}
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
            let (handler, peer) = (Arc::clone(&handler), Arc::clone(&peer));
            let answer = match is_aside {
                true => handler.aside(peer, message.body),
                false => handler.handle(peer, message.body),
            };
            let answers = answers.clone();
            running.spawn(async move {
                if let Some(body) = answer.await {
                    let answer = Message { kind: Kind::Answer, number: message.number, body };
                    let _ = answers.send(answer).await;
                }
                drop(place);
            });
        }
    };
    let ended: Result<(), ConnectionError> = tokio::select! {
        ended = sending => ended,
        ended = reading => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(peer = peer.name, %error, "connection of a peer ended");
    }
}

/// One of the places for connections that have not shaken hands.
struct Place {
    gate: Arc<Gate>,
    address: IpAddr,
    _stranger: Option<tokio::sync::OwnedSemaphorePermit>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut half_open = self.gate.half_open();
        if let Some(count) = half_open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                half_open.remove(&self.address);
            }
        }
    }
}

impl Gate {
    fn place(self: &Arc<Self>, address: IpAddr, known: bool) -> Option<Place> {
        let stranger =
            if known { None } else { Some(Arc::clone(&self.strangers).try_acquire_owned().ok()?) };
        let mut half_open = self.half_open();
        let count = half_open.entry(address).or_default();
        if *count >= self.limits.half_open_each {
            return None;
        }
        *count += 1;
        Some(Place { gate: Arc::clone(self), address, _stranger: stranger })
    }

    fn half_open(&self) -> std::sync::MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.half_open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse(&self, from: SocketAddr, why: &str) {
        // A flood must not become one of log lines.
        let count = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_power_of_two() {
            tracing::warn!(%from, count, "connection to the peers' port refused: {why}");
        }
    }
}

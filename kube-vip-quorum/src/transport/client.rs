//! The side that connects: a few connections to one peer, made when they are needed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::connection::{self, Reader, Writer};
use super::frame::{Kind, MAX_ASIDE, Message};
use super::{Hello, Protection};
use crate::cluster::NodeId;

/// A peer that does not take a connection for this long is tried again from the beginning: the
/// kernel would repeat a lost SYN only after a second.
const CONNECT: Duration = Duration::from_millis(250);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// Which of the connections to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// For what may be long or wait for a disk.
    Bulk,
    /// For what is short and urgent. There are two, because one lost packet holds a connection up
    /// for 200 ms: what is sent again with another number takes the other one.
    Urgent(u64),
    /// For what is somebody else's. It has a connection of its own, so that nothing of ours waits
    /// behind it.
    Aside,
}

impl Lane {
    const COUNT: usize = 4;

    fn index(self) -> usize {
        match self {
            Self::Bulk => 0,
            Self::Urgent(number) => 1 + usize::from(number % 2 == 1),
            Self::Aside => 3,
        }
    }

    fn kind(self) -> Kind {
        if self == Self::Aside { Kind::Aside } else { Kind::Request }
    }

    /// After how long without any answer a connection is given up.
    fn patience(index: usize) -> Duration {
        Duration::from_millis(if matches!(index, 1 | 2) { 250 } else { 2000 })
    }
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// None came in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The peer cannot be reached, or is not the one that was meant.
    #[error("{address}: {why}")]
    Unreachable {
        /// Where it was tried.
        address: SocketAddr,
        /// What happened there.
        why: String,
    },
    /// The connection broke before the answer.
    #[error("the connection broke")]
    Broken,
    /// It is longer than such messages may be.
    #[error("{0} bytes are too long a message")]
    TooLong(usize),
}

/// One peer, as seen from the side that asks.
#[derive(Debug)]
pub struct Client {
    lanes: Vec<mpsc::Sender<Job>>,
    met: Arc<Mutex<Option<Hello>>>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Job {
    kind: Kind,
    body: Vec<u8>,
    answer: oneshot::Sender<Result<Vec<u8>, CallError>>,
}

struct Target {
    addresses: Vec<SocketAddr>,
    node: Option<NodeId>,
    protection: Protection,
    hello: Box<dyn Fn() -> Hello + Send + Sync>,
    met: Arc<Mutex<Option<Hello>>>,
    patience: Duration,
}

type Pending = Arc<Mutex<BTreeMap<u64, oneshot::Sender<Result<Vec<u8>, CallError>>>>>;

impl Client {
    /// A peer at one of those addresses. With `node` only the host of that number is spoken to.
    pub fn new(
        addresses: &[SocketAddr],
        node: Option<NodeId>,
        protection: &Protection,
        hello: impl Fn() -> Hello + Clone + Send + Sync + 'static,
    ) -> Self {
        let met = Arc::new(Mutex::new(None));
        let mut tasks = JoinSet::new();
        let lanes = (0..Lane::COUNT).map(|index| {
            let (jobs, to_do) = mpsc::channel(64);
            let target = Target {
                addresses: addresses.to_vec(),
                node,
                protection: protection.clone(),
                hello: Box::new(hello.clone()),
                met: Arc::clone(&met),
                patience: Lane::patience(index),
            };
            tasks.spawn(lane(target, to_do));
            jobs
        });
        let lanes = lanes.collect();
        Self { lanes, met, _tasks: tasks }
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    ///
    /// There was none. The peer may have acted on the request all the same.
    pub async fn call(
        &self,
        lane: Lane,
        body: Vec<u8>,
        within: Duration,
    ) -> Result<Vec<u8>, CallError> {
        if lane == Lane::Aside && body.len() > MAX_ASIDE {
            return Err(CallError::TooLong(body.len()));
        }
        let (answer, answered) = oneshot::channel();
        let job = Job { kind: lane.kind(), body, answer };
        let call = async {
            self.lanes[lane.index()].send(job).await.map_err(|_| CallError::Broken)?;
            answered.await.map_err(|_| CallError::Broken)?
        };
        timeout(within, call).await.unwrap_or(Err(CallError::Timeout(within)))
    }

    /// What the peer last said of itself.
    pub fn met(&self) -> Option<Hello> {
        lock(&self.met).clone()
    }
}

/// Keeps one connection: makes it for the first request, and a new one when it broke.
async fn lane(target: Target, mut jobs: mpsc::Receiver<Job>) {
    while let Some(first) = jobs.recv().await {
        if first.answer.is_closed() {
            continue;
        }
        match target.connect().await {
            Ok((reader, writer)) => talk(&target, first, &mut jobs, reader, writer).await,
            Err(error) => {
                let _ = first.answer.send(Err(error.clone()));
                while let Ok(job) = jobs.try_recv() {
                    let _ = job.answer.send(Err(error.clone()));
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Target {
    async fn connect(&self) -> Result<(Reader, Writer), CallError> {
        let mut error = CallError::Broken;
        // What a host has said tells more than an address at which nobody listens.
        let mut told = false;
        for address in &self.addresses {
            let unreachable = |why: String| CallError::Unreachable { address: *address, why };
            let connecting = async {
                let stream = connection::connect(*address).await;
                let stream = stream.map_err(|error| (false, error.to_string()))?;
                let own = (self.hello)();
                let shaken = connection::initiate(stream, &self.protection, own).await;
                shaken.map_err(|error| (true, error.to_string()))
            };
            match timeout(CONNECT, connecting).await {
                Ok(Ok((reader, writer, peer))) => {
                    let is_meant = self.node.is_none_or(|node| node == peer.node);
                    let name = peer.name.clone();
                    *lock(&self.met) = Some(peer);
                    if is_meant {
                        return Ok((reader, writer));
                    }
                    told = true;
                    error = unreachable(format!("{name} is there with a new state directory"));
                }
                Ok(Err((tells, why))) if tells || !told => {
                    told |= tells;
                    error = unreachable(why);
                }
                Err(_) if !told => error = unreachable(format!("no connection within {CONNECT:?}")),
                Ok(Err(_)) | Err(_) => {}
            }
        }
        Err(error)
    }
}

/// Sends requests and hands out answers until the connection breaks or falls silent.
async fn talk(
    target: &Target,
    first: Job,
    jobs: &mut mpsc::Receiver<Job>,
    mut reader: Reader,
    mut writer: Writer,
) {
    let pending = Pending::default();
    let heard = Mutex::new(Instant::now());
    let reading = async {
        while let Ok(message) = reader.next().await {
            *lock(&heard) = Instant::now();
            let mut pending = lock(&pending);
            if let (Kind::Answer, Some(answer)) = (message.kind, pending.remove(&message.number)) {
                let _ = answer.send(Ok(message.body));
            }
        }
    };
    let writing = async {
        let mut next = Some(first);
        let mut number = 0;
        // When the oldest request left that nothing has been heard since.
        let mut waiting: Option<Instant> = None;
        loop {
            if let Some(job) = next.take() {
                number += 1;
                let message = Message { kind: job.kind, number, body: job.body };
                lock(&pending).insert(number, job.answer);
                if writer.send(&message).await.is_err() {
                    return;
                }
            }
            let heard = *lock(&heard);
            let is_waiting = !lock(&pending).is_empty();
            waiting = match waiting {
                _ if !is_waiting => None,
                Some(since) if since > heard => Some(since),
                _ => Some(Instant::now()),
            };
            let silent = waiting.map(|since| since + target.patience);
            if silent.is_some_and(|silent| silent <= Instant::now()) {
                return;
            }
            let idle = Instant::now() + Duration::from_secs(3600);
            tokio::select! {
                job = jobs.recv() => match job {
                    Some(job) => next = Some(job),
                    None => return,
                },
                () = sleep_until(silent.unwrap_or(idle)) => {}
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
    for (_, answer) in std::mem::take(&mut *lock(&pending)) {
        let _ = answer.send(Err(CallError::Broken));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

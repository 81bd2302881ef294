//! Many connections or datagrams at once, and what became of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::connection::{Connection, Who};
use crate::host::Host;
use crate::net::NetRuntime;
use crate::report::{Failure, Progress, Report};

/// A veth has room for 256 frames and a neighbour that is being resolved for about as many:
/// more at once would lose some to the lab itself.
const MOST_AT_ONCE: usize = 64;

/// After so many failures nothing more is tried: the rest would only take its time.
const MOST_FAILURES: usize = 64;

/// What to do how often.
#[derive(Clone, Debug)]
pub struct Burst {
    target: SocketAddr,
    count: usize,
    at_once: usize,
    patience: Duration,
    source: Option<IpAddr>,
    ports: Option<RangeInclusive<u16>>,
    hold: bool,
    reset: bool,
    progress: Option<Arc<Progress>>,
}

impl Burst {
    /// `count` connections or datagrams to `target`, each from a port of its own.
    pub fn new(target: impl Into<SocketAddr>, count: usize) -> Self {
        Self {
            target: target.into(),
            count,
            at_once: MOST_AT_ONCE,
            patience: Duration::from_secs(10),
            source: None,
            ports: None,
            hold: false,
            reset: false,
            progress: None,
        }
    }

    /// How many may be under way at once (64 unless said).
    pub fn at_once(mut self, most: usize) -> Self {
        self.at_once = most;
        self
    }

    /// How long each may take, from its first packet to its answer (10 s unless said).
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// From this address of the client.
    pub fn source(mut self, address: IpAddr) -> Self {
        self.source = Some(address);
        self
    }

    /// From these ports in turn, beginning again after the last.
    pub fn ports(mut self, ports: RangeInclusive<u16>) -> Self {
        self.ports = Some(ports);
        self
    }

    /// Leaves the connections open, in the report.
    pub fn hold(mut self) -> Self {
        self.hold = true;
        self
    }

    /// Ends each connection with RST, which leaves no TIME-WAIT behind.
    pub fn reset(mut self) -> Self {
        self.reset = true;
        self
    }

    /// Counts answers where somebody else can watch.
    pub fn progress(mut self, progress: &Arc<Progress>) -> Self {
        self.progress = Some(Arc::clone(progress));
        self
    }

    fn source_of(&self, index: usize) -> Option<SocketAddr> {
        let port = self.ports.as_ref().map(|ports| {
            let size = usize::from(ports.end() - ports.start()) + 1;
            ports.start() + (index % size) as u16
        });
        if self.source.is_none() && port.is_none() {
            return None;
        }
        let any: IpAddr = match self.target {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        Some((self.source.unwrap_or(any), port.unwrap_or(0)).into())
    }
}

/// A client with an event loop in a host's network.
#[derive(Debug)]
pub struct Client {
    host: Host,
    runtime: NetRuntime,
}

impl Client {
    /// A client on `host`.
    pub fn start(host: &Host) -> Result<Self> {
        Ok(Self { host: host.clone(), runtime: NetRuntime::start(Some(host))? })
    }

    /// Where it is.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Opens TCP connections and asks each who answers. Failures are in the report.
    pub fn connect(&self, burst: Burst) -> Result<Report> {
        self.all(burst, connect_once)
    }

    /// Sends datagrams, each from a socket of its own, and waits for their answers. None is
    /// sent twice: one that is lost is a failure.
    pub fn send(&self, burst: Burst) -> Result<Report> {
        self.all(burst, send_once)
    }

    fn all<F>(&self, burst: Burst, once: fn(Arc<Burst>, usize, Instant) -> F) -> Result<Report>
    where
        F: Future<Output = Result<Answer, Failure>> + Send + 'static,
    {
        let burst = Arc::new(burst);
        self.runtime.run(async move {
            let began = Instant::now();
            let permits = Arc::new(Semaphore::new(burst.at_once));
            let failed = Arc::new(AtomicUsize::new(0));
            let mut tasks = Vec::with_capacity(burst.count);
            for index in 0..burst.count {
                let permit = Arc::clone(&permits).acquire_owned().await?;
                if failed.load(Ordering::Relaxed) >= MOST_FAILURES {
                    break;
                }
                let (burst, failed) = (Arc::clone(&burst), Arc::clone(&failed));
                tasks.push(tokio::spawn(async move {
                    let result = once(Arc::clone(&burst), index, began).await;
                    if let Some(progress) = &burst.progress {
                        progress.count(result.as_ref().ok().map(|answer| answer.who.host.as_str()));
                    }
                    failed.fetch_add(usize::from(result.is_err()), Ordering::Relaxed);
                    drop(permit);
                    result
                }));
            }
            let mut report = Report::default();
            for task in tasks {
                match task.await.context("a task of the client panicked")? {
                    Ok(answer) => {
                        report.answered(&answer.who, answer.connect, answer.whole);
                        if let Some(stream) = answer.held {
                            report.held.push((answer.who, Connection::of(stream)?));
                        }
                    }
                    Err(failure) => report.failures.push(failure),
                }
            }
            report.finish(began.elapsed());
            Ok(report)
        })
    }
}

struct Answer {
    who: Who,
    connect: Duration,
    whole: Duration,
    held: Option<std::net::TcpStream>,
}

async fn connect_once(burst: Arc<Burst>, index: usize, began: Instant) -> Result<Answer, Failure> {
    let started = Instant::now();
    let mut failure = Failure { at: began.elapsed(), ..Failure::default() };
    let work = async {
        failure.stage = "connect";
        let stream = connect(&burst, index).await?;
        let connect = started.elapsed();
        failure.source = stream.local_addr().ok();
        stream.set_nodelay(true)?;
        failure.stage = "request";
        let mut stream = BufReader::new(stream);
        stream.write_all(b"who\n").await?;
        failure.stage = "answer";
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(anyhow::anyhow!("closed without an answer"));
        }
        let who = Who::parse(&line)?;
        let stream = stream.into_inner();
        if burst.reset {
            stream.set_zero_linger()?;
        }
        let held = if burst.hold { Some(stream.into_std()?) } else { None };
        Ok(Answer { who, connect, whole: started.elapsed(), held })
    };
    let result = timeout(burst.patience, work).await;
    failure.settle(result, burst.patience)
}

async fn connect(burst: &Burst, index: usize) -> Result<TcpStream> {
    let socket = match burst.target {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(source) = burst.source_of(index) {
        socket.set_reuseaddr(true)?;
        socket.bind(source).with_context(|| format!("binding {source}"))?;
    }
    Ok(socket.connect(burst.target).await?)
}

async fn send_once(burst: Arc<Burst>, index: usize, began: Instant) -> Result<Answer, Failure> {
    let started = Instant::now();
    let mut failure = Failure { at: began.elapsed(), stage: "request", ..Failure::default() };
    let work = async {
        let any: SocketAddr = match burst.target {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(burst.source_of(index).unwrap_or(any)).await?;
        socket.connect(burst.target).await?;
        failure.source = socket.local_addr().ok();
        socket.send(b"who").await?;
        let connect = started.elapsed();
        failure.stage = "answer";
        let mut buffer = [0; 512];
        let got = socket.recv(&mut buffer).await?;
        let who = Who::parse(&String::from_utf8_lossy(&buffer[..got]))?;
        Ok(Answer { who, connect, whole: started.elapsed(), held: None })
    };
    let result = timeout(burst.patience, work).await;
    failure.settle(result, burst.patience)
}

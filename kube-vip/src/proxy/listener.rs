//! Takes connections at one address.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::exchange::Exchange;
use super::upstream::Pool;
use crate::plan::Proxy;

/// A client gets so long for the head of its next request; after that its connection is closed.
const HEAD: Duration = Duration::from_secs(60);
/// Enough for every browser's cookies.
const HEAD_BYTES: usize = 64 << 10;
const BACKLOG: i32 = 1024;
/// What the agent keeps for itself of its file descriptors.
const RESERVED: u64 = 320;
/// More would not make it faster.
const MOST: u64 = 16_384;

/// Connections at once, over all listeners: each needs one socket here and one to a backend.
static PLACES: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let places = descriptors().saturating_sub(RESERVED) / 2;
    Arc::new(Semaphore::new(places.clamp(16, MOST) as usize))
});

/// As many file descriptors as the system lets this process have.
fn descriptors() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    let wanted = (2 * MOST + RESERVED).min(hard);
    match setrlimit(Resource::RLIMIT_NOFILE, wanted.max(soft), hard) {
        Ok(()) => wanted.max(soft),
        Err(_) => soft,
    }
}

/// What has gone through a listener.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Clients' connections that are open.
    pub connections: AtomicU64,
    /// Requests so far.
    pub requests: AtomicU64,
    /// Those that no backend has answered.
    pub failed: AtomicU64,
}

/// An address that is listened at; dropped, it is not, and its connections end.
pub(super) struct Listener {
    proxy: watch::Sender<Arc<Proxy>>,
    traffic: Arc<Traffic>,
    task: AbortHandle,
}

impl Listener {
    /// Listens. Clients are taken from when this returns.
    pub(super) fn start(address: SocketAddr, proxy: &Proxy, runtime: &Handle) -> io::Result<Self> {
        let _in_runtime = runtime.enter();
        let socket = bind(address)?;
        let traffic = Arc::new(Traffic::default());
        let (sender, receiver) = watch::channel(Arc::new(proxy.clone()));
        let task = runtime.spawn(serve(socket, receiver, Arc::clone(&traffic))).abort_handle();
        Ok(Self { proxy: sender, traffic, task })
    }

    pub(super) fn name(&self) -> String {
        self.proxy.borrow().name.clone()
    }

    /// Other backends for the next request.
    pub(super) fn update(&self, proxy: &Proxy) {
        self.proxy.send_if_modified(|current| {
            let changed = **current != *proxy;
            if changed {
                *current = Arc::new(proxy.clone());
            }
            changed
        });
    }

    pub(super) fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.traffic)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A socket for both families where that is asked for, or for IPv4 where there is no IPv6.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let any = address.is_ipv6() && address.ip().is_unspecified();
    match bind_one(address, any) {
        Err(error) if any && is_without_ipv6(&error) => {
            bind_one(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()), false)
        }
        bound => bound,
    }
}

fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn bind_one(address: SocketAddr, both: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!both)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Takes connections until it is aborted; they end with it.
async fn serve(socket: TcpListener, proxy: watch::Receiver<Arc<Proxy>>, traffic: Arc<Traffic>) {
    let pool = Arc::new(Pool::default());
    let mut connections = JoinSet::new();
    loop {
        // Who finds no place waits in the kernel's queue.
        let Ok(place) = Arc::clone(&PLACES).acquire_owned().await else { return };
        let (stream, client) = tokio::select! {
            taken = socket.accept() => match taken {
                Ok(taken) => taken,
                Err(error) => {
                    tracing::debug!("a connection was not taken: {error}");
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        let exchange = Exchange {
            client: client.ip(),
            proxy: proxy.clone(),
            pool: Arc::clone(&pool),
            traffic: Arc::clone(&traffic),
        };
        connections.spawn(async move {
            let _place = place;
            connection(stream, exchange).await;
        });
    }
}

async fn connection(stream: TcpStream, exchange: Exchange) {
    let _ = stream.set_nodelay(true);
    keep_alive(&stream);
    let traffic = Arc::clone(&exchange.traffic);
    traffic.connections.fetch_add(1, Ordering::Relaxed);
    let _open = Open(&traffic);
    let exchange = Arc::new(exchange);
    let tunnels = Arc::new(tokio::sync::Mutex::new(JoinSet::new()));
    let handle = service_fn(|request| {
        let (exchange, tunnels) = (Arc::clone(&exchange), Arc::clone(&tunnels));
        async move { exchange.pass(request, &tunnels).await }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), handle)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(client = %exchange.client, "connection: {error}");
    }
    // Where the protocol was changed, the connection goes on.
    while tunnels.lock().await.join_next().await.is_some() {}
}

/// Finds out about clients that are gone without a word.
pub(super) fn keep_alive(stream: &TcpStream) {
    let often = socket2::TcpKeepalive::new().with_time(Duration::from_secs(60));
    let often = often.with_interval(Duration::from_secs(15)).with_retries(4);
    let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&often);
}

/// Counts an open connection.
struct Open<'a>(&'a Traffic);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

//! Connections to backends. One that is at rest is kept for the next request.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use kube_vip_common::mark::{PROBE_PRIORITY, PROBE_TTL};

use super::listener::keep_alive;
use super::watched::Watched;
use crate::config::{HttpBackend, Trust};
use crate::source::health::TlsSettings;

/// A backend that takes no connection for so long is passed over.
const CONNECT: Duration = Duration::from_secs(3);
/// Shorter than what servers keep a connection for; the usual least is five seconds.
const REST: Duration = Duration::from_secs(4);
/// A backend that acknowledges nothing for so long is gone.
const UNHEARD: Duration = Duration::from_secs(5);
/// Connections at rest, to each backend.
const MOST_AT_REST: usize = 64;

/// What is sent: a client's body, or none.
pub(super) type Body = Either<Watched, Empty<Bytes>>;

/// A connection to a backend.
pub(super) struct Connection {
    pub(super) sender: SendRequest<Body>,
    /// It has carried a request before; its end may have gone unnoticed.
    pub(super) used: bool,
}

/// A connection at rest, and since when.
type Resting = (Instant, SendRequest<Body>);

/// Connections at rest.
#[derive(Default)]
pub(super) struct Pool {
    /// Whose turn it is.
    pub(super) turn: AtomicUsize,
    at_rest: Mutex<BTreeMap<HttpBackend, Vec<Resting>>>,
    tls: Mutex<BTreeMap<Trust, TlsSettings>>,
}

impl Pool {
    /// A connection, at rest until now or new.
    pub(super) async fn connection(
        &self,
        backend: &HttpBackend,
        trust: Option<&Trust>,
    ) -> io::Result<Connection> {
        while let Some(mut sender) = self.take(backend) {
            if sender.ready().await.is_ok() {
                return Ok(Connection { sender, used: true });
            }
        }
        self.fresh(backend, trust).await
    }

    /// A new connection.
    pub(super) async fn fresh(
        &self,
        backend: &HttpBackend,
        trust: Option<&Trust>,
    ) -> io::Result<Connection> {
        let opened = timeout(CONNECT, self.open(backend, trust)).await;
        let sender = opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        Ok(Connection { sender, used: false })
    }

    /// Keeps a connection for the next request, once its last answer has come.
    pub(super) fn keep(self: &Arc<Self>, backend: &HttpBackend, mut sender: SendRequest<Body>) {
        let (pool, backend) = (Arc::clone(self), backend.clone());
        tokio::spawn(async move {
            if sender.ready().await.is_err() {
                return;
            }
            let mut at_rest = pool.at_rest.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            // Also those of backends that the file does not name any more.
            at_rest.retain(|_, list| {
                list.retain(|(since, it)| now - *since < REST && !it.is_closed());
                !list.is_empty()
            });
            let list = at_rest.entry(backend).or_default();
            if list.len() < MOST_AT_REST {
                list.push((now, sender));
            }
        });
    }

    /// The one that rests for the shortest time.
    fn take(&self, backend: &HttpBackend) -> Option<SendRequest<Body>> {
        let mut at_rest = self.at_rest.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, sender) = at_rest.get_mut(backend)?.pop()?;
        if since.elapsed() < REST {
            return Some(sender);
        }
        // The others rest for longer.
        at_rest.remove(backend);
        None
    }

    async fn open(
        &self,
        backend: &HttpBackend,
        trust: Option<&Trust>,
    ) -> io::Result<SendRequest<Body>> {
        let stream = connect(backend).await?;
        let Some(trust) = trust.filter(|_| backend.tls) else { return shake_hands(stream).await };
        let settings = {
            let mut tls = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
            let settings =
                tls.entry(trust.clone()).or_insert_with(|| TlsSettings::new(trust.clone()));
            settings.get().map_err(io::Error::other)?
        };
        let name = ServerName::try_from(backend.host().to_owned());
        let name = name.unwrap_or_else(|_| ServerName::from(backend.address.ip()));
        shake_hands(TlsConnector::from(settings).connect(name, stream).await?).await
    }
}

async fn shake_hands<S>(stream: S) -> io::Result<SendRequest<Body>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!("a backend's connection: {error}");
        }
    });
    Ok(sender)
}

/// Connects past the load balancers of this host and the backend's, as a health check does.
async fn connect(backend: &HttpBackend) -> io::Result<TcpStream> {
    let v4 = backend.address.is_ipv4();
    let socket = if v4 { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    let options = SockRef::from(&socket);
    if v4 {
        options.set_ttl_v4(PROBE_TTL.into())?;
    } else {
        options.set_unicast_hops_v6(PROBE_TTL.into())?;
    }
    // Refused without CAP_NET_ADMIN, which an agent that has programs at cgroups has.
    let _ = options.set_priority(PROBE_PRIORITY);
    let stream = socket.connect(backend.address).await?;
    if stream.local_addr()? == backend.address {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    keep_alive(&stream);
    // A host that is lost says nothing.
    SockRef::from(&stream).set_tcp_user_timeout(Some(UNHEARD))?;
    Ok(stream)
}

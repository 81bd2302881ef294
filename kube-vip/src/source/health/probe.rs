//! One look at one backend.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use kube_vip_common::mark::{PROBE_PRIORITY, PROBE_TTL};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::{http, tls};
use crate::config::{HttpProbe, Probe};
use crate::view::Check;

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Failed(String),
    /// Something here did not work, so nothing is known of the backend.
    Unknown(String),
}

/// A probe that ended this much after its time did not get the processor in time: the backend may
/// have answered long before.
const LATE: Duration = Duration::from_millis(500);

/// Makes the probes of one check.
pub(super) struct Prober {
    address: SocketAddr,
    timeout: Duration,
    http: Option<Http>,
}

struct Http {
    request: Vec<u8>,
    status: (u16, u16),
    tls: Option<(tls::Settings, ServerName<'static>)>,
}

impl Prober {
    pub(super) fn new(check: &Check) -> Self {
        let address = check.address();
        let http = match &check.how.probe {
            Probe::Tcp => None,
            Probe::Http(http) => Some(Http::new(http, address)),
        };
        Self { address, timeout: check.how.timeout, http }
    }

    pub(super) async fn probe(&mut self) -> Outcome {
        let settings = match self.http.as_mut().and_then(|http| http.tls.as_mut()) {
            None => None,
            Some((settings, name)) => match settings.get() {
                Ok(config) => Some((TlsConnector::from(config), name.clone())),
                Err(error) => return Outcome::Unknown(error),
            },
        };
        let mut stage = "connect";
        let started = Instant::now();
        let limit = self.timeout;
        let work = ask(self.address, self.http.as_ref(), settings, &mut stage);
        let outcome = match timeout(limit, work).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Failed(format!("{stage}: nothing within {limit:?}")),
        };
        match outcome {
            Outcome::Failed(_) if started.elapsed() > limit + LATE => {
                Outcome::Unknown("this host is too busy".into())
            }
            outcome => outcome,
        }
    }
}

impl Http {
    fn new(probe: &HttpProbe, address: SocketAddr) -> Self {
        let host = probe.host.clone().unwrap_or_else(|| address.to_string());
        let name = probe.host.as_ref().and_then(|host| {
            let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name);
            ServerName::try_from(name.to_owned()).ok()
        });
        let name = name.unwrap_or_else(|| ServerName::from(address.ip()));
        let tls = probe.tls.clone().map(|trust| (tls::Settings::new(trust), name));
        Self { request: http::request(&probe.path, &host), status: probe.status, tls }
    }
}

async fn ask(
    address: SocketAddr,
    http: Option<&Http>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    stage: &mut &'static str,
) -> Outcome {
    let stream = match connect(address).await {
        Ok(stream) => stream,
        Err(error) if is_of_this_host(&error) => return Outcome::Unknown(in_words(&error)),
        Err(error) => return Outcome::Failed(format!("{stage}: {}", in_words(&error))),
    };
    let Some(http) = http else { return Outcome::Passed };
    let mut stream = stream;
    let status = match tls {
        None => {
            *stage = "http";
            http::ask(&mut stream, &http.request).await
        }
        Some((connector, name)) => {
            *stage = "tls";
            match connector.connect(name, stream).await {
                Ok(mut stream) => {
                    *stage = "http";
                    http::ask(&mut stream, &http.request).await
                }
                Err(error) => Err(in_words(&error)),
            }
        }
    };
    let (first, last) = http.status;
    match status {
        Ok(status) if (first..=last).contains(&status) => Outcome::Passed,
        Ok(status) => Outcome::Failed(format!("{stage}: status {status}")),
        Err(error) => Outcome::Failed(format!("{stage}: {error}")),
    }
}

/// Connects; the connection ends with RST, which leaves no TIME-WAIT behind for thousands of them.
async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    let options = SockRef::from(&socket);
    match address {
        SocketAddr::V4(_) => options.set_ttl_v4(PROBE_TTL.into())?,
        SocketAddr::V6(_) => options.set_unicast_hops_v6(PROBE_TTL.into())?,
    }
    // Refused without CAP_NET_ADMIN, which an agent that has programs at cgroups has.
    let _ = options.set_priority(PROBE_PRIORITY);
    socket.set_zero_linger()?;
    let stream = socket.connect(address).await?;
    // Where nobody listens on a port of this host that is free for clients, a socket may meet
    // itself (RFC 9293 §3.5, simultaneous open).
    if stream.local_addr()? == address {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

/// It has run out of something.
fn is_of_this_host(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EADDRNOTAVAIL
                | libc::EAGAIN
        )
    )
}

/// What people know it by, without its number.
pub(super) fn in_words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

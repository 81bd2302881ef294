//! One request's way to a backend, and the answer's way back.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Empty, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::uri::{Authority, PathAndQuery};
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

use super::headers;
use super::listener::Traffic;
use super::upstream::{Body, Connection, Pool};
use super::watched::{Moved, Watched};
use crate::config::HttpBackend;
use crate::plan::{Proxy, Upstream};

/// A backend gets so long to begin its answer.
const ANSWER: Duration = Duration::from_secs(60);

/// What a client gets.
pub(super) type Answer = Response<Either<Incoming, Full<Bytes>>>;

/// What passes the requests of one connection on.
pub(super) struct Exchange {
    pub(super) client: IpAddr,
    pub(super) proxy: watch::Receiver<Arc<Proxy>>,
    pub(super) pool: Arc<Pool>,
    pub(super) traffic: Arc<Traffic>,
}

/// Why no backend has answered.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no backend is there for requests")]
    Nobody,
    #[error("no backend takes connections")]
    Unreachable,
    #[error("the backend ended the connection without an answer")]
    Broken,
    #[error("the backend has not answered within {} s", ANSWER.as_secs())]
    Late,
    #[error("{0}")]
    Refused(&'static str),
}

impl Failure {
    fn status(&self) -> StatusCode {
        match self {
            Self::Nobody => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unreachable | Self::Broken => StatusCode::BAD_GATEWAY,
            Self::Late => StatusCode::GATEWAY_TIMEOUT,
            Self::Refused(_) => StatusCode::BAD_REQUEST,
        }
    }
}

impl Exchange {
    /// Passes a request on. What changes its protocol goes on among `tunnels`.
    pub(super) async fn pass(
        &self,
        request: Request<Incoming>,
        tunnels: &Mutex<JoinSet<()>>,
    ) -> Result<Answer, Infallible> {
        self.traffic.requests.fetch_add(1, Ordering::Relaxed);
        let proxy = Arc::clone(&self.proxy.borrow());
        let answer = self.answered(request, &proxy, tunnels).await;
        Ok(answer.unwrap_or_else(|failure| {
            self.traffic.failed.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(client = %self.client, "{}: {failure}", proxy.name);
            let text = format!("{}: {failure}\n", proxy.name);
            let mut response = Response::new(Either::Right(Full::from(text)));
            *response.status_mut() = failure.status();
            let plain = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, plain);
            response
        }))
    }

    async fn answered(
        &self,
        mut request: Request<Incoming>,
        proxy: &Proxy,
        tunnels: &Mutex<JoinSet<()>>,
    ) -> Result<Answer, Failure> {
        unambiguous(&request)?;
        let protocol = headers::upgrade(request.headers());
        let client_side = protocol.is_some().then(|| hyper::upgrade::on(&mut request));
        let (mut parts, body) = request.into_parts();
        let host = host(&parts);
        headers::strip(&mut parts.headers);
        // Its client has been told to go on already.
        parts.headers.remove(header::EXPECT);
        headers::tell(&mut parts.headers, self.client, host.as_ref());
        if let Some(protocol) = protocol {
            headers::set_upgrade(&mut parts.headers, protocol);
        }
        parts.version = Version::HTTP_11;

        let mut response = self.sent(parts, body, proxy).await?;
        let changed = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let protocol = headers::upgrade(response.headers()).filter(|_| changed);
        let backend_side = changed.then(|| hyper::upgrade::on(&mut response));
        headers::strip(response.headers_mut());
        *response.version_mut() = Version::HTTP_11;
        if let (Some(backend), Some(client)) = (backend_side, client_side) {
            if let Some(protocol) = protocol {
                headers::set_upgrade(response.headers_mut(), protocol);
            }
            tunnels.lock().await.spawn(async move {
                if let (Ok(client), Ok(backend)) = (client.await, backend.await) {
                    let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
                    let _ = copy_bidirectional(&mut client, &mut backend).await;
                }
            });
        } else if changed {
            // Nobody has asked for it.
            return Err(Failure::Broken);
        }
        Ok(response.map(Either::Left))
    }

    /// Sends a request to the first backend in turn that takes it.
    async fn sent(
        &self,
        parts: Parts,
        body: Incoming,
        proxy: &Proxy,
    ) -> Result<Response<Incoming>, Failure> {
        // What is safe and has no body may be sent once more.
        let again = (parts.method.is_safe() && body.is_end_stream()).then(|| parts.clone());
        let moved = Moved::now();
        let body = Watched::new(body, moved.clone());
        let mut request = Request::from_parts(parts, Either::Left(body));
        let mut failure = Failure::Nobody;
        for backend in self.in_turn(proxy) {
            let trust = proxy.trust.as_ref();
            let mut opened = self.pool.connection(backend, trust).await;
            loop {
                let connection = match opened {
                    Ok(connection) => connection,
                    Err(error) => {
                        let url = backend.url();
                        tracing::debug!("{}: {url} is passed over: {error}", proxy.name);
                        failure = Failure::Unreachable;
                        break;
                    }
                };
                let used = connection.used;
                address_to(&mut request, backend)?;
                let (why, back) = match self.over(connection, backend, request, &moved).await {
                    Ok(response) => return Ok(response),
                    Err(failed) => failed,
                };
                let repeated = || {
                    let parts = again.clone().filter(|_| used && matches!(why, Failure::Broken));
                    parts.map(|parts| Request::from_parts(parts, Either::Right(Empty::new())))
                };
                match back.or_else(repeated) {
                    Some(back) => request = back,
                    None => return Err(why),
                }
                failure = why;
                if !used {
                    break;
                }
                // It was at rest, and the backend has closed it meanwhile.
                opened = self.pool.fresh(backend, trust).await;
            }
        }
        Err(failure)
    }

    /// Sends it over a connection. With a failure comes the request, if nothing of it was sent.
    async fn over(
        &self,
        connection: Connection,
        backend: &HttpBackend,
        request: Request<Body>,
        moved: &Moved,
    ) -> Result<Response<Incoming>, (Failure, Option<Request<Body>>)> {
        let mut sender = connection.sender;
        let answer = tokio::select! {
            answer = sender.try_send_request(request) => answer,
            () = moved.rests_for(ANSWER) => return Err((Failure::Late, None)),
        };
        match answer {
            Ok(response) => {
                if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                    self.pool.keep(backend, sender);
                }
                Ok(response)
            }
            Err(mut error) => Err((Failure::Broken, error.take_message())),
        }
    }

    /// The backends, by turns according to their shares; the first one is the one whose turn it is.
    fn in_turn<'a>(&self, proxy: &'a Proxy) -> impl Iterator<Item = &'a HttpBackend> + use<'a> {
        let turn = self.pool.turn.fetch_add(1, Ordering::Relaxed);
        let shares: Vec<_> = proxy.upstreams.iter().map(Upstream::share).collect();
        let all = proxy.upstreams.iter().cycle().skip(first(&shares, turn));
        let able = all.take(shares.len()).filter(|upstream| upstream.share() > 0);
        able.map(|upstream| &upstream.backend)
    }
}

/// A request names one host (RFC 9112 §3.2). Of two lengths hyper has left one already (§6.3).
fn unambiguous(request: &Request<Incoming>) -> Result<(), Failure> {
    let headers = request.headers();
    let hosts = headers.get_all(header::HOST).iter().count();
    if hosts > 1 || hosts == 0 && request.version() == Version::HTTP_11 {
        Err(Failure::Refused("a request names one host"))
    } else if request.method() == Method::CONNECT {
        Err(Failure::Refused("CONNECT is for another kind of proxy"))
    } else {
        Ok(())
    }
}

/// The host that the client asked for: the target's goes before the header's (RFC 9112 §3.2.2).
fn host(parts: &Parts) -> Option<HeaderValue> {
    let target = parts.uri.authority().map(Authority::as_str);
    let target = target.and_then(|authority| HeaderValue::from_str(authority).ok());
    target.or_else(|| parts.headers.get(header::HOST).cloned())
}

/// Gives a request the backend's host and path.
fn address_to(request: &mut Request<Body>, backend: &HttpBackend) -> Result<(), Failure> {
    let refused = || Failure::Refused("a target that cannot be passed on");
    let host = HeaderValue::from_str(&backend.authority).map_err(|_| refused())?;
    request.headers_mut().insert(header::HOST, host);
    let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
    // The path of an earlier try has its prefix.
    let path = match request.extensions().get::<Target>() {
        Some(Target(path)) => path.clone(),
        None => path.to_owned(),
    };
    let whole = if path == "*" { path.clone() } else { format!("{}{path}", backend.prefix) };
    *request.uri_mut() = whole.parse::<Uri>().map_err(|_| refused())?;
    request.extensions_mut().insert(Target(path));
    Ok(())
}

/// The path and query that the client asked for.
#[derive(Clone)]
struct Target(String);

/// Whose turn it is.
fn first(shares: &[u16], turn: usize) -> usize {
    let sum: usize = shares.iter().map(|share| usize::from(*share)).sum();
    let mut left = turn % sum.max(1);
    for (index, share) in shares.iter().enumerate() {
        match left.checked_sub((*share).into()) {
            Some(less) => left = less,
            None => return index,
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_by_share() {
        let firsts: Vec<_> = (0..8).map(|turn| first(&[1, 0, 2, 1], turn)).collect();
        assert_eq!(firsts, [0, 2, 2, 3, 0, 2, 2, 3]);
        assert_eq!((first(&[], 7), first(&[0, 0], 3)), (0, 0));
    }
}

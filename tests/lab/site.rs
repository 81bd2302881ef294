//! HTTP servers that say who they are and what they were asked.
//!
//! `/who` is answered with a line of JSON: the host's name, the number of the connection, the
//! request's line and headers. `/echo` sends the body back as it comes. Whoever asks for the
//! protocol `echo` gets it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::io::{copy, split};
use tokio::net::TcpListener;

use crate::agent::PATIENCE;
use crate::host::Host;
use crate::net::NetRuntime;
use crate::wait::eventually;

/// A server on a host's own addresses; it ends, with all its connections, when this is dropped.
#[derive(Debug)]
pub struct Site {
    _runtime: NetRuntime,
}

impl Site {
    /// At `port` of the host's IPv4 and IPv6 address.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let runtime = NetRuntime::start(Some(host))?;
        let connections = Arc::new(AtomicUsize::new(0));
        for address in [SocketAddr::from((host.v4(), port)), (host.v6(), port).into()] {
            eventually(PATIENCE, "a free address", || {
                let (name, connections) = (host.name().to_owned(), Arc::clone(&connections));
                runtime.run(async move {
                    let listener = TcpListener::bind(address).await;
                    let listener = listener.with_context(|| format!("listening on {address}"))?;
                    tokio::spawn(accept(listener, name, connections));
                    Ok(())
                })
            })?;
        }
        Ok(Self { _runtime: runtime })
    }
}

async fn accept(listener: TcpListener, name: String, connections: Arc<AtomicUsize>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (name, number) = (name.clone(), connections.fetch_add(1, Ordering::Relaxed));
        let answer = service_fn(move |request| answer(request, name.clone(), number));
        let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
        tokio::spawn(serving.with_upgrades());
    }
}

async fn answer(
    mut request: Request<Incoming>,
    name: String,
    connection: usize,
) -> Result<Response<Either<Incoming, Full<Bytes>>>> {
    if request.headers().get(UPGRADE).is_some_and(|protocol| protocol == "echo") {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let (mut from, mut to) = split(TokioIo::new(upgraded.await?));
            copy(&mut from, &mut to).await?;
            anyhow::Ok(())
        });
        let mut response = Response::new(Either::Right(Full::default()));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static("echo"));
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        return Ok(response);
    }
    if request.uri().path().ends_with("/echo") {
        return Ok(Response::new(Either::Left(request.into_body())));
    }
    let headers: Map<String, Value> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), json!(String::from_utf8_lossy(value.as_bytes()))))
        .collect();
    let said = json!({
        "host": name,
        "connection": connection,
        "method": request.method().as_str(),
        "target": request.uri().to_string(),
        "headers": headers,
    });
    let mut response = Response::new(Either::Right(Full::from(format!("{said}\n"))));
    let headers = response.headers_mut();
    headers.insert("connection", HeaderValue::from_static("x-between"));
    headers.insert("x-between", HeaderValue::from_static("agent and backend"));
    headers.insert("x-through", HeaderValue::from_static("all"));
    Ok(response)
}

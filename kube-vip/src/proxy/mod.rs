//! The HTTP proxy: listens where the plan says, and passes requests on to backends.
//!
//! ```text
//! listener    takes connections, as many as there are sockets for
//! exchange    one request's way: choose a backend, pass it on, pass the answer back
//! upstream    connections to backends, kept for the next request
//! watched     a body that tells when it has moved last
//! headers     what must not be passed on, and what is told to the backend
//! ```
//!
//! It has threads of its own: ten thousand requests a second must not delay the agent, which
//! renews what this host owns every 40 ms.

mod exchange;
mod headers;
mod listener;
mod upstream;
mod watched;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::runtime::Runtime;

use self::listener::Listener;
pub use self::listener::Traffic;
use crate::plan::Proxy;

/// Requests are mostly waited for.
const THREADS: usize = 2;

/// Everything that is listened on.
#[derive(Default)]
pub struct Proxies {
    listeners: BTreeMap<SocketAddr, Listener>,
    runtime: Option<Runtime>,
}

impl Proxies {
    /// Listens where it is wanted and nowhere else; says what did not work. What is given up ends
    /// with all its connections: their address belongs to another host now.
    pub fn apply(&mut self, wanted: &BTreeMap<SocketAddr, Proxy>) -> Vec<String> {
        let mut failures = Vec::new();
        self.listeners.retain(|address, listener| {
            let stays = wanted.get(address).is_some_and(|proxy| proxy.here);
            if !stays {
                tracing::info!("{} does not listen at {address} any more", listener.name());
            }
            stays
        });
        for (address, proxy) in wanted.iter().filter(|(_, proxy)| proxy.here) {
            if let Some(listener) = self.listeners.get(address) {
                listener.update(proxy);
                continue;
            }
            match self.listen(*address, proxy) {
                Ok(listener) => {
                    tracing::info!("{} listens at {address}", proxy.name);
                    self.listeners.insert(*address, listener);
                }
                Err(error) => failures.push(format!(
                    "{}: cannot listen at {address}: {error}; no other program may use the port",
                    proxy.name
                )),
            }
        }
        failures
    }

    /// What has gone through, where it is listened on.
    pub fn traffic(&self, address: &SocketAddr) -> Option<Arc<Traffic>> {
        self.listeners.get(address).map(Listener::traffic)
    }

    fn listen(&mut self, address: SocketAddr, proxy: &Proxy) -> std::io::Result<Listener> {
        let runtime = match &mut self.runtime {
            Some(runtime) => runtime,
            none => none.insert(
                tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(THREADS)
                    .thread_name("proxy")
                    .enable_all()
                    .build()?,
            ),
        };
        Listener::start(address, proxy, runtime.handle())
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        self.listeners.clear();
        if let Some(runtime) = self.runtime.take() {
            // Waiting for it is not allowed where other tasks run.
            runtime.shutdown_background();
        }
    }
}

//! A thread with an event loop inside a host's network: what is opened by its tasks is there.

use std::future::Future;
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::host::Host;

/// An event loop in a host's network; its tasks end when it is dropped.
#[derive(Debug)]
pub(crate) struct NetRuntime {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl NetRuntime {
    /// In the network of `host`, or where the process is.
    pub(crate) fn start(host: Option<&Host>) -> Result<Self> {
        let (ready, started) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let inside = host.cloned();
        let thread = std::thread::Builder::new()
            .name(format!("in {}", host.map_or("place", Host::name)))
            .spawn(move || {
                let made = inside.as_ref().map_or(Ok(()), Host::enter_net).and_then(|()| {
                    Builder::new_current_thread().enable_all().build().context("making a runtime")
                });
                match made {
                    Ok(runtime) => {
                        let _ = ready.send(Ok(runtime.handle().clone()));
                        let _ = runtime.block_on(stopped);
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                }
            })
            .context("starting a thread")?;
        let handle = started.recv().context("the thread of a host died at its start")??;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Runs `work` to its end on the host's thread.
    pub(crate) fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (done, result) = mpsc::channel();
        self.handle.spawn(async move {
            let _ = done.send(work.await);
        });
        result.recv().context("a task inside a host's network panicked")?
    }
}

impl Drop for NetRuntime {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

//! Frames as they pass a link.
//!
//! What XDP sends back is invisible on the interface itself: capture at the other end, which is
//! the host's port in the lab's wire.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use crate::background::Background;
use crate::build::Lab;
use crate::frame::Seen;
use crate::host::Host;
use crate::sys;

/// Enough for all headers tests look at.
const KEPT: usize = 192;

/// One frame that passed.
#[derive(Clone, Debug)]
pub struct Captured {
    /// When it was read, a little after it passed.
    pub at: Instant,
    /// Sent by the interface that is watched (at a port of the wire: on its way to the host).
    pub sent: bool,
    /// What it was.
    pub seen: Seen,
    /// Its first bytes.
    pub bytes: Vec<u8>,
}

/// A running capture.
#[derive(Debug)]
pub struct Capture(Background<Vec<Captured>>);

impl Capture {
    /// Watches what passes between a host and its bridge, from the bridge's side.
    pub fn of_host(lab: &Lab, host: &str) -> Result<Self> {
        Self::start(lab.wire(), host)
    }

    /// Watches an interface of a host.
    pub fn start(host: &Host, interface: &str) -> Result<Self> {
        let (ready, started) = mpsc::channel();
        let (host, interface) = (host.clone(), interface.to_owned());
        let name = format!("capture of {interface}");
        let work = move |stopped: &AtomicBool| {
            let socket = host.enter_net().and_then(|()| {
                let index = if_nametoindex(interface.as_str())
                    .with_context(|| format!("looking for {interface} in {}", host.name()))?;
                let socket = sys::packet_socket(index).context("opening a packet socket")?;
                setsockopt(&socket, RcvBufForce, &(32 << 20))?;
                socket.set_read_timeout(Some(Duration::from_millis(20)))?;
                Ok(socket)
            });
            let socket = match socket {
                Ok(socket) => socket,
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return Ok(Vec::new());
                }
            };
            let _ = ready.send(Ok(()));
            let mut all = Vec::new();
            let mut buffer = vec![0; 1 << 16];
            // What is queued when the end comes has passed before it, and is still read.
            loop {
                match sys::receive_frame(&socket, &mut buffer) {
                    Ok((length, sent)) => {
                        let bytes = buffer[..length.min(KEPT)].to_vec();
                        let seen = Seen { length, ..Seen::of(&bytes) };
                        all.push(Captured { at: Instant::now(), sent, seen, bytes });
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        if stopped.load(Ordering::Relaxed) {
                            return Ok(all);
                        }
                    }
                    Err(error) => bail!("capturing at {interface}: {error}"),
                }
            }
        };
        let running = Background::start(name, work)?;
        started.recv().context("the capture died at its start")??;
        Ok(Self(running))
    }

    /// Ends it and returns what passed, in order.
    pub fn finish(self) -> Result<Vec<Captured>> {
        self.0.finish()
    }
}

//! Asks the whole segment for an address and collects every answer.
//!
//! An ordinary resolver is content with the first answer, and so hides a second owner.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Write as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::net::if_::if_nametoindex;
use socket2::Socket;

use crate::frame::{Mac, Seen, What, arp_request, solicitation};
use crate::host::Host;
use crate::sys;

/// How long answers are collected after one request.
pub const WINDOW: Duration = Duration::from_millis(150);

/// Broadcasts one request for `target` from `host` and returns every MAC address that answers
/// within [`WINDOW`].
pub fn who_has(host: &Host, target: IpAddr) -> Result<BTreeSet<Mac>> {
    host.in_net(|| Ok(Asker::new(host, target)?.ask(WINDOW)?.answered))
}

/// The one host that answers for `target`; an error when it is none or several.
pub fn owner(host: &Host, target: IpAddr) -> Result<Mac> {
    let answers = who_has(host, target)?;
    ensure!(answers.len() == 1, "one host should answer for {target}, these did: {answers:?}");
    answers.first().copied().context("nobody answers")
}

/// One request and what was heard for a while after it.
#[derive(Clone, Debug)]
pub struct Heard {
    /// When the request was sent.
    pub at: Instant,
    /// Who answered it.
    pub answered: BTreeSet<Mac>,
    /// Who told everybody unasked (gratuitous ARP, unsolicited advertisements).
    pub announced: BTreeSet<Mac>,
}

struct Asker {
    socket: Socket,
    me: Mac,
    target: IpAddr,
    request: Vec<u8>,
}

impl Asker {
    /// To be called inside the host's network.
    fn new(host: &Host, target: IpAddr) -> Result<Self> {
        let index = if_nametoindex("eth0").context("looking for eth0")?;
        let socket = sys::packet_socket(index).context("opening a packet socket on eth0")?;
        let me = host.mac();
        let request = match target {
            IpAddr::V4(target) => arp_request(me, host.v4(), target),
            IpAddr::V6(target) => solicitation(me, host.v6(), target),
        };
        Ok(Self { socket, me, target, request })
    }

    fn ask(&self, window: Duration) -> Result<Heard> {
        let mut heard =
            Heard { at: Instant::now(), answered: BTreeSet::new(), announced: BTreeSet::new() };
        (&self.socket).write_all(&self.request).context("sending a request")?;
        let mut buffer = [0; 2048];
        while let Some(left) = window.checked_sub(heard.at.elapsed()).filter(|left| !left.is_zero())
        {
            self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            match sys::receive_frame(&self.socket, &mut buffer) {
                Ok((_, true)) => {}
                Ok((length, false)) => self.note(&Seen::of(&buffer[..length]), &mut heard),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(error) => bail!("listening for answers: {error}"),
            }
        }
        Ok(heard)
    }

    fn note(&self, seen: &Seen, heard: &mut Heard) {
        let (told, at) = match seen.what {
            // Whoever only asks with another address as sender tells nothing about the target.
            What::Arp { sender, at, .. } => (IpAddr::V4(sender), at),
            What::Neighbour { kind: 136, target, at, .. } => {
                (IpAddr::V6(target), at.unwrap_or(seen.from))
            }
            _ => return,
        };
        if told == self.target {
            if seen.to == self.me { &mut heard.answered } else { &mut heard.announced }.insert(at);
        }
    }
}

/// Asks for an address again and again until it is finished.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Vec<Heard>>>>,
}

impl Watch {
    /// Begins to ask for `target` from `host`, about twenty times a second.
    pub fn start(host: &Host, target: IpAddr) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (host, stopped) = (host.clone(), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name(format!("watch of {target}"))
            .spawn(move || {
                host.enter_net()?;
                let asker = Asker::new(&host, target)?;
                let mut all = Vec::new();
                while !stopped.load(Ordering::Relaxed) {
                    all.push(asker.ask(Duration::from_millis(50))?);
                }
                Ok(all)
            })
            .context("starting a thread")?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends it and returns what was heard, in order.
    pub fn finish(mut self) -> Result<Vec<Heard>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the watch has ended already")?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

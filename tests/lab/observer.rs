//! Asks the whole segment for an address and collects every answer.
//!
//! An ordinary resolver is content with the first answer, and so hides a second owner.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Write as _};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::net::if_::if_nametoindex;
use socket2::Socket;

use crate::background::Background;
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
        listen_until(&self.socket, heard.at + window, |seen| self.note(seen, &mut heard))?;
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
pub struct Watch(Background<Vec<Heard>>);

impl Watch {
    /// Begins to ask for `target` from `host`, about twenty times a second.
    pub fn start(host: &Host, target: IpAddr) -> Result<Self> {
        let host = host.clone();
        let work = move |stopped: &AtomicBool| {
            host.enter_net()?;
            let asker = Asker::new(&host, target)?;
            let mut all = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                all.push(asker.ask(Duration::from_millis(50))?);
            }
            Ok(all)
        };
        Background::start(format!("watch of {target}"), work).map(Self)
    }

    /// Ends it and returns what was heard, in order.
    pub fn finish(self) -> Result<Vec<Heard>> {
        self.0.finish()
    }
}

/// Reads what arrives at a socket until then.
pub(crate) fn listen_until(
    socket: &Socket,
    end: Instant,
    mut note: impl FnMut(&Seen),
) -> Result<()> {
    let mut buffer = [0; 2048];
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        socket.set_read_timeout(Some(left.max(Duration::from_micros(100))))?;
        match sys::receive_frame(socket, &mut buffer) {
            Ok((_, true)) => {}
            Ok((length, false)) => note(&Seen::of(&buffer[..length])),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(error) => bail!("listening for answers: {error}"),
        }
    }
    Ok(())
}

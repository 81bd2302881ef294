//! Asks a whole segment for an address every ten milliseconds, and tells the answers of one question
//! from those of the next: each has a sender of its own, to whom it is answered.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::net::if_::if_nametoindex;
use socket2::Socket;

use crate::background::Background;
use crate::frame::{Mac, Seen, What, arp_request, solicitation};
use crate::host::Host;
use crate::observer::listen_until;
use crate::sys;

/// From one question to the next.
const PERIOD: Duration = Duration::from_millis(10);

/// So many senders are used in turn: an answer may come so many periods late.
const SENDERS: usize = 78;

/// One question and who answered it.
#[derive(Clone, Debug)]
pub struct Question {
    /// When it was asked.
    pub at: Instant,
    /// Who answered it.
    pub answered: BTreeSet<Mac>,
}

/// Asks until it is finished.
#[derive(Debug)]
pub struct Questions(Background<Vec<Question>>);

impl Questions {
    /// Begins to ask for `target` from `host`.
    pub fn start(host: &Host, target: IpAddr) -> Result<Self> {
        let host = host.clone();
        let work = move |stopped: &AtomicBool| {
            host.enter_net()?;
            let mut asker = Asker::new(&host, target)?;
            let mut next = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                asker.ask()?;
                next = (next + PERIOD).max(Instant::now());
                asker.listen_until(next)?;
            }
            asker.listen_until(Instant::now() + 5 * PERIOD)?;
            Ok(asker.asked)
        };
        Background::start(format!("questions for {target}"), work).map(Self)
    }

    /// Ends it and returns all questions, in order.
    pub fn finish(self) -> Result<Vec<Question>> {
        self.0.finish()
    }
}

/// An error naming the first question that two hosts answered.
pub fn expect_one_answer(questions: &[Question]) -> Result<()> {
    let two = questions.iter().find(|question| question.answered.len() > 1);
    ensure!(two.is_none(), "two hosts answered one question: {two:?}");
    ensure!(questions.iter().any(|it| !it.answered.is_empty()), "nobody ever answered");
    Ok(())
}

/// The longest time around `from` to `to` in which nobody answered: from the last question that was
/// answered to the first one after that.
pub fn outage(questions: &[Question], from: Instant, to: Instant) -> Result<Duration> {
    let answered: Vec<Instant> =
        questions.iter().filter(|it| !it.answered.is_empty()).map(|it| it.at).collect();
    let pairs = answered.windows(2).filter(|pair| pair[1] >= from && pair[0] <= to);
    let longest = pairs.map(|pair| pair[1] - pair[0]).max();
    let after = answered.last().is_some_and(|last| *last >= to);
    longest.filter(|_| after).context("nobody answered any more")
}

struct Asker {
    socket: Socket,
    me: Mac,
    target: IpAddr,
    asked: Vec<Question>,
}

impl Asker {
    fn new(host: &Host, target: IpAddr) -> Result<Self> {
        let index = if_nametoindex("eth0").context("looking for eth0")?;
        let socket = sys::packet_socket(index).context("opening a packet socket on eth0")?;
        Ok(Self { socket, me: host.mac(), target, asked: Vec::new() })
    }

    /// Addresses that no host of a lab has, within its network: a kernel answers no others.
    fn sender(number: usize) -> (Ipv4Addr, Ipv6Addr) {
        let low = (number % SENDERS) as u8;
        let v6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0xa5c, low.into());
        (Ipv4Addr::new(10, 77, 0, low + 21), v6)
    }

    fn ask(&mut self) -> Result<()> {
        let (v4, v6) = Self::sender(self.asked.len());
        let request = match self.target {
            IpAddr::V4(target) => arp_request(self.me, v4, target),
            IpAddr::V6(target) => solicitation(self.me, v6, target),
        };
        (&self.socket).write_all(&request).context("asking")?;
        self.asked.push(Question { at: Instant::now(), answered: BTreeSet::new() });
        Ok(())
    }

    fn listen_until(&mut self, end: Instant) -> Result<()> {
        let Self { socket, me, target, asked } = self;
        listen_until(socket, end, |seen| note(seen, *me, *target, asked))
    }
}

/// Notes an answer with the question that it is to.
fn note(seen: &Seen, me: Mac, target: IpAddr, asked: &mut [Question]) {
    let (told, at, to) = match seen.what {
        What::Arp { operation: 2, sender, at, target: to } => {
            (IpAddr::V4(sender), at, IpAddr::V4(to))
        }
        What::Neighbour { kind: 136, target: told, at, receiver, .. } => {
            (IpAddr::V6(told), at.unwrap_or(seen.from), IpAddr::V6(receiver))
        }
        _ => return,
    };
    if told != target || seen.to != me {
        return;
    }
    let newest = (0..asked.len()).rev().take(SENDERS);
    let mut newest = newest.filter(|number| {
        let (v4, v6) = Asker::sender(*number);
        to == IpAddr::V4(v4) || to == IpAddr::V6(v6)
    });
    if let Some(number) = newest.next() {
        asked[number].answered.insert(at);
    }
}

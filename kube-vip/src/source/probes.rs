//! Whether the other hosts' data planes work: each is asked about once a second.
//!
//! What is answered is answered by the programs themselves, not by the agent over there, so it is
//! the data plane that is tried, and how long it has been without an agent. From agent to agent go
//! only two notices, so that nobody has to wait for the next question: "from now on" and "I am
//! leaving". Both only make a host ask, or stop relying on the other; neither has to be believed.

mod asked;
mod sockets;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use kube_vip_common::hash::HASH_VERSION;
use kube_vip_common::probe::{Kind, Message, VERSION};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use self::asked::Asked;
use self::sockets::Sockets;
use crate::view::{Probes, Target, Targets};

/// Speaks to the agents that are asked.
#[derive(Clone, Debug)]
pub struct Voice(mpsc::Sender<(Kind, oneshot::Sender<()>)>);

impl Voice {
    /// This host's data plane works from now on: the others need not wait to find out.
    pub async fn hello(&self) {
        self.say(Kind::Hello).await;
    }

    /// It ends now. When this returns the others have been told.
    pub async fn goodbye(&self) {
        self.say(Kind::Goodbye).await;
    }

    async fn say(&self, kind: Kind) {
        let (done, said) = oneshot::channel();
        if self.0.send((kind, done)).await.is_ok() {
            let _ = said.await;
        }
    }
}

/// Asks the targets until every receiver of the answers is gone.
pub fn follow(targets: watch::Receiver<Targets>) -> (watch::Receiver<Probes>, Voice) {
    let (known, receiver) = watch::channel(Probes::new());
    let (voice, notices) = mpsc::channel(1);
    let asker = Asker { known, peers: BTreeMap::new(), sockets: Sockets::default() };
    tokio::spawn(asker.run(targets, notices));
    (receiver, Voice(voice))
}

struct Asker {
    known: watch::Sender<Probes>,
    peers: BTreeMap<IpAddr, (Target, Asked)>,
    sockets: Sockets,
}

impl Asker {
    async fn run(
        mut self,
        mut targets: watch::Receiver<Targets>,
        mut notices: mpsc::Receiver<(Kind, oneshot::Sender<()>)>,
    ) {
        self.aim(&targets.borrow_and_update().clone());
        loop {
            let due = self.peers.values().map(|(_, asked)| asked.due()).min();
            // Without peers there is nothing to wait for but other targets.
            let due = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(60));
            tokio::select! {
                // Whoever is to be told something has to be known before.
                biased;
                () = self.known.closed() => return,
                Ok(()) = targets.changed() => {
                    let targets = targets.borrow_and_update().clone();
                    self.aim(&targets);
                }
                Some((kind, done)) = notices.recv() => {
                    self.tell(kind).await;
                    let _ = done.send(());
                }
                (from, message) = self.sockets.receive() => self.hear(from, &message),
                () = sleep_until(due) => self.ask().await,
            }
            self.publish();
        }
    }

    fn aim(&mut self, targets: &Targets) {
        self.sockets.bind(&targets.from, targets.port);
        self.peers.retain(|address, _| targets.peers.contains_key(address));
        let now = Instant::now();
        for (address, target) in &targets.peers {
            let new = || (*target, Asked::new(now));
            self.peers.entry(*address).or_insert_with(new).0 = *target;
        }
    }

    async fn ask(&mut self) {
        let now = Instant::now();
        self.sockets.bind_missing();
        for (address, (target, asked)) in &mut self.peers {
            for (nonce, wide) in asked.ask(now, target.size.is_some()) {
                let size = if wide { target.size } else { None };
                let question = message(Kind::Question, nonce);
                self.sockets.send((*address, target.port).into(), &question, size).await;
            }
        }
    }

    fn hear(&mut self, from: IpAddr, message: &Message) {
        let Some((_, asked)) = self.peers.get_mut(&from) else { return };
        let now = Instant::now();
        match message.kind {
            Kind::Answer => asked.answered(now, message),
            Kind::Hello => asked.greeted(now),
            Kind::Goodbye => asked.left(now),
            // The kernel handed it up because this host's programs are not there to answer it.
            Kind::Question => {}
        }
    }

    async fn tell(&mut self, kind: Kind) {
        for (address, (target, _)) in &self.peers {
            self.sockets.send((*address, target.port).into(), &message(kind, 0), None).await;
        }
    }

    fn publish(&self) {
        let of = |(address, (_, asked)): (&IpAddr, &(Target, Asked))| (*address, asked.probe());
        let now: Probes = self.peers.iter().map(of).collect();
        self.known.send_if_modified(|known| {
            let same = known.len() == now.len()
                && known.iter().zip(&now).all(|((a, old), (b, new))| a == b && old.says(new));
            *known = now;
            !same
        });
    }
}

fn message(kind: Kind, nonce: u64) -> Message {
    Message { kind, hash: HASH_VERSION, nonce, digest: 0, age: 0, version: VERSION }
}

#[cfg(test)]
#[path = "probes/tests.rs"]
mod tests;

//! Connections that transfer all the time and check every byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::{Connection, Host, VIPS};

use crate::faults::Fault;

const CONNECTIONS: usize = 6;
/// Bytes of one transfer; between two of them a client rests.
const TRANSFER: u64 = 200_000;
const REST: Duration = Duration::from_millis(20);

/// A transfer that failed.
#[derive(Clone, Debug)]
struct Failed {
    /// The host its backend is on.
    host: String,
    /// The last moment at which all was well.
    well: Instant,
    at: Instant,
    why: String,
}

/// What became of the transfers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transfers {
    pub(crate) connections: u64,
    pub(crate) refused: u64,
    pub(crate) bytes: u64,
    /// The longest time without a finished transfer, of connections that went on.
    pub(crate) longest_stall: Duration,
    failed: Vec<Failed>,
}

impl Transfers {
    pub(crate) fn failed(&self) -> usize {
        self.failed.len()
    }

    /// An error, unless every connection that failed was to a host that a fault cut off meanwhile, and
    /// all bytes were right.
    pub(crate) fn expect_unharmed(&self, faults: &[Fault]) -> Result<()> {
        ensure!(self.bytes > 0, "nothing was transferred");
        for failed in &self.failed {
            ensure!(!failed.why.contains("differs"), "a wrong byte: {failed:?}");
            let harmed = faults.iter().any(|fault| {
                fault.harmed.contains(&failed.host)
                    && fault.from <= failed.at
                    && fault.settled + Duration::from_secs(1) >= failed.well
            });
            ensure!(harmed, "a connection was lost though nothing was wrong there: {failed:?}");
        }
        Ok(())
    }

    fn add(&mut self, other: Self) {
        self.connections += other.connections;
        self.refused += other.refused;
        self.bytes += other.bytes;
        self.longest_stall = self.longest_stall.max(other.longest_stall);
        self.failed.extend(other.failed);
    }
}

/// Clients at work.
pub(crate) struct Clients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Transfers>>>,
}

impl Clients {
    pub(crate) fn start(host: &Host) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..CONNECTIONS)
            .map(|number| {
                let (host, stop) = (host.clone(), Arc::clone(&stop));
                let name = format!("client {number}");
                let work = move || work(&host, number, &stop);
                std::thread::Builder::new().name(name).spawn(work).context("starting a thread")
            })
            .collect::<Result<_>>()?;
        Ok(Self { stop, threads })
    }

    pub(crate) fn finish(self) -> Result<Transfers> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Transfers::default();
        for thread in self.threads {
            match thread.join() {
                Ok(result) => all.add(result?),
                Err(_) => bail!("a client panicked"),
            }
        }
        Ok(all)
    }
}

fn work(host: &Host, number: usize, stop: &AtomicBool) -> Result<Transfers> {
    let mut transfers = Transfers::default();
    let target = (VIPS[number % VIPS.len()], 80).into();
    while !stop.load(Ordering::Relaxed) {
        let opened = Connection::open_from(host, target, None, Duration::from_secs(2))
            .and_then(|mut connection| Ok((connection.who()?.host, connection)));
        let Ok((backend, mut connection)) = opened else {
            // While nobody owns the VIP, or its host is being cut off.
            transfers.refused += 1;
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        transfers.connections += 1;
        let mut well = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            match connection.download(TRANSFER) {
                Ok(()) => {
                    transfers.bytes += TRANSFER;
                    transfers.longest_stall = transfers.longest_stall.max(well.elapsed());
                    well = Instant::now();
                }
                Err(error) => {
                    let (at, why) = (Instant::now(), format!("{error:#}"));
                    transfers.failed.push(Failed { host: backend, well, at, why });
                    break;
                }
            }
            std::thread::sleep(REST);
        }
    }
    Ok(transfers)
}

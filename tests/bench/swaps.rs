//! Whether any packet goes wrong while tables change under traffic.
//!
//! Frames of many flows are sent all the time, and every frame that comes back is looked at as a
//! whole: it must be the client's, byte for byte, but for the link addresses and the mark, and it
//! must go where the table before or the one after the change says for its flow, nowhere else.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use aya::programs::xdp::XdpMode;
use aya::programs::{TestRun as _, TestRunOptions};
use kube_vip::config::Protocol;
use kube_vip::dataplane::{Mirror, Object};
use kube_vip::plan::{Backend, DataPlane, Way};
use kube_vip_common::mark;
use lab::{Capture, Captured, Lab};
use nix::net::if_::if_nametoindex;

use crate::frames::seal;
use crate::live::{Generator, attached, forwarded_frame};
use crate::progress;
use crate::report::Row;
use crate::setup::{HOST, LIMITS, backend, configuration_on, port, vip};

/// Flows under way.
const FLOWS: u32 = 4096;
/// Frames in one go, and the pause between two: the one who looks must keep up.
const BURST: u32 = 64;
const PAUSE: Duration = Duration::from_millis(1);
/// Longest a frame may be under way.
const STRAGGLERS: Duration = Duration::from_millis(300);
/// Where the source port of a frame is.
const PORT: usize = 34;

const MAKER: &str = "n1";
const SENDER: &str = "n2";

pub(crate) fn rows(swaps: u32) -> Result<Vec<Row>> {
    progress(&format!("{swaps} changes of tables under traffic"));
    let lab = Lab::bridge(2, 0)?;
    lab.cable((MAKER, "make"), (SENDER, "sendon"))?;
    let (maker, sender) = (lab.host(MAKER), lab.host(SENDER));
    let ifindex = sender.in_net(|| Ok(if_nametoindex("sendon")?))?;
    let mut object = sender.in_net(|| attached("kube_vip_xdp", ifindex, XdpMode::Driver))?;
    let tables = [0, 1].map(|which| desired(ifindex, which));
    let mut mirror = Mirror::new(&object.maps, &LIMITS)?;
    let expected = Expected::of(&mut object, &mut mirror, &tables)?;

    let done = AtomicBool::new(false);
    let capture = Capture::start(maker, "make")?;
    let traffic = thread::scope(|scope| -> Result<_> {
        let making = scope.spawn(|| maker.in_net(|| make(&done)));
        let mut changes = (0..swaps).map(|change| &tables[(change % 2) as usize]);
        let swapped = changes.try_for_each(|table| {
            mirror.apply(&mut object.maps, table, 0)?;
            ensure!(!making.is_finished(), "the generator has ended early");
            Ok(())
        });
        done.store(true, Ordering::Relaxed);
        let traffic = making.join().map_err(|_| anyhow!("the generator panicked"))?;
        swapped.and(traffic)
    })?;
    let found = expected.judge(&capture.finish()?);
    found.examples.iter().for_each(|wrong| eprintln!("    wrong: {wrong}"));
    ensure!(found.looked_at * 2 > traffic.sent, "too few frames were looked at: {found:?}");
    ensure!(found.by_table.iter().all(|count| *count > 0), "the tables were not used: {found:?}");
    let count = |what: &str, number: u64| Row::single(what, "", number as f64);
    Ok(vec![
        count("tables swapped under traffic", swaps.into()),
        count("frames sent meanwhile", traffic.sent),
        count("… that did not arrive", traffic.sent.saturating_sub(traffic.arrived)).at_most(0.0),
        count("… that were looked at, whole", found.looked_at),
        count("… altered, or gone where no table says", found.wrong).at_most(0.0),
    ])
}

/// What the generator did.
struct Traffic {
    sent: u64,
    arrived: u64,
}

/// Sends until it is over, and waits for what is under way.
fn make(done: &AtomicBool) -> Result<Traffic> {
    let mut generator = Generator::new("seen_xdp", &["make"])?;
    let frame = forwarded_frame()?;
    generator.set(&frame, FLOWS)?;
    let ifindex = if_nametoindex("make")?;
    let mut sent = 0;
    while !done.load(Ordering::Relaxed) {
        generator.send(ifindex, &frame, BURST)?;
        sent += u64::from(BURST);
        thread::sleep(PAUSE);
    }
    let patience = Instant::now() + STRAGGLERS;
    while generator.arrived()? < sent && Instant::now() < patience {
        thread::sleep(PAUSE);
    }
    Ok(Traffic { sent, arrived: generator.arrived()? })
}

/// The second table has half of the first one's backends and as many others.
fn desired(ifindex: u32, which: u8) -> DataPlane {
    let mut desired = configuration_on(ifindex);
    let key = (vip(false), port::FORWARD, Protocol::Udp);
    if let Some(frontend) = desired.frontends.get_mut(&key) {
        let one = |number: u8| -> (SocketAddr, Backend) {
            let node = Some(format!("peer{}", 1 + (number + which) % 3));
            (backend(false, 100 + number), Backend { node, weight: 1, way: Way::Peer })
        };
        frontend.backends = (5 * which..10 + 5 * which).map(one).collect();
    }
    desired
}

/// What comes out for each client port by each table, whole frames.
struct Expected(BTreeMap<[u8; 2], [Vec<u8>; 2]>);

/// What was seen.
#[derive(Debug, Default)]
struct Found {
    looked_at: u64,
    wrong: u64,
    /// The first few that were wrong.
    examples: Vec<String>,
    /// Frames of flows that moved, by the table they followed.
    by_table: [u64; 2],
}

impl Expected {
    /// Asks the program where each flow goes, with nothing else going on.
    fn of(object: &mut Object, mirror: &mut Mirror, tables: &[DataPlane; 2]) -> Result<Self> {
        let mut all = BTreeMap::<[u8; 2], [Vec<u8>; 2]>::new();
        let first = forwarded_frame()?;
        for (which, table) in tables.iter().enumerate() {
            mirror.apply(&mut object.maps, table, 0)?;
            for flow in 0..FLOWS as u16 {
                let mut frame = first.clone();
                let port = u16::from_ne_bytes([frame[PORT], frame[PORT + 1]]) ^ flow;
                frame[PORT..PORT + 2].copy_from_slice(&port.to_ne_bytes());
                let mut out = vec![0; frame.len()];
                object.xdp()?.test_run(TestRunOptions {
                    data_in: Some(&frame),
                    data_out: Some(&mut out),
                    ..TestRunOptions::default()
                })?;
                let sent_on = sent_on(frame, &out[..6]);
                ensure!(out == sent_on, "{out:02x?} is not {sent_on:02x?}");
                all.entry(port.to_ne_bytes()).or_default()[which] = sent_on;
            }
        }
        Ok(Self(all))
    }

    fn judge(&self, frames: &[Captured]) -> Found {
        let mut found = Found::default();
        // What the host itself has to say on the link is no part of this.
        let ours = |frame: &&Captured| !frame.sent && frame.bytes.get(12..14) == Some(&[8, 0]);
        for frame in frames.iter().filter(ours) {
            found.looked_at += 1;
            let port = frame.bytes.get(PORT..PORT + 2).and_then(|port| port.try_into().ok());
            let [one, other] = match port.and_then(|port: [u8; 2]| self.0.get(&port)) {
                Some(frames) => frames.each_ref().map(|expected| *expected == frame.bytes),
                None => [false; 2],
            };
            if !one && !other {
                found.wrong += 1;
                if found.examples.len() < 3 {
                    found.examples.push(format!("{:02x?}", frame.bytes));
                }
            }
            if one != other {
                found.by_table[usize::from(other)] += 1;
            }
        }
        found
    }
}

/// The frame as it goes on to a host: link addresses, mark, and the header's checksum, computed anew.
fn sent_on(mut frame: Vec<u8>, to: &[u8]) -> Vec<u8> {
    frame[..6].copy_from_slice(to);
    frame[6..12].copy_from_slice(&HOST.0);
    frame[22] = mark::ttl(0);
    seal(&mut frame[14..34]);
    frame
}

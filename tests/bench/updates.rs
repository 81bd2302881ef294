//! How long a change takes until packets follow it, and a great many changes at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use kube_vip::config::{Affinity, Limits, Protocol, TableSize};
use kube_vip::dataplane::{Mirror, Object};
use kube_vip::plan::{Backend, DataPlane, Frontend, Way};
use kube_vip::view::Mac;

use crate::frames::{ACK, Segment};
use crate::kernel::{Hook, Variant, program};
use crate::measure::Samples;
use crate::setup::{CLIENT, HOST, LIMITS, address, client, configuration, peer, port, vip};

/// Longest anybody waits for a change.
const PATIENCE: Duration = Duration::from_secs(2);

/// Longest the thread that looks may be kept from looking: what it saw late says nothing.
const BLINK: Duration = Duration::from_millis(1);

/// Milliseconds.
#[derive(Default)]
pub(crate) struct Latency {
    /// From the call until a packet goes the new way.
    pub(crate) visible: Samples,
    /// Until the call returns.
    pub(crate) returned: Samples,
    /// Changes that are not among these, because nobody looked at the moment.
    pub(crate) unseen: u32,
}

/// Moves the one backend of a frontend from one peer to another and back, while another thread
/// looks where packets go.
pub(crate) fn latency(changes: u32) -> Result<Latency> {
    let Object { mut programs, mut maps, .. } = Object::load(&LIMITS, None)?;
    let mut mirror = Mirror::new(&maps, &LIMITS)?;
    let mut desired = configuration();
    move_to(&mut desired, 2)?;
    mirror.apply(&mut maps, &desired, 0)?;
    let start = Instant::now();
    let (seen, ended) = (Seen::default(), AtomicBool::new(false));
    let mut latency = Latency::default();
    thread::scope(|scope| {
        scope.spawn(|| watch(&mut programs, &seen, &ended, start));
        let result = (0..changes * 2).try_for_each(|change| {
            if change >= changes + latency.unseen {
                return Ok(());
            }
            let number = 1 + (change % 2) as u8;
            move_to(&mut desired, number)?;
            let called = start.elapsed();
            mirror.apply(&mut maps, &desired, 0)?;
            latency.returned.add(milliseconds(start.elapsed() - called));
            let (visible, unseen) = seen.wait(peer(number))?;
            if unseen > BLINK {
                latency.unseen += 1;
            } else {
                latency.visible.add(milliseconds(visible.saturating_sub(called)));
            }
            Ok(())
        });
        ended.store(true, Ordering::Relaxed);
        result
    })
    .map(|()| latency)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Both peers serve; only the last octet of the address says which of two backends is the one.
fn move_to(desired: &mut DataPlane, number: u8) -> Result<()> {
    let key = (vip(false), port::FORWARD, Protocol::Tcp);
    let frontend = desired.frontends.get_mut(&key).context("the frontend is configured")?;
    let address = SocketAddr::new(address(false, 4, number.into()), port::BACKEND);
    let backend = Backend::new(Some(format!("peer{number}")), 1, Way::Peer);
    frontend.backends = BTreeMap::from([(address, backend)]);
    Ok(())
}

/// The Ethernet address packets go to, since when, and how long nobody had looked by then; times in
/// nanoseconds.
#[derive(Default)]
struct Seen {
    to: AtomicU64,
    since: AtomicU64,
    unseen: AtomicU64,
}

impl Seen {
    fn put(&self, mac: u64, since: Duration, unseen: Duration) {
        if self.to.load(Ordering::Relaxed) != mac {
            self.since.store(since.as_nanos() as u64, Ordering::Relaxed);
            self.unseen.store(unseen.as_nanos() as u64, Ordering::Relaxed);
            self.to.store(mac, Ordering::Release);
        }
    }

    fn wait(&self, mac: Mac) -> Result<(Duration, Duration)> {
        let patience = Instant::now() + PATIENCE;
        while self.to.load(Ordering::Acquire) != number(&mac.0) {
            ensure!(Instant::now() < patience, "packets do not follow the change");
            thread::sleep(Duration::from_micros(100));
        }
        let time = |time: &AtomicU64| Duration::from_nanos(time.load(Ordering::Relaxed));
        Ok((time(&self.since), time(&self.unseen)))
    }
}

fn number(mac: &[u8]) -> u64 {
    mac.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn watch(programs: &mut Ebpf, seen: &Seen, ended: &AtomicBool, start: Instant) -> Result<()> {
    let name = program(Hook::Xdp, Variant::Plain);
    let program: &mut Xdp = programs.program_mut(name).context(name)?.try_into()?;
    let to = (vip(false), port::FORWARD);
    let from = (client(false), 40_000);
    let frame = Segment { link: (CLIENT, HOST), from, to, flags: ACK, ttl: 64 }.frame();
    let mut out = vec![0; frame.len()];
    let mut looked = start.elapsed();
    while !ended.load(Ordering::Relaxed) {
        let (data_in, data_out) = (Some(frame.as_slice()), Some(out.as_mut_slice()));
        program.test_run(TestRunOptions { data_in, data_out, ..TestRunOptions::default() })?;
        let before = std::mem::replace(&mut looked, start.elapsed());
        seen.put(number(&out[..6]), looked, looked - before);
    }
    Ok(())
}

/// From empty maps to all of these frontends with so many backends each.
pub(crate) fn bulk(frontends: u16, backends: u8) -> Result<Duration> {
    let total = u32::from(frontends) * u32::from(backends);
    let limits = Limits {
        frontends: u32::from(frontends).next_power_of_two(),
        backends: (total + 1).next_power_of_two(),
        flows: LIMITS.flows,
        half_open: LIMITS.half_open,
        nat: LIMITS.nat,
    };
    let mut desired = configuration();
    desired.vips.clear();
    desired.frontends.clear();
    let vip_of = kube_vip::plan::Vip {
        host_address: false,
        held: true,
        lease: "all".to_owned(),
        grant: None,
        owner: None,
    };
    for number in 0..frontends {
        let address_of = address(false, 2, number);
        desired.vips.insert(address_of, vip_of.clone());
        let backends = (0..backends).map(|backend| {
            let address = SocketAddr::new(address(false, 10 + backend, number), port::BACKEND);
            let node = Some(format!("peer{}", 1 + backend % 3));
            (address, Backend::new(node, 1, Way::Peer))
        });
        desired.frontends.insert(
            (address_of, port::FORWARD, Protocol::Tcp),
            Frontend {
                name: "bulk".to_owned(),
                size: TableSize::default(),
                affinity: Affinity::None,
                seed: number.into(),
                backends: backends.collect(),
                ..Frontend::default()
            },
        );
    }
    let mut object = Object::load(&limits, None)?;
    let mut mirror = Mirror::new(&object.maps, &limits)?;
    let start = Instant::now();
    let changes = mirror.apply(&mut object.maps, &desired, 0)?;
    let took = start.elapsed();
    ensure!(changes.tables == usize::from(frontends), "only {} tables were made", changes.tables);
    Ok(took)
}

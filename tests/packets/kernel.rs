//! The real programs on the real verifier and JIT, with no interface: frame in, verdict and frame
//! out.
//!
//! Test runs make plain packets. Partial checksums and packets that stand for many segments do not
//! exist here; the lab has them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData, RingBuf};
use aya::programs::{TestRun as _, TestRunOptions};
use kube_vip::config::Limits;
use kube_vip::dataplane::{
    Fence, Hand, Key, Mirror, Object, Port, Records, Term, Travels, boot_time, counters, event,
};
use kube_vip::plan::DataPlane;
use kube_vip::view::Mac;
use kube_vip_common::address::MacAddress;
use kube_vip_common::clock::Clock;
use kube_vip_common::event::Event;
use kube_vip_common::flow::{Endpoint4, Endpoint6, Tuple4, Tuple6};
use kube_vip_common::frontend::Protocol;
use kube_vip_common::node::Uplink;
use kube_vip_common::stats::{BackendTraffic, Reason, Traffic};

use super::cluster::LEASE;
use super::frames::HOST;

/// Interface index that test runs arrive on: the loopback of the namespace.
pub(crate) const IFINDEX: u32 = 1;

/// What a program says, XDP's words for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Drop,
    Pass,
    Transmit,
    Redirect,
}

/// What became of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) frame: Vec<u8>,
    /// Counters that went up, with by how much.
    pub(crate) counted: BTreeMap<Reason, u64>,
}

/// A frame, short enough to be read in a failed test.
fn hex(bytes: &[u8]) -> String {
    bytes.chunks(16).map(|line| format!("\n    {line:02x?}")).collect()
}

impl Outcome {
    #[track_caller]
    pub(crate) fn is(&self, verdict: Verdict, frame: &[u8], counted: &[Reason]) {
        let expected = counted.iter().map(|reason| (*reason, 1)).collect();
        assert_eq!((self.verdict, &self.counted), (verdict, &expected));
        assert!(self.frame == frame, "{}\n  is not{}", hex(&self.frame), hex(frame));
    }

    /// It went on as it was and nothing was counted.
    #[track_caller]
    pub(crate) fn untouched(&self, frame: &[u8]) {
        self.is(Verdict::Pass, frame, &[]);
    }

    /// It went on like this.
    #[track_caller]
    pub(crate) fn passed(&self, frame: &[u8], counted: &[Reason]) {
        self.is(Verdict::Pass, frame, counted);
    }

    /// It ended here, for this reason.
    #[track_caller]
    pub(crate) fn dropped(&self, reasons: &[Reason]) {
        let expected = reasons.iter().map(|reason| (*reason, 1)).collect();
        assert_eq!((self.verdict, &self.counted), (Verdict::Drop, &expected));
    }

    /// It went out again like this.
    #[track_caller]
    pub(crate) fn transmitted(&self, frame: &[u8], counted: &[Reason]) {
        self.is(Verdict::Transmit, frame, counted);
    }
}

/// A loaded set of programs and maps.
pub(crate) struct Kernel {
    object: Object,
    changes: Option<[RingBuf<MapData>; 2]>,
    mirror: Mirror,
    fence: Fence,
}

pub(crate) const LIMITS: Limits =
    Limits { frontends: 16, backends: 300, flows: 1024, half_open: 1024, nat: 1024 };

/// The port that refuses.
pub(crate) const CLOSED: u16 = 65000;

impl Kernel {
    /// Programs with that configuration in their maps; no lease is held.
    pub(crate) fn new(desired: &DataPlane) -> Self {
        let mut object = Object::load(&LIMITS, None).expect("programs load (root needed)");
        let mirror = Mirror::new(&object.maps, &LIMITS).expect("maps are there");
        let own = Uplink { mac: MacAddress::new(HOST.0), pad: [0; 2] };
        object.maps.uplinks.insert(IFINDEX, own, 0).expect("uplink");
        let fence = object.maps.fence().expect("fence");
        let mut kernel = Self { object, changes: None, mirror, fence };
        kernel.apply(desired);
        kernel
    }

    /// As `new`, with the lease held for as long as a test runs.
    pub(crate) fn owning(desired: &DataPlane) -> Self {
        let kernel = Self::new(desired);
        kernel.own_for(Duration::from_secs(3600));
        kernel
    }

    pub(crate) fn own_for(&self, term: Duration) {
        let until = boot_time() + term.as_nanos() as u64;
        self.fence.offer(LEASE, Term { epoch: 1, until }).expect("an offer");
        // There is no other lease, so this is the first place.
        self.fence.take_up(LEASE, 0, 1).expect("a lease");
    }

    /// Holds the lease for a moment that is over when this returns.
    pub(crate) fn let_lease_expire(&self) {
        self.own_for(Duration::from_millis(5));
        std::thread::sleep(Duration::from_millis(10));
    }

    /// Changes the configuration.
    pub(crate) fn apply(&mut self, desired: &DataPlane) {
        self.apply_closed(desired, CLOSED);
    }

    /// Changes the configuration, with another port that refuses.
    pub(crate) fn apply_closed(&mut self, desired: &DataPlane, closed: u16) {
        self.mirror.apply(&mut self.object.maps, desired, closed).expect("maps are written");
    }

    /// Tries to change the configuration.
    pub(crate) fn try_apply(&mut self, desired: &DataPlane) -> Result<(), String> {
        let result = self.mirror.apply(&mut self.object.maps, desired, CLOSED);
        result.map(|_| ()).map_err(|error| error.to_string())
    }

    /// Gives the uplink another address.
    pub(crate) fn set_uplink(&mut self, mac: Mac) {
        let own = Uplink { mac: MacAddress::new(mac.0), pad: [0; 2] };
        self.object.maps.uplinks.insert(IFINDEX, own, 0).expect("uplink");
    }

    /// Moves the clock, as an agent does.
    pub(crate) fn wind_clock(&mut self) {
        Hand::new(self.object.maps.clock.take()).set().expect("clock");
    }

    /// Sets the clock.
    pub(crate) fn set_clock(&mut self, seconds: u32) {
        let clock = self.object.maps.clock.as_mut().expect("nobody has taken the clock");
        clock.set(0, Clock { seconds }, 0).expect("CLOCK is written");
    }

    /// Forgets that an interface is an uplink.
    pub(crate) fn remove_uplink(&mut self) {
        self.object.maps.uplinks.remove(&IFINDEX).expect("uplink");
    }

    pub(crate) fn counts(&self) -> BTreeMap<Reason, u64> {
        counters::reasons(&self.object.maps).into_iter().collect()
    }

    fn outcome(
        &mut self,
        frame: &[u8],
        run: impl FnOnce(&mut Self, &[u8]) -> (Verdict, Vec<u8>),
    ) -> Outcome {
        let before = self.counts();
        let (verdict, out) = run(self, frame);
        let mut counted = self.counts();
        counted.retain(|reason, count| {
            *count -= before.get(reason).copied().unwrap_or(0);
            *count > 0
        });
        Outcome { verdict, frame: out, counted }
    }

    /// Sends a frame into the XDP program.
    pub(crate) fn xdp(&mut self, frame: &[u8]) -> Outcome {
        self.outcome(frame, Self::run_xdp)
    }

    /// Sends a frame into the XDP program and reads no counters, which is faster.
    pub(crate) fn run_xdp(&mut self, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let program = self.object.xdp().expect("program");
        let (value, out) = run(frame, |options| program.test_run(options));
        let verdict = match value {
            1 => Verdict::Drop,
            2 => Verdict::Pass,
            3 => Verdict::Transmit,
            4 => Verdict::Redirect,
            other => panic!("verdict {other}"),
        };
        (verdict, out)
    }

    /// Sends a frame into the TC egress program.
    pub(crate) fn egress(&mut self, frame: &[u8]) -> Outcome {
        self.outcome(frame, Self::run_egress)
    }

    /// Sends a frame into the TC egress program and reads no counters.
    pub(crate) fn run_egress(&mut self, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let program = self.object.egress().expect("program");
        let (value, out) = run(frame, |options| program.test_run(options));
        // TCX_NEXT and TCX_DROP.
        let verdict = match value.cast_signed() {
            -1 => Verdict::Pass,
            2 => Verdict::Drop,
            other => panic!("verdict {other}"),
        };
        (verdict, out)
    }

    /// Flows on record, and records of those whose client has not proved that it exists.
    pub(crate) fn flows(&self, v6: bool) -> (usize, usize) {
        let maps = &self.object.maps;
        let [known, half] = if v6 {
            maps.flows6.each_ref().map(entries::<Tuple6, Endpoint6>)
        } else {
            maps.flows4.each_ref().map(entries::<Tuple4, Endpoint4>)
        };
        (known, half)
    }

    /// What arrived for a frontend.
    pub(crate) fn frontend(&self, port: &Port) -> Traffic {
        let id = self.mirror.frontend_id(port).expect("frontend");
        counters::frontend(&self.object.maps, id)
    }

    /// What went to a backend and came back.
    pub(crate) fn backend(&self, protocol: Protocol, backend: SocketAddr) -> BackendTraffic {
        let id = self.mirror.backend_id(&(protocol, backend)).expect("backend");
        counters::backend(&self.object.maps, id)
    }

    /// What other hosts are told of, and tell; once.
    pub(crate) fn records(&mut self) -> Records {
        let Travels { records, changes } = self.object.maps.travels.take().expect("once");
        self.changes = Some(changes);
        records
    }

    /// The index into `NODES` of another host.
    pub(crate) fn node(&self, desired: &DataPlane, name: &str) -> u32 {
        self.mirror.world(desired, "").nodes[name]
    }

    /// Translated flows that have changed since the last call.
    pub(crate) fn changes(&mut self) -> Vec<Key> {
        if self.changes.is_none() {
            self.records();
        }
        let mut keys = Vec::new();
        for ring in self.changes.iter_mut().flatten() {
            while let Some(item) = ring.next() {
                keys.extend(Key::read(&item));
            }
        }
        keys
    }

    /// The events since the last call.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        let ring = self.object.maps.events.as_mut().expect("ring buffer");
        let mut events = Vec::new();
        while let Some(item) = ring.next() {
            events.extend(event(&item));
        }
        events
    }
}

fn entries<K: aya::Pod, V: aya::Pod>(map: &MapData) -> usize {
    let fd = map.fd().as_fd().try_clone_to_owned().expect("another descriptor");
    let map = Map::LruHashMap(MapData::from_fd(fd).expect("a map"));
    HashMap::<_, K, V>::try_from(map).expect("a hash").keys().count()
}

fn run<E: std::fmt::Debug>(
    frame: &[u8],
    test_run: impl FnOnce(TestRunOptions<'_>) -> Result<aya::programs::TestRunResult, E>,
) -> (u32, Vec<u8>) {
    let mut out = vec![0; frame.len() + 256];
    let options =
        TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..Default::default() };
    let result = test_run(options).expect("test run");
    out.truncate(result.data_size_out as usize);
    (result.return_value, out)
}

//! The real programs on the real verifier and JIT, with no interface: frame in, verdict and frame
//! out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use aya::programs::{TestRun as _, TestRunOptions};
use kube_vip::config::Limits;
use kube_vip::dataplane::{Fence, LEASE, Mirror, Object, counters};
use kube_vip::plan::{Backend, DataPlane, Frontend, Grant, Node, Vip, Way};
use kube_vip::view::Mac;
use kube_vip_common::address::MacAddress;
use kube_vip_common::frontend::{Affinity, Protocol};
use kube_vip_common::node::Uplink;
use kube_vip_common::stats::Reason;
use kube_vip_common::table::TableSize;

/// Interface index that test runs arrive on: the loopback of the namespace.
pub const IFINDEX: u32 = 1;

/// XDP verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Drop,
    Pass,
    Tx,
    Redirect,
}

/// What became of a frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub verdict: Verdict,
    pub frame: Vec<u8>,
    /// Counters that went up, with by how much.
    pub counted: BTreeMap<&'static str, u64>,
}

/// A loaded set of programs and maps.
pub struct Kernel {
    pub object: Object,
    pub mirror: Mirror,
    pub fence: Fence,
}

pub const LIMITS: Limits = Limits { frontends: 16, backends: 64, flows: 1024 };

/// The port that refuses.
pub const CLOSED: u16 = 65000;

impl Kernel {
    /// Programs with that configuration in their maps; the lease is held if told so.
    pub fn new(desired: &DataPlane, owned: bool) -> Self {
        let mut object = Object::load(&LIMITS, None).expect("programs load (root needed)");
        let mut mirror = Mirror::new(&object.maps, &LIMITS).expect("maps are there");
        let own = Uplink { mac: MacAddress(super::frames::HOST.0), pad: [0; 2] };
        object.maps.uplinks.insert(IFINDEX, own, 0).expect("uplink");
        mirror.apply(&mut object.maps, desired, CLOSED).expect("maps are written");
        let fence = object.maps.fence().expect("fence");
        if owned {
            let grant = Some(Grant { epoch: 1, forever: false });
            fence.grant(LEASE, grant, Duration::from_secs(3600)).expect("lease");
        }
        Self { object, mirror, fence }
    }

    /// Changes the configuration.
    pub fn apply(&mut self, desired: &DataPlane) {
        self.mirror.apply(&mut self.object.maps, desired, CLOSED).expect("maps are written");
    }

    fn counts(&self) -> BTreeMap<&'static str, u64> {
        let name = |(reason, count): (Reason, u64)| (reason.name(), count);
        counters::reasons(&self.object.maps).into_iter().map(name).collect()
    }

    fn counted_since(&self, before: &BTreeMap<&'static str, u64>) -> BTreeMap<&'static str, u64> {
        let rise = |(name, count)| (name, count - before.get(name).copied().unwrap_or(0));
        self.counts().into_iter().map(rise).filter(|(_, rise)| *rise > 0).collect()
    }

    /// Sends a frame into the XDP program.
    pub fn xdp(&mut self, frame: &[u8]) -> Outcome {
        let before = self.counts();
        let mut out = vec![0; frame.len() + 256];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..Default::default() };
        let result = self.object.xdp().expect("program").test_run(options).expect("test run");
        out.truncate(result.data_size_out as usize);
        let verdict = match result.return_value {
            1 => Verdict::Drop,
            2 => Verdict::Pass,
            3 => Verdict::Tx,
            4 => Verdict::Redirect,
            other => panic!("verdict {other}"),
        };
        Outcome { verdict, frame: out, counted: self.counted_since(&before) }
    }

    /// Sends a frame into the TC egress program: true where it goes on.
    pub fn egress(&mut self, frame: &[u8]) -> (bool, Vec<u8>, BTreeMap<&'static str, u64>) {
        let before = self.counts();
        let mut out = vec![0; frame.len() + 256];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..Default::default() };
        let result = self.object.egress().expect("program").test_run(options).expect("test run");
        out.truncate(result.data_size_out as usize);
        let on = match result.return_value.cast_signed() {
            -1 => true,
            2 => false,
            other => panic!("verdict {other}"),
        };
        (on, out, self.counted_since(&before))
    }
}

/// A frontend with these backends.
pub fn frontend(backends: &[(SocketAddr, &str, Way)]) -> Frontend {
    Frontend {
        name: "web".into(),
        size: TableSize::S251,
        affinity: Affinity::None,
        seed: 7,
        backends: backends
            .iter()
            .map(|(address, node, way)| {
                let node = Some((*node).to_owned());
                (*address, Backend { node, weight: 1, way: way.clone() })
            })
            .collect(),
    }
}

pub type Frontends = BTreeMap<(std::net::IpAddr, u16, Protocol), Frontend>;

/// The VIPs with these frontends on this host and its one peer.
pub fn desired(held: bool, frontends: Frontends) -> DataPlane {
    use super::frames::{HOST, HOST4, HOST6, PEER, PEER4, PEER6, VIP4, VIP6};
    let owner = held.then(|| "host".to_owned());
    let vip = Vip { host_address: false, held, grant: None, owner };
    let node = |local, mac: Mac, addresses| Node { local, hop: Some((mac, IFINDEX)), addresses };
    DataPlane {
        uplinks: BTreeMap::new(),
        vips: BTreeMap::from([(VIP4.into(), vip.clone()), (VIP6.into(), vip)]),
        nodes: BTreeMap::from([
            ("host".to_owned(), node(true, HOST, vec![HOST4.into(), HOST6.into()])),
            ("peer".to_owned(), node(false, PEER, vec![PEER4.into(), PEER6.into()])),
        ]),
        frontends,
        logging: false,
    }
}

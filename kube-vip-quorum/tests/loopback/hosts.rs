//! Hosts in one process: real connections on loopback, real files, one clock. Every write of a
//! lease is checked against what all others hold at that moment.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube_vip_quorum::cluster::Vip;
use kube_vip_quorum::grant::Lease;
use kube_vip_quorum::node::{Fence, Node, Peer, Role, Settings, Standing, StartError};
use kube_vip_quorum::time::{Boot, Clock, SystemClock, Timing};
use kube_vip_quorum::transport::{Protection, Secret};
use tokio::time::{Instant, sleep};

/// Generous: the machine may be busy.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// What all kernels hold. They outlive their processes, as real ones do.
#[derive(Debug, Default)]
pub(crate) struct Kernels {
    leases: Mutex<BTreeMap<(String, IpAddr), Lease>>,
    /// Found by a host's task, whose panic nobody would see.
    violations: Mutex<Vec<String>>,
}

struct Kernel {
    name: String,
    all: Arc<Kernels>,
}

impl Fence for Kernel {
    fn write(&self, lease: &Lease) -> io::Result<()> {
        let mut all = self.all.leases.lock().unwrap();
        all.insert((self.name.clone(), lease.vip), *lease);
        let now = SystemClock.now();
        let holds = |((_, vip), other): &(&(String, IpAddr), &Lease)| {
            *vip == lease.vip && other.holds_at(now)
        };
        let owners: Vec<_> = all.iter().filter(holds).collect();
        if owners.len() > 1 {
            self.all.violations.lock().unwrap().push(format!("two owners: {owners:?}"));
        }
        Ok(())
    }
}

impl Kernels {
    /// Who owns a VIP now.
    pub(crate) fn owner(&self, vip: IpAddr) -> Option<String> {
        let now = SystemClock.now();
        let all = self.leases.lock().unwrap();
        let mut holds = all.iter().filter(|((_, other), it)| *other == vip && it.holds_at(now));
        holds.next().map(|((name, _), _)| name.clone())
    }

    /// Until when a host owns a VIP at most.
    pub(crate) fn until(&self, name: &str, vip: IpAddr) -> Boot {
        let all = self.leases.lock().unwrap();
        all.get(&(name.to_owned(), vip)).map_or(Boot(0), |lease| lease.until)
    }

    /// Since when a host owns a VIP.
    pub(crate) fn since(&self, name: &str, vip: IpAddr) -> Boot {
        self.leases.lock().unwrap()[&(name.to_owned(), vip)].since
    }
}

/// Hosts n1, n2 and so on, running or not.
pub(crate) struct Hosts {
    pub(crate) kernels: Arc<Kernels>,
    directory: PathBuf,
    settings: BTreeMap<String, Settings>,
    nodes: BTreeMap<String, Node>,
}

pub(crate) fn vip(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

impl Hosts {
    /// Settings of so many hosts and VIPs; n1 may begin the cluster.
    pub(crate) fn new(count: usize, vips: u8) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = format!("kube-vip-loopback-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(directory);
        // Addresses of their own: outgoing connections come from 127.0.0.1 and take no port here.
        let network = [127, 64 + (std::process::id() % 128) as u8, number as u8];
        let [a, b, c] = network;
        let address = |at: usize| SocketAddr::from(([a, b, c, at as u8 + 1], 10000));
        let addresses: Vec<_> = (0..count).map(address).collect();
        let secret = Secret::random().unwrap();
        let of = |at: usize| {
            let peer = |(other, address): (usize, &SocketAddr)| Peer {
                name: format!("n{}", other + 1),
                addresses: vec![*address],
            };
            let name = format!("n{}", at + 1);
            let settings = Settings {
                directory: directory.join(&name),
                listen: addresses[at],
                addresses: Vec::new(),
                weight: 1,
                peers: addresses.iter().enumerate().filter(|(it, _)| *it != at).map(peer).collect(),
                vips: (1..=vips).map(|n| (vip(n), Vip::default())).collect(),
                protection: Protection::Secret(secret.clone()),
                timing: Timing::default(),
                bootstrap: at == 0,
                bootstrap_wait: Duration::from_millis(300),
                name: name.clone(),
            };
            (name, settings)
        };
        let settings = (0..count).map(of).collect();
        Self { kernels: Arc::default(), directory, settings, nodes: BTreeMap::new() }
    }

    pub(crate) fn settings(&mut self, name: &str) -> &mut Settings {
        self.settings.get_mut(name).unwrap()
    }

    /// A host is reached at another address than it listens at.
    pub(crate) fn reach_at(&mut self, name: &str, address: SocketAddr) {
        for (other, settings) in &mut self.settings {
            if other == name {
                settings.addresses = vec![address];
            }
            for peer in settings.peers.iter_mut().filter(|peer| peer.name == name) {
                peer.addresses = vec![address];
            }
        }
    }

    pub(crate) fn node(&self, name: &str) -> &Node {
        &self.nodes[name]
    }

    pub(crate) fn running(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }

    pub(crate) async fn try_start(&mut self, name: &str) -> Result<(), StartError> {
        let fence = Kernel { name: name.to_owned(), all: Arc::clone(&self.kernels) };
        let settings = self.settings[name].clone();
        let node = Node::start(settings, Arc::new(SystemClock), Arc::new(fence)).await?;
        self.nodes.insert(name.to_owned(), node);
        Ok(())
    }

    pub(crate) async fn start(&mut self, name: &str) {
        self.try_start(name).await.unwrap();
    }

    pub(crate) async fn start_all(&mut self) {
        for name in self.settings.keys().cloned().collect::<Vec<_>>() {
            self.start(&name).await;
        }
    }

    /// As if the process were killed.
    pub(crate) async fn kill(&mut self, name: &str) {
        self.nodes.remove(name).unwrap().abort().await;
    }

    pub(crate) fn take(&mut self, name: &str) -> Node {
        self.nodes.remove(name).unwrap()
    }

    pub(crate) fn lose_disk(&self, name: &str) {
        fs::remove_dir_all(&self.settings[name].directory).unwrap();
    }

    pub(crate) fn standing(&self, name: &str) -> Standing {
        self.nodes[name].standing().borrow().clone()
    }

    pub(crate) fn leader(&self) -> Option<String> {
        let mut leaders = self.nodes.keys().filter(|it| self.standing(it).role == Role::Leader);
        leaders.next().cloned()
    }

    /// Waits until something is true of the hosts.
    pub(crate) async fn until(&self, what: &str, mut is_true: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + LONG;
        while !is_true(self) {
            if Instant::now() >= deadline {
                let standings = self.nodes.keys().map(|name| (name, self.standing(name)));
                let standings: Vec<_> = standings.collect();
                panic!("never {what}: {standings:#?} {:#?}", self.kernels);
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until so many hosts vote and all VIPs have owners.
    pub(crate) async fn settled(&self, voters: usize) {
        self.until(&format!("{voters} voters and every VIP owned"), |hosts| {
            let vips = hosts.settings["n1"].vips.keys();
            hosts.nodes.keys().all(|name| {
                let standing = hosts.standing(name);
                !standing.changing && standing.voters().count() == voters
            }) && vips.clone().all(|vip| hosts.kernels.owner(*vip).is_some())
        })
        .await;
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
        let violations = self.kernels.violations.lock().unwrap();
        assert!(std::thread::panicking() || violations.is_empty(), "{violations:?}");
    }
}

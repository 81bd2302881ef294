//! Under attack: floods of first packets from random sources take nothing from who is there already,
//! and honest clients still get in.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{
    BACKEND_PORT, Balancer, Burst, Cluster, Connection, Flood, Host, Lab, Topology, Transport,
    VIPS, backends,
};

/// Connections that are there before, and how often each asks something.
const ESTABLISHED: usize = 20;
const PAUSE: Duration = Duration::from_millis(10);
const WINDOW: Duration = Duration::from_secs(5);

fn both(lab: &Lab) -> Vec<Balancer> {
    vec![
        Balancer::new("web", Transport::Tcp, 80, backends(lab.nodes(), BACKEND_PORT)),
        Balancer::new("dns", Transport::Udp, 53, backends(lab.nodes(), BACKEND_PORT)),
    ]
}

/// One flood at a time: what the lab can take is measured.
static ALONE: Mutex<()> = Mutex::new(());

/// Three nodes, an honest client c1, and c2, which floods and is the router to everywhere.
fn cluster(test: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = Lab::new(&Topology::bridge(3, 2)?)?;
    let router = lab.host("c2");
    for node in lab.nodes() {
        node.run(&["ip", "route", "add", "default", "via", &router.v4().to_string()])?;
        node.run(&["ip", "-6", "route", "add", "default", "via", &router.v6().to_string()])?;
    }
    let balancers = both(&lab);
    Cluster::start(lab, &balancers)?.explain(test)
}

/// Who floods what.
#[derive(Clone, Copy)]
struct Attack {
    vip: IpAddr,
    transport: Transport,
}

impl Attack {
    fn all() -> impl Iterator<Item = Self> {
        let kinds = [Transport::Tcp, Transport::Udp];
        VIPS.into_iter().flat_map(move |vip| kinds.map(|transport| Self { vip, transport }))
    }

    fn begin(self, cluster: &Cluster, rate: Option<u64>) -> Result<Flood> {
        let port = if self.transport == Transport::Tcp { 80 } else { 53 };
        let owner = cluster.host("n1").mac();
        let target = (self.vip, port).into();
        Flood::start(cluster.host("c2"), owner, target, self.transport, rate)
    }

    fn name(self) -> String {
        let kind = if self.transport == Transport::Tcp { "SYNs" } else { "datagrams" };
        format!("{kind} to {}", self.vip)
    }
}

/// Packets that have arrived at a host's uplink.
fn arrived(host: &Host) -> Result<u64> {
    let text = host.run(&["cat", "/sys/class/net/eth0/statistics/rx_packets"])?;
    text.trim().parse().with_context(|| format!("{text:?} is no number"))
}

/// Packets a second that get to the owner while somebody sends as fast as can be.
fn saturation(cluster: &Cluster, attack: Attack) -> Result<u64> {
    let flood = attack.begin(cluster, None)?;
    thread::sleep(Duration::from_millis(300));
    let (before, begin) = (arrived(cluster.host("n1"))?, Instant::now());
    thread::sleep(Duration::from_secs(2));
    let rate = (arrived(cluster.host("n1"))? - before) as f64 / begin.elapsed().as_secs_f64();
    flood.finish()?;
    Ok(rate as u64)
}

/// Connections that ask again and again while `during` runs; how many answers a second they got.
fn asking<T>(
    connections: &mut [Connection],
    during: impl FnOnce() -> Result<T>,
) -> Result<(f64, T)> {
    let (stop, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    let ask = |connection: &mut Connection| {
        let mut due = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            connection.echo("still there")?;
            answers.fetch_add(1, Ordering::Relaxed);
            // What was late is not made up for.
            due = Instant::now().max(due + PAUSE);
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        Ok(())
    };
    let (ask, begin) = (&ask, Instant::now());
    thread::scope(|scope| {
        let all: Vec<_> = connections.iter_mut().map(|c| scope.spawn(move || ask(c))).collect();
        let result = during();
        stop.store(true, Ordering::Relaxed);
        let rate = answers.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64();
        let ended: Vec<Result<()>> = all
            .into_iter()
            .map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        let broken = ended.iter().filter(|one| one.is_err()).count();
        let first = ended.into_iter().find_map(Result::err);
        match first {
            Some(error) => Err(error.context(format!("{broken} established connections broke"))),
            None => Ok((rate, result?)),
        }
    })
}

fn established(cluster: &Cluster, vip: IpAddr) -> Result<Vec<Connection>> {
    (0..ESTABLISHED).map(|_| Connection::open(cluster.host("c1"), (vip, 80).into())).collect()
}

#[test]
fn a_flood_at_half_of_saturation_is_not_noticed() -> Result<()> {
    cluster(|cluster| {
        for attack in Attack::all() {
            let mut connections = established(cluster, attack.vip)?;
            let most = saturation(cluster, attack)?;
            let measure = |connections: &mut Vec<Connection>| {
                let (usual, ()) = asking(connections, || {
                    thread::sleep(WINDOW);
                    Ok(())
                })?;
                let (rate, sent) = asking(connections, || {
                    let flood = attack.begin(cluster, Some(most / 2))?;
                    thread::sleep(WINDOW);
                    flood.finish()
                })?;
                Ok::<_, anyhow::Error>((usual, rate, sent))
            };
            let (mut usual, mut rate, mut sent) = measure(&mut connections)?;
            if rate < 0.9 * usual {
                // Whatever else the machine has to do shows here first.
                println!("{}: {rate:.0} of {usual:.0}, once more", attack.name());
                (usual, rate, sent) = measure(&mut connections)?;
            }
            let flood = attack.begin(cluster, Some(most / 2))?;
            let burst = |port| {
                Burst::new((attack.vip, port), 1000).at_once(20).patience(Duration::from_secs(5))
            };
            let opened = cluster.client.connect(burst(80))?.answers();
            let answered = cluster.client.send(burst(53))?.answers();
            flood.finish()?;
            println!(
                "{}: saturation {most} a second; {sent} in {WINDOW:?}: {rate:.0} of {usual:.0} \
                 answers a second, {opened} of 1000 connections, {answered} of 1000 datagrams",
                attack.name()
            );
            ensure!(rate >= 0.9 * usual, "{}: {rate} of {usual} a second", attack.name());
            ensure!(opened >= 950, "{}: {opened} of 1000 connections", attack.name());
            ensure!(answered >= 950, "{}: {answered} of 1000 datagrams", attack.name());
        }
        Ok(())
    })
}

#[test]
fn a_flood_at_full_speed_costs_no_established_connection() -> Result<()> {
    cluster(|cluster| {
        for attack in Attack::all() {
            let mut connections = established(cluster, attack.vip)?;
            let memory = resident(cluster)?;
            let flood = attack.begin(cluster, None)?;
            thread::sleep(WINDOW);
            let sent = flood.finish()?;
            let recovered = recovered(cluster, attack.vip)?;
            connections.iter_mut().try_for_each(|connection| connection.echo("still there"))?;
            let grown = resident(cluster)?.saturating_sub(memory);
            println!(
                "{}: {sent} in {WINDOW:?}, well again after {recovered:?}, agents grew by {grown} bytes",
                attack.name()
            );
            ensure!(recovered < Duration::from_secs(1), "well again only after {recovered:?}");
            ensure!(grown < 16 << 20, "the agents grew by {grown} bytes");
        }
        Ok(())
    })
}

/// How long it takes until new connections open at once again.
fn recovered(cluster: &Cluster, vip: IpAddr) -> Result<Duration> {
    let begin = Instant::now();
    loop {
        let so_far = begin.elapsed();
        // Less than the time after which a SYN is sent again.
        let burst = Burst::new((vip, 80), 20).patience(Duration::from_millis(500));
        let opened = cluster.client.connect(burst)?;
        if opened.answers() == 20 {
            return Ok(so_far);
        }
        ensure!(so_far < Duration::from_secs(5), "{} of 20 after {so_far:?}", opened.answers());
    }
}

/// Bytes of memory of all agents; the kernel's maps have a size that does not change.
fn resident(cluster: &mut Cluster) -> Result<u64> {
    cluster.agents.all().iter_mut().map(|agent| agent.process().resident()).sum()
}

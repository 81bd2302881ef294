//! Real TCP between hosts of the lab: through the VIP, straight to the backend, and through a host
//! that balances with nftables. One backend, so that all three end at the same place.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use lab::{BACKEND_PORT, Balancer, Burst, Client, Cluster, Connection, Host, Lab, Transport, VIPS};

use crate::measure::Samples;
use crate::progress;
use crate::report::Row;

/// The VIP's owner, the backend's host, and the host with nftables.
const BACKEND: &str = "n2";
const NFT: &str = "x1";

/// Connections of one burst, and of those that ask again and again.
const BURST: usize = 400;
const AT_ONCE: usize = 8;
/// Bytes of one upload.
const PART: u64 = 8 << 20;

/// How often and how long.
pub(crate) struct Plan {
    pub(crate) samples: u32,
    pub(crate) each: Duration,
}

impl Plan {
    pub(crate) fn new(quick: bool) -> Self {
        if quick {
            Self { samples: 1, each: Duration::from_millis(300) }
        } else {
            Self { samples: 5, each: Duration::from_millis(1000) }
        }
    }
}

/// A way to the backend.
struct Line {
    name: &'static str,
    target: SocketAddr,
    connections: Vec<f64>,
    requests: Vec<f64>,
    p50: Samples,
    p99: Samples,
    bulk: Vec<f64>,
}

pub(crate) fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let topology = lab::Topology::bridge(2, 1)?.with(NFT)?;
    let lab = Lab::new(&topology)?;
    let backend: SocketAddr = (lab.host(BACKEND).v4(), BACKEND_PORT).into();
    let balancers = vec![Balancer::new("web", Transport::Tcp, 80, vec![backend])];
    let nft = balance_with_nftables(lab.host(NFT), backend)?;
    let cluster = Cluster::start(lab, &balancers)?;
    let line = |name, target| Line {
        name,
        target,
        connections: Vec::new(),
        requests: Vec::new(),
        p50: Samples::default(),
        p99: Samples::default(),
        bulk: Vec::new(),
    };
    let mut lines = [
        line("straight to the backend", backend),
        line("through the VIP", (VIPS[0], 80).into()),
        line("through nftables DNAT", nft),
    ];
    let host = cluster.host("c1");
    for line in &lines {
        // Neighbours are known then, and caches warm.
        cluster.client.connect(Burst::new(line.target, BURST).reset())?.expect_all(BURST)?;
    }
    for sample in 1..=plan.samples {
        progress(&format!("real TCP: sample {sample} of {}", plan.samples));
        for line in &mut lines {
            line.sample(&cluster.client, host, plan.each).with_context(|| line.name)?;
        }
    }
    Ok(rows(&lines))
}

impl Line {
    fn sample(&mut self, client: &Client, host: &Host, each: Duration) -> Result<()> {
        self.connections.push(connections(client, self.target, each)?);
        let mut times = requests(host, self.target, each)?;
        self.requests.push(times.len() as f64 / each.as_secs_f64());
        times.sort_unstable();
        let at = |share: f64| {
            let index = (times.len().saturating_sub(1) as f64 * share).round() as usize;
            times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
        };
        self.p50.add(at(0.5));
        self.p99.add(at(0.99));
        self.bulk.push(bulk(host, self.target, each)?);
        Ok(())
    }
}

fn rows(lines: &[Line; 3]) -> Vec<Row> {
    let samples = |values: &[f64]| values.iter().copied().collect::<Samples>();
    let mut rows = Vec::new();
    for line in lines {
        let name = line.name;
        rows.extend([
            Row::of(format!("{name}: connections a second"), "/s", &samples(&line.connections)),
            Row::of(format!("{name}: requests a second"), "/s", &samples(&line.requests)),
            Row::of(format!("{name}: request, p50"), "µs", &line.p50),
            Row::of(format!("{name}: request, p99"), "µs", &line.p99),
            Row::of(format!("{name}: one stream"), "MB/s", &samples(&line.bulk)),
        ]);
    }
    let [straight, vip, nftables] = lines;
    for (other, name) in [(straight, "straight"), (nftables, "nftables")] {
        let each: [(&str, &[f64], &[f64]); 3] = [
            ("connections", &vip.connections, &other.connections),
            ("requests", &vip.requests, &other.requests),
            ("one stream", &vip.bulk, &other.bulk),
        ];
        rows.extend(each.map(|(what, ours, theirs)| {
            let rounds = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs);
            Row::of(format!("{what}: VIP ÷ {name}"), "×", &rounds.collect())
        }));
    }
    rows
}

/// Connections a second that are opened, answered once and reset.
fn connections(client: &Client, target: SocketAddr, each: Duration) -> Result<f64> {
    let (start, mut opened) = (Instant::now(), 0);
    while start.elapsed() < each {
        client.connect(Burst::new(target, BURST).reset())?.expect_all(BURST)?;
        opened += BURST;
    }
    Ok(opened as f64 / start.elapsed().as_secs_f64())
}

/// How long each of the requests took that a few connections made one after the other.
fn requests(host: &Host, target: SocketAddr, each: Duration) -> Result<Vec<Duration>> {
    let times = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    let mut connection = Connection::open(host, target)?;
                    let mut own = Vec::new();
                    let end = Instant::now() + each;
                    while Instant::now() < end {
                        let start = Instant::now();
                        connection.echo("0123456789abcdef")?;
                        own.push(start.elapsed());
                    }
                    times.lock().map_err(|_| anyhow!("a worker panicked"))?.extend(own);
                    Ok(())
                })
            })
            .collect();
        let mut results = workers.into_iter().map(thread::ScopedJoinHandle::join);
        results.try_for_each(|result| result.map_err(|_| anyhow!("a worker panicked"))?)
    })?;
    let times = times.into_inner().map_err(|_| anyhow!("a worker panicked"))?;
    ensure!(!times.is_empty(), "no request was answered");
    Ok(times)
}

/// Millions of bytes a second that one connection uploads.
fn bulk(host: &Host, target: SocketAddr, each: Duration) -> Result<f64> {
    let mut connection = Connection::open(host, target)?;
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < each {
        connection.upload(PART)?;
        sent += PART;
    }
    Ok(sent as f64 / start.elapsed().as_secs_f64() / 1e6)
}

/// Makes a host what one does without kube-vip: a router that translates both ways.
fn balance_with_nftables(host: &Host, backend: SocketAddr) -> Result<SocketAddr> {
    let port = 80;
    host.sysctl(&[
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv4.conf.all.send_redirects", "0"),
        ("net.ipv4.conf.eth0.send_redirects", "0"),
    ])?;
    let rules = format!(
        "table ip bench {{\n\
         chain in {{ type nat hook prerouting priority dstnat; tcp dport {port} dnat to {backend}; }}\n\
         chain out {{ type nat hook postrouting priority srcnat; masquerade; }}\n}}\n"
    );
    host.feed(&["nft", "-f", "-"], &rules)?;
    Ok((host.v4(), port).into())
}

//! What the demo does, in the order it is told.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::{
    Agent, BACKEND_PORT, Balancer, Burst, Client, Config, Connection, Host, Lab, Process, Progress,
    Report, Topology, Transport, VIPS, backends, by_quorum, eventually, who_has,
};
use serde_json::Value;

use crate::loss;
use crate::paint::Paint;

/// What a backend says when clients may come.
pub(crate) const LISTENING: &str = "listening";

const SERVERS: [&str; 4] = ["n1", "n2", "n3", PLAIN];
/// It serves without an agent.
pub(crate) const PLAIN: &str = "x1";
const DOWNLOAD: u64 = 40_000_000;
const MEGABYTE: f64 = 1e6;

/// Builds the lab, shows what it does and takes it away, or leaves it.
pub(crate) fn tell(connections: usize, keep: bool) -> Result<()> {
    lab::program()?;
    let paint = Paint::new();
    let (lab, servers) = build(&paint)?;
    let balancers = balancers(&lab);
    let mut agents = Vec::new();
    let shown = start_agents(&paint, &lab, &balancers, &mut agents)
        .and_then(|()| show(&paint, &lab, connections))
        .and_then(|()| loss::lose_owner(&paint, &lab))
        .and_then(|()| loss::freeze_owner(&paint, &lab, &mut agents))
        .and_then(|()| sum_up(&paint, agents.first().context("no agent")?));
    if let Err(error) = shown {
        for agent in &agents {
            eprintln!("\nlog of {}:\n{}", agent.host().name(), agent.log());
        }
        return Err(error);
    }
    if keep {
        // Processes are killed when their handles are dropped; these shall go on.
        std::mem::forget((agents, servers));
        return leave(&paint, lab);
    }
    paint.title("The end");
    for agent in &mut agents {
        let status = agent.stop()?;
        ensure!(status.success(), "{} ended with {status}:\n{}", agent.host().name(), agent.log());
    }
    let files = lab.directory().to_owned();
    drop((agents, servers, lab));
    ensure!(!files.exists(), "{} is still there", files.display());
    paint.line("The agents have ended and the hosts are gone.");
    paint.line(&paint.dim("--keep leaves everything running, to look around."));
    Ok(())
}

fn balancers(lab: &Lab) -> Vec<Balancer> {
    let served = backends(SERVERS.map(|name| lab.host(name)), BACKEND_PORT);
    let web = Balancer::new("web", Transport::Tcp, 80, served.clone());
    vec![web, Balancer::new("dns", Transport::Udp, 53, served)]
}

fn build(paint: &Paint) -> Result<(Lab, Vec<Process>)> {
    paint.title("Four hosts and a client on one bridge, each with a network of its own");
    let began = Instant::now();
    let lab = Lab::new(&Topology::bridge(SERVERS.len() - 1, 1)?.and(PLAIN)?)?;
    let took = began.elapsed();
    let servers = SERVERS.map(|name| start_server(lab.host(name)));
    let servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
    for host in lab.hosts() {
        let what = match host.name() {
            "c1" => "the client",
            PLAIN => "a backend, and no agent",
            _ => "an agent and a backend",
        };
        let (v4, v6) = (host.v4().to_string(), host.v6().to_string());
        paint.line(&format!("{:>4} {v4:12} {v6:10} {} {what}", host.name(), host.mac()));
    }
    paint.line(&paint.dim(&format!("made in {} ms", took.as_millis())));
    Ok((lab, servers))
}

fn start_server(node: &Host) -> Result<Process> {
    let mut command = node.command(std::env::current_exe().context("finding this program")?);
    command.args(["serve", node.name()]);
    for address in backends([node], BACKEND_PORT) {
        command.arg(address.to_string());
    }
    let mut process = node.spawn("backend", command)?;
    eventually(Duration::from_secs(5), "a backend listens", || {
        process.expect_running()?;
        ensure!(process.output().contains(LISTENING), "{}", process.log());
        Ok(())
    })?;
    Ok(process)
}

fn start_agents(
    paint: &Paint,
    lab: &Lab,
    balancers: &[Balancer],
    agents: &mut Vec<Agent>,
) -> Result<()> {
    let both = VIPS.map(|vip| vip.to_string()).join(" and ");
    paint.title(&format!("An agent on each but {PLAIN}, to hold {both}"));
    let began = Instant::now();
    for node in lab.nodes() {
        let mut config = Config::of(lab, node, balancers);
        by_quorum(&mut config);
        agents.push(Agent::start(node, &config)?);
    }
    for agent in agents.iter_mut() {
        let status = agent.wait_for(balancers)?;
        let ready = began.elapsed().as_secs_f64();
        let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        let uplink = &status["uplinks"][0];
        paint.line(&format!(
            "{:>4} ready after {ready:.2} s, XDP {}, egress {}",
            agent.host().name(),
            text(&uplink["xdp"]),
            text(&uplink["egress"]),
        ));
        if let Some(reason) = uplink["reason"].as_str() {
            paint.line(&format!("     {}", paint.bad(reason)));
        }
    }
    for vip in VIPS {
        let owner = eventually(Duration::from_secs(10), "an owner", || lab.owner_of(vip))?;
        let after = began.elapsed().as_secs_f64();
        let agreed = format!("the hosts agree: {owner} owns {vip}");
        paint.line(&format!("{} {}", paint.good(&agreed), paint.dim(&format!("{after:.2} s"))));
    }
    Ok(())
}

fn show(paint: &Paint, lab: &Lab, connections: usize) -> Result<()> {
    show_owner(paint, lab)?;
    let client = Client::start(lab.host("c1"))?;
    for vip in VIPS {
        let target = SocketAddr::from((vip, 80));
        paint.title(&format!("{connections} TCP connections to {target}"));
        let report = watch(paint, connections, |burst| client.connect(burst(target)))?;
        saw(paint, lab, vip, &report)?;
    }
    for vip in VIPS {
        let target = SocketAddr::from((vip, 53));
        paint.title(&format!("{connections} UDP datagrams to {target}, each from another port"));
        let report = watch(paint, connections, |burst| client.send(burst(target)))?;
        saw(paint, lab, vip, &report)?;
    }
    show_share(paint, lab)
}

fn show_owner(paint: &Paint, lab: &Lab) -> Result<()> {
    paint.title("c1 asks everybody who has the addresses, and collects all answers");
    for vip in VIPS {
        let answers = eventually(Duration::from_secs(5), "somebody answers", || {
            let answers = who_has(lab.host("c1"), vip)?;
            ensure!(!answers.is_empty(), "nobody answers for {vip}");
            Ok(answers)
        })?;
        let how = if vip.is_ipv4() { "ARP" } else { "neighbour discovery" };
        for mac in &answers {
            let name = paint.bold(&lab.name_of(*mac));
            paint.line(&format!("{vip} is-at {mac} ({name}) {}", paint.dim(how)));
        }
        match answers.len() {
            1 => paint.line(&paint.good("exactly one answer")),
            many => bail!("{many} hosts answer for {vip}"),
        }
    }
    Ok(())
}

/// Runs a burst on another thread and draws its bars as they grow.
fn watch(
    paint: &Paint,
    count: usize,
    run: impl FnOnce(&dyn Fn(SocketAddr) -> Burst) -> Result<Report> + Send,
) -> Result<Report> {
    let progress = Arc::new(Progress::default());
    // A full bar is a little more than an equal share.
    let whole = (count * 5 / 4).div_ceil(SERVERS.len());
    let report = std::thread::scope(|scope| {
        let counted = Arc::clone(&progress);
        let work = scope
            .spawn(move || run(&|target| Burst::new(target, count).at_once(16).progress(&counted)));
        let mut drawn = 0;
        while paint.moves() && !work.is_finished() {
            let counts = progress.so_far();
            paint.back(drawn);
            paint.bars(&SERVERS, &counts, whole);
            drawn = SERVERS.len() + usize::from(counts.contains_key("failed"));
            std::thread::sleep(Duration::from_millis(40));
        }
        if drawn > 0 {
            paint.back(drawn);
        }
        work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    paint.bars(&SERVERS, &progress.so_far(), whole);
    report.expect_all(count)?;
    Ok(report)
}

fn saw(paint: &Paint, lab: &Lab, vip: IpAddr, report: &Report) -> Result<()> {
    let client = lab.host("c1").address_like(vip);
    for (address, times) in &report.by_client {
        let whose = match *address {
            own if own == client => paint.good("the client's own"),
            own if own == vip => paint.dim(&format!("the virtual one: {PLAIN} has no agent")),
            _ => paint.bad("not the client's own"),
        };
        paint.line(&format!("backends saw {address} {times} times, {whose}"));
    }
    paint.line(&paint.dim(&format!(
        "none failed, {:.2} s for all, half of them answered within {:.2} ms, 99% within {:.2} ms",
        report.elapsed.as_secs_f64(),
        report.answer_time(0.5).as_secs_f64() * 1000.0,
        report.answer_time(0.99).as_secs_f64() * 1000.0,
    )));
    let strangers = report.by_client.keys().filter(|seen| **seen != client && **seen != vip);
    let strangers = strangers.collect::<Vec<_>>();
    ensure!(strangers.is_empty(), "backends saw {strangers:?}");
    Ok(())
}

fn show_share(paint: &Paint, lab: &Lab) -> Result<()> {
    paint.title("Downloads from backends elsewhere: replies need not pass the owner");
    for vip in VIPS {
        let answers = who_has(lab.host("c1"), vip)?;
        let owner = lab.nodes().find(|node| answers.contains(&node.mac()));
        let owner = owner.with_context(|| format!("no node owns {vip}"))?;
        let (mut connection, from) = (0..200)
            .find_map(|_| connected_elsewhere(lab, vip, owner).transpose())
            .with_context(|| format!("200 connections to {vip} all ended at its owner"))??;
        let (before, began) = (owner.counters("eth0")?, Instant::now());
        connection.download(DOWNLOAD)?;
        let took = began.elapsed().as_secs_f64();
        let sent = (owner.counters("eth0")? - before).tx_bytes as f64;
        paint.line(&format!(
            "{:.0} MB from {} through {vip} in {took:.2} s, content correct: {} sent {:.2} MB, {}",
            DOWNLOAD as f64 / MEGABYTE,
            from,
            owner.name(),
            sent / MEGABYTE,
            paint.good(&format!("{:.1}%", sent / DOWNLOAD as f64 * 100.0)),
        ));
    }
    Ok(())
}

fn connected_elsewhere(
    lab: &Lab,
    vip: IpAddr,
    owner: &Host,
) -> Result<Option<(Connection, String)>> {
    let mut connection = Connection::open(lab.host("c1"), (vip, 80).into())?;
    let who = connection.who()?;
    let elsewhere = who.host != owner.name() && who.host != PLAIN;
    Ok(elsewhere.then_some((connection, who.host)))
}

fn sum_up(paint: &Paint, agent: &Agent) -> Result<()> {
    paint.title(&format!("kube-vip status on {}", agent.host().name()));
    for line in agent.cli(&["status"])?.lines() {
        paint.line(line);
    }
    Ok(())
}

fn leave(paint: &Paint, lab: Lab) -> Result<()> {
    paint.title("The hosts stay");
    for host in lab.hosts() {
        let line = format!("nsenter -t {} -m -u -n -C", host.holder());
        paint.line(&format!("{:>4} {}", host.name(), paint.bold(&line)));
    }
    paint.line(&format!("files: {}", lab.directory().display()));
    paint.line("to ask who answers, in c1, with bash:");
    let vip = VIPS[0];
    paint.line(&format!("     exec 3<>/dev/tcp/{vip}/80; echo who >&3; head -1 <&3"));
    let keeper = lab.keep()?;
    paint.line(&format!("to end all of it: {}", paint.bold(&format!("kill {keeper}"))));
    Ok(())
}

//! What the network is told when a host takes a VIP, seen on the wire.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{
    Agent, Capture, Captured, Config, Entry, Host, Lab, Mac, VIPS, What, eventually, owner, web,
};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

/// Between two announcements once the burst is over; short, so that some can be waited for.
const INTERVAL: Duration = Duration::from_secs(1);
/// The burst is over by then.
const BURST: Duration = Duration::from_millis(2400);

fn start(lab: &Lab, name: &str, adapt: impl FnOnce(&mut Config)) -> Result<Agent> {
    let node = lab.host(name);
    let mut config = Config::of(lab, node, &web(lab));
    config.extra = format!("announceInterval: {}s\n", INTERVAL.as_secs());
    adapt(&mut config);
    Agent::start(node, &config)
}

/// The forms in which a VIP's place is told unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Request,
    Reply,
    Advertisement,
}

const FORMS: [Form; 3] = [Form::Request, Form::Reply, Form::Advertisement];

/// What a frame announces, by whom.
fn announced(frame: &Captured) -> Option<(Form, Mac)> {
    match frame.seen.what {
        What::Arp { operation, sender, target, at } => {
            let ours = IpAddr::V4(sender) == VIPS[0] && sender == target;
            let form = if operation == 1 { Form::Request } else { Form::Reply };
            (ours && frame.seen.to == Mac::BROADCAST).then_some((form, at))
        }
        What::Neighbour { kind: 136, target, at, .. } => {
            let to_all = frame.seen.to == Mac([0x33, 0x33, 0, 0, 0, 1]);
            let at = at.filter(|_| IpAddr::V6(target) == VIPS[1] && to_all)?;
            Some((Form::Advertisement, at))
        }
        _ => None,
    }
}

/// Waits in a thread until a host has both VIPs.
fn held(host: &Host) -> thread::JoinHandle<Result<Instant>> {
    let host = host.clone();
    thread::spawn(move || {
        host.in_net(|| {
            let deadline = Instant::now() + lab::PATIENCE;
            while Instant::now() < deadline {
                let addresses = getifaddrs()?.filter_map(|link| link.address);
                let ip = |address: SockaddrStorage| {
                    let v4 = address.as_sockaddr_in().map(|found| IpAddr::V4(found.ip()));
                    v4.or_else(|| address.as_sockaddr_in6().map(|found| IpAddr::V6(found.ip())))
                };
                if addresses.filter_map(ip).filter(|ip| VIPS.contains(ip)).count() == VIPS.len() {
                    return Ok(Instant::now());
                }
                thread::sleep(Duration::from_millis(1));
            }
            anyhow::bail!("{} never held the VIPs", host.name())
        })
    })
}

#[test]
fn a_new_owner_announces_in_every_form_at_once_in_a_burst_and_then_at_the_interval() -> Result<()> {
    let lab = Lab::bridge(2, 1)?;
    let mut follower = start(&lab, "n2", |_| {})?;
    follower.wait_ready()?;
    let capture = Capture::start(lab.host("c1"), "eth0")?;
    let held = held(lab.host("n1"));
    let mut leader = start(&lab, "n1", |_| {})?;
    let held = held.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    leader.wait_ready()?;
    thread::sleep(BURST + 4 * INTERVAL);
    let frames = capture.finish()?;
    let told = frames.iter().filter_map(|frame| Some((frame.at, announced(frame)?)));
    let told = told.collect::<Vec<_>>();
    for form in FORMS {
        let by = |mac: Mac| {
            let found = told.iter().filter(move |(_, found)| *found == (form, mac));
            found.map(|(at, _)| *at).collect::<Vec<_>>()
        };
        let elsewhere = told.iter().filter(|(_, found)| found.0 == form).count();
        let times = by(lab.host("n1").mac());
        ensure!(times.len() == elsewhere, "{form:?}: somebody else announces");
        let first = *times.first().with_context(|| format!("no {form:?}"))?;
        let late = first.saturating_duration_since(held);
        let after = times.iter().map(|at| (*at - first).as_millis()).collect::<Vec<_>>();
        println!("{form:?}: {late:?} after the address, then at {after:?} ms");
        ensure!(late <= Duration::from_millis(200), "{form:?} came {late:?} late");
        let burst = times.iter().filter(|at| **at - first < BURST).count();
        ensure!(burst >= 5, "{form:?}: {burst} in the burst: {after:?}");
        let beyond = times.iter().filter(|at| **at - first < BURST).max().context("none")?;
        ensure!(*beyond - first > Duration::from_secs(1), "{form:?}: a short burst: {after:?}");
        let settled = times.iter().filter(|at| **at - first >= BURST).collect::<Vec<_>>();
        ensure!(settled.len() >= 2, "{form:?} stops after the burst: {after:?}");
        for pair in settled.windows(2) {
            let gap = *pair[1] - *pair[0];
            let wanted = INTERVAL.mul_f64(0.6)..INTERVAL.mul_f64(1.8);
            ensure!(wanted.contains(&gap), "{form:?}: {gap:?} between two: {after:?}");
        }
    }
    Ok(())
}

/// The hardware address a host has for a neighbour.
fn believes(host: &Host, address: IpAddr) -> Result<String> {
    let text = host.run(&["ip", "-j", "neigh", "show", "to", &address.to_string()])?;
    let entries: serde_json::Value = serde_json::from_str(&text)?;
    Ok(entries[0]["lladdr"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_client_that_believes_in_another_host_is_won_over_without_asking() -> Result<()> {
    let lab = Lab::bridge(2, 1)?;
    let client = lab.host("c1");
    for vip in VIPS {
        client.believe(vip, lab.host("n2").mac(), Entry::Stale)?;
    }
    let capture = Capture::start(client, "eth0")?;
    let held = held(lab.host("n1"));
    let _leader = start(&lab, "n1", |_| {})?;
    let held = held.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    for vip in VIPS {
        eventually(BURST, "the new owner in the client's table", || {
            let found = believes(client, vip)?;
            ensure!(found == lab.host("n1").mac().to_string(), "{vip} is believed at {found:?}");
            Ok(())
        })?;
        println!("{vip}: won over {:?} after the address was held", held.elapsed());
    }
    let asked = capture.finish()?.into_iter().filter(|frame| {
        frame.sent && matches!(frame.seen.what, What::Arp { .. } | What::Neighbour { .. })
    });
    ensure!(asked.count() == 0, "the client asked by itself");
    Ok(())
}

#[test]
fn nothing_is_announced_where_that_is_switched_off() -> Result<()> {
    let lab = Lab::bridge(1, 1)?;
    let capture = Capture::start(lab.host("c1"), "eth0")?;
    let mut leader = start(&lab, "n1", |config| config.gratuitous_arp = false)?;
    leader.wait_until("held", |status| status["vips"][1]["held"] == true)?;
    thread::sleep(BURST + INTERVAL);
    for vip in VIPS {
        ensure!(owner(lab.host("c1"), vip)? == lab.host("n1").mac());
    }
    let told = capture.finish()?.iter().filter_map(announced).collect::<Vec<_>>();
    ensure!(told.is_empty(), "{told:?}");
    Ok(())
}

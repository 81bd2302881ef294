//! Somebody else who claims a VIP is noticed and kept out of the owner's way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::{
    Agent, Burst, Capture, Captured, Client, Cluster, Entry, Host, Lab, Mac, Setup, VIPS, What,
    advertisement, arp_reply, arp_request, eventually, web,
};

fn v4() -> Ipv4Addr {
    let IpAddr::V4(vip) = VIPS[0] else { unreachable!("the first VIP is IPv4") };
    vip
}

fn v6() -> Ipv6Addr {
    let IpAddr::V6(vip) = VIPS[1] else { unreachable!("the second VIP is IPv6") };
    vip
}

/// Two nodes, a stranger c1 and a client c2.
fn run(test: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    let lab = Lab::bridge(2, 2)?;
    let balancers = web(&lab);
    Cluster::start(lab, &balancers)?.explain(test)
}

fn warnings(agent: &Agent) -> Vec<String> {
    let log = agent.log();
    log.lines().filter(|line| line.contains("address conflict")).map(str::to_owned).collect()
}

fn counter(agent: &Agent, name: &str) -> Result<u64> {
    Ok(agent.status()?["counters"][name].as_u64().unwrap_or(0))
}

/// Every way in which the stranger can say that a VIP is its own.
fn claims(stranger: &Host, node: &Host) -> Vec<(&'static str, IpAddr, Vec<u8>)> {
    let mac = stranger.mac();
    vec![
        ("a reply", VIPS[0], arp_reply(mac, v4(), (node.mac(), node.v4()))),
        ("an announcement", VIPS[0], arp_request(mac, v4(), v4())),
        ("a question in its name", VIPS[0], arp_request(mac, v4(), node.v4())),
        ("an advertisement", VIPS[1], advertisement(mac, v6())),
    ]
}

#[test]
fn a_claim_is_one_warning_within_a_second_that_names_the_stranger() -> Result<()> {
    run(|cluster| {
        let (stranger, node) = (cluster.host("c1").clone(), cluster.host("n1").clone());
        for (claim, vip, frame) in claims(&stranger, &node) {
            let agent = cluster.agents.on("n1");
            let (said, counted) = (warnings(agent).len(), counter(agent, "address_conflict")?);
            let sent = Instant::now();
            stranger.send_frame("eth0", &frame)?;
            let new = eventually(Duration::from_secs(1), "a warning", || {
                let new = warnings(agent).split_off(said);
                ensure!(!new.is_empty(), "{claim} of {vip} is not in the log");
                Ok(new)
            })?;
            println!("{claim}: {:?}: {}", sent.elapsed(), new[0]);
            for named in [stranger.mac().to_string(), "eth0".to_owned(), vip.to_string()] {
                ensure!(new[0].contains(&named), "{claim}: {named} is not named: {}", new[0]);
            }
            ensure!(new[0].contains("WARN"), "{}", new[0]);
            std::thread::sleep(Duration::from_millis(300));
            ensure!(warnings(agent).len() == said + 1, "{claim}: said more than once");
            let risen = counter(agent, "address_conflict")? - counted;
            ensure!(risen == 1, "{claim} was counted {risen} times");
            let table = node.run(&["ip", "neigh"])?;
            ensure!(!table.contains(&vip.to_string()), "{claim} is in the table: {table}");
        }
        Ok(())
    })
}

#[test]
fn a_claim_does_not_disturb_the_owner_and_clients_come_back() -> Result<()> {
    run(|cluster| {
        let (stranger, client) = (cluster.host("c1").clone(), cluster.host("c2").clone());
        let burst = Client::start(&client)?;
        for vip in VIPS {
            client.believe(vip, cluster.host("n1").mac(), Entry::Permanent)?;
            let mut held = burst.connect(Burst::new((vip, 80), 50).hold())?;
            held.expect_all(50)?;
            for (_, claimed, frame) in claims(&stranger, cluster.host("n1")) {
                if claimed == vip {
                    stranger.send_frames("eth0", &frame, 50)?;
                }
            }
            burst.connect(Burst::new((vip, 80), 500))?.expect_all(500)?;
            for (who, connection) in &mut held.held {
                ensure!(connection.who()? == *who, "a connection that was open is disturbed");
            }
            let status = cluster.agents.on("n1").status()?;
            let here = |vip: &serde_json::Value| vip["owned"] == true && vip["held"] == true;
            ensure!(status["vips"].as_array().context("no VIPs")?.iter().all(here), "{status:#}");

            // A client that listens to the stranger is led back by the next announcement.
            client.believe(vip, stranger.mac(), Entry::Stale)?;
            eventually(Duration::from_secs(6), "the owner in the client's table", || {
                let table = client.run(&["ip", "neigh", "show", "to", &vip.to_string()])?;
                let owner = cluster.host("n1").mac().to_string();
                ensure!(table.contains(&owner), "{table}");
                Ok(())
            })?;
        }
        Ok(())
    })
}

#[test]
fn a_stranger_that_does_not_stop_is_told_of_now_and_then_and_always_counted() -> Result<()> {
    const CLAIMS: u64 = 2000;
    run(|cluster| {
        let stranger = cluster.host("c1").clone();
        for (frame, vip) in [
            (arp_request(stranger.mac(), v4(), v4()), VIPS[0]),
            (advertisement(stranger.mac(), v6()), VIPS[1]),
        ] {
            let agent = cluster.agents.on("n1");
            let (said, counted) = (warnings(agent).len(), counter(agent, "address_conflict")?);
            let began = Instant::now();
            // In portions that a queue of the lab has room for.
            for _ in 0..CLAIMS / 50 {
                stranger.send_frames("eth0", &frame, 50)?;
                std::thread::sleep(Duration::from_millis(20));
            }
            let took = began.elapsed();
            eventually(Duration::from_secs(2), "all claims counted", || {
                let risen = counter(agent, "address_conflict")? - counted;
                ensure!(risen == CLAIMS, "{risen} of {CLAIMS} claims of {vip} were counted");
                Ok(())
            })?;
            let told = warnings(agent).len() - said;
            let most = took.as_millis() as usize / 100 + 2;
            println!("{vip}: {CLAIMS} claims in {took:?}, {told} warnings");
            ensure!((1..=most).contains(&told), "{told} warnings in {took:?}");
            ensure!(counter(agent, "event_suppressed")? > 0, "nothing was held back");
        }
        Ok(())
    })
}

/// Whether a frame that arrived announces a VIP at a place.
fn announces(frame: &Captured, vip: IpAddr, place: Mac) -> bool {
    !frame.sent
        && match frame.seen.what {
            What::Arp { sender, at, .. } => {
                IpAddr::V4(sender) == vip && at == place && frame.seen.to == Mac::BROADCAST
            }
            What::Neighbour { kind: 136, target, at, .. } => {
                IpAddr::V6(target) == vip && at == Some(place)
            }
            _ => false,
        }
}

#[test]
fn a_vip_is_defended_at_once_but_once_in_ten_seconds_and_never_against_an_agent() -> Result<()> {
    let lab = Lab::bridge(2, 1)?;
    let balancers = web(&lab);
    // Nothing is announced but what is asked for.
    let adapt = |config: &mut lab::Config| config.extra = "announceInterval: 1h\n".to_owned();
    let cluster = Cluster::start_as(lab, &balancers, Setup { adapt, ..Setup::default() })?;
    cluster.explain(|cluster| {
        let names = ["c1", "n1", "n2"];
        let [stranger, node, peer] = names.map(|name| cluster.host(name).clone());
        // The burst of the beginning.
        std::thread::sleep(Duration::from_secs(3));
        for (claimer, defended, peer_id) in [(&peer, 0, Some("n2")), (&stranger, 1, None)] {
            for (vip, mut frame) in [
                (VIPS[0], arp_request(claimer.mac(), v4(), v4())),
                (VIPS[1], advertisement(claimer.mac(), v6())),
            ] {
                // An agent's host lets no such frame out, so the stranger says it for the peer.
                frame[6..12].copy_from_slice(&stranger.mac().0);
                let capture = Capture::start(&stranger, "eth0")?;
                let began = Instant::now();
                for _ in 0..30 {
                    stranger.send_frame("eth0", &frame)?;
                    std::thread::sleep(Duration::from_millis(100));
                }
                let frames = capture.finish()?;
                let answers: Vec<_> =
                    frames.iter().filter(|frame| announces(frame, vip, node.mac())).collect();
                // Both forms of ARP.
                let round = if vip.is_ipv4() { 2 } else { 1 };
                ensure!(
                    answers.len() == defended * round,
                    "{} answers to claims of {vip} by {}",
                    answers.len(),
                    claimer.name()
                );
                if let Some(first) = answers.first() {
                    let after = first.at.duration_since(began);
                    println!("{vip}: defended {after:?} after the first claim");
                    ensure!(after < Duration::from_secs(1), "defended after {after:?}");
                }
                let status = cluster.agents.on("n1").status()?;
                let vips = status["vips"].as_array().into_iter().flatten();
                let of_vip = vips.filter(|one| one["address"] == vip.to_string());
                let said: Vec<_> =
                    of_vip.flat_map(|vip| vip["conflicts"].as_array()).flatten().collect();
                let its = said.iter().filter(|one| {
                    one["mac"] == claimer.mac().to_string()
                        && one["interface"] == "eth0"
                        && one["peer"].as_str() == peer_id
                });
                ensure!(its.count() == 1, "{vip}: {said:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_stranger_that_checks_for_duplicates_finds_one() -> Result<()> {
    run(|cluster| {
        let (stranger, node) = (cluster.host("c1"), cluster.host("n1"));
        let capture = Capture::start(stranger, "eth0")?;
        let probe = arp_request(stranger.mac(), Ipv4Addr::UNSPECIFIED, v4());
        stranger.send_frame("eth0", &probe)?;
        std::thread::sleep(Duration::from_millis(300));
        let answers = capture.finish()?.into_iter().filter(|frame| {
            let told = matches!(frame.seen.what, What::Arp { operation: 2, sender, at, .. }
                if sender == v4() && at == node.mac());
            told && !frame.sent && frame.seen.to == stranger.mac()
        });
        let answers = answers.count();
        ensure!(answers == 1, "{answers} answers to a probe");

        stranger.sysctl(&[("net.ipv6.conf.eth0.accept_dad", "1")])?;
        stranger.shell(&format!("ip addr add {}/64 dev eth0", v6()))?;
        eventually(Duration::from_secs(5), "duplicate address detection", || {
            let flags = stranger.run(&["ip", "-6", "addr", "show", "dev", "eth0"])?;
            let lines = flags.lines().find(|line| line.contains(&format!("{}/64", v6())));
            let line = lines.context("the address is gone")?;
            ensure!(!line.contains("tentative") || line.contains("dadfailed"), "{line}");
            if !line.contains("dadfailed") {
                bail!("the stranger believes that the address is its own: {line}");
            }
            Ok(())
        })?;
        // The owner's agent took none of that for a claim.
        let said = warnings(cluster.agents.on("n1"));
        ensure!(said.is_empty(), "{said:?}");
        Ok(())
    })
}

//! The hosts agree among themselves who owns each VIP, and never two at once.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{
    Agent, Burst, Cluster, Config, Connection, Lab, Launch, Questions, Refusal, SECRET, VIPS,
    by_quorum, electing, eventually, expect_one_answer, outage, owner, web,
};

/// What is added where a machine may be busy.
const GENEROUS: Duration = Duration::from_secs(5);

/// Something happens to the owner of the first VIP; how long nobody answered.
fn lose_owner(
    cluster: &mut Cluster,
    lose: impl FnOnce(&mut Cluster, &str) -> Result<()>,
) -> Result<Duration> {
    let vip = VIPS[0];
    let name = cluster.lab.owner_of(vip)?;
    let questions = Questions::start(cluster.host("c1"), vip)?;
    std::thread::sleep(Duration::from_millis(300));
    let from = Instant::now();
    lose(cluster, &name)?;
    std::thread::sleep(Duration::from_secs(2));
    let to = Instant::now();
    std::thread::sleep(Duration::from_millis(200));
    let questions = questions.finish()?;
    expect_one_answer(&questions)?;
    outage(&questions, from, to)
}

#[test]
fn an_owner_that_is_killed_is_replaced_and_one_that_ends_hands_over() -> Result<()> {
    electing(3)?.explain(|cluster| {
        for round in 0..3 {
            let killed =
                lose_owner(cluster, |cluster, name| cluster.agents.on(name).process().kill())?;
            println!("round {round}: killed, nobody answered for {killed:?}");
            ensure!(killed < GENEROUS, "nobody answered for {killed:?}");
            for agent in cluster.agents.all() {
                if agent.process().ended()?.is_some() {
                    agent.restart()?;
                    agent.wait_ready()?;
                }
            }
            let ended = lose_owner(cluster, |cluster, name| {
                let status = cluster.agents.on(name).stop()?;
                ensure!(status.success(), "{name} ended with {status}");
                Ok(())
            })?;
            println!("round {round}: ended, nobody answered for {ended:?}");
            ensure!(ended < Duration::from_secs(1), "nobody answered for {ended:?}");
            for agent in cluster.agents.all() {
                if agent.process().ended()?.is_some() {
                    agent.restart()?;
                    agent.wait_ready()?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn a_frozen_owner_is_silent_and_replaced_and_comes_back_as_nobody() -> Result<()> {
    electing(3)?.explain(|cluster| {
        let frozen = cluster.lab.owner_of(VIPS[0])?;
        let outage =
            lose_owner(cluster, |cluster, name| cluster.agents.on(name).process().freeze())?;
        println!("frozen, nobody answered for {outage:?}");
        ensure!(outage < GENEROUS, "nobody answered for {outage:?}");
        let questions = Questions::start(cluster.host("c1"), VIPS[0])?;
        cluster.agents.on(&frozen).process().thaw()?;
        std::thread::sleep(Duration::from_secs(2));
        expect_one_answer(&questions.finish()?)?;
        let address = VIPS[0].to_string();
        eventually(GENEROUS, "the address to be gone from the thawed host", || {
            let addresses = cluster.host(&frozen).run(&["ip", "addr", "show", "dev", "eth0"])?;
            ensure!(!addresses.contains(&address) || cluster.lab.owner_of(VIPS[0])? == frozen);
            Ok(())
        })
    })
}

#[test]
fn connections_to_other_hosts_outlive_their_vips_owner() -> Result<()> {
    const HELD: usize = 600;
    electing(3)?.explain(|cluster| {
        let report = cluster.client.connect(Burst::new((VIPS[0], 80), HELD).hold())?;
        report.expect_all(HELD)?;
        let mut held = report.held;
        let lost = cluster.lab.owner_of(VIPS[0])?;
        let mut transfer = {
            let others = || -> Result<Connection> {
                loop {
                    let to = (VIPS[0], 80).into();
                    let mut connection = Connection::open(cluster.host("c1"), to)?;
                    if connection.who()?.host != lost {
                        return Ok(connection);
                    }
                }
            };
            others()?
        };
        transfer.download(1_000_000)?;
        let began = Instant::now();
        // The whole host: its link is down, and with it its backends.
        cluster.host(&lost).run(&["ip", "link", "set", "eth0", "down"])?;
        transfer.download(20_000_000)?;
        println!("a transfer through another host went on {:?} after the loss", began.elapsed());
        let (mut gone, mut other) = (0, Vec::new());
        for (who, connection) in &mut held {
            if who.host == lost {
                gone += 1;
                continue;
            }
            match connection.who() {
                Ok(now) if now == *who => {}
                result => other.push(format!("{who:?}: {result:?}")),
            }
        }
        println!("{gone} connections ended on {lost}, {} of the others failed", other.len());
        ensure!(gone > HELD / 6 && gone < HELD / 2, "{gone} of {HELD} were on {lost}");
        ensure!(other.is_empty(), "{} failed: {:?}", other.len(), other.first());
        let next = cluster.lab.owner_of(VIPS[0])?;
        ensure!(next != lost, "{lost} is cut off and still answers");
        Ok(())
    })
}

#[test]
fn without_a_majority_nobody_owns() -> Result<()> {
    electing(3)?.explain(|cluster| {
        let keeper = cluster.lab.owner_of(VIPS[0])?;
        for name in ["n1", "n2", "n3"].into_iter().filter(|name| *name != keeper) {
            cluster.agents.on(name).process().freeze()?;
        }
        let began = Instant::now();
        eventually(GENEROUS, "silence", || {
            let answers = lab::who_has(cluster.host("c1"), VIPS[0])?;
            ensure!(answers.is_empty(), "{answers:?} answers without a majority");
            Ok(())
        })?;
        println!("silent {:?} after the majority was lost", began.elapsed());
        for name in ["n1", "n2", "n3"].into_iter().filter(|name| *name != keeper) {
            cluster.agents.on(name).process().thaw()?;
        }
        eventually(2 * GENEROUS, "an owner", || owner(cluster.host("c1"), VIPS[0]))?;
        Ok(())
    })
}

#[test]
fn what_cannot_work_is_refused_in_one_line_and_changes_nothing() -> Result<()> {
    let lab = Lab::bridge(3, 1)?;
    let node = lab.host("n1");
    let before = node.snapshot()?;
    let refuse = |extra: &str, named: &[&str]| -> Result<()> {
        let mut config = Config::of(&lab, node, &web(&lab));
        config.extra = format!("election: quorum\n{extra}");
        let path = node.directory().join("refused.yaml");
        std::fs::write(&path, config.to_string())?;
        let path = path.to_str().context("a path that is text")?;
        let refusal = Refusal::of(node, &["start", "-c", path], &Launch::default())?;
        println!("{}", refusal.said.trim_end());
        refusal.expect(named)?;
        before.expect_same(&node.snapshot()?)
    };
    refuse("", &["secret", "kube-vip secret", "secretFile", "vip_secret", "insecurePeers: true"])?;
    refuse("secretFile: /nonexistent\n", &["secretFile", "/nonexistent", "No such file"])?;
    let state = "quorum: {stateDir: /proc/kube-vip}\n";
    refuse(&format!("secret: {SECRET}\n{state}"), &["/proc/kube-vip"])?;
    Ok(())
}

#[test]
fn whoever_does_not_know_the_secret_changes_nothing() -> Result<()> {
    electing(3)?.explain(|cluster| {
        let before = cluster.lab.owner_of(VIPS[0])?;
        let agent = cluster.agents.on("n3");
        agent.process().kill()?;
        let mut config = Config::of(&cluster.lab, cluster.lab.host("n3"), &web(&cluster.lab));
        by_quorum(&mut config);
        let other = SECRET.replace('p', "q");
        config.extra = config.extra.replace(SECRET, &other);
        let agent = cluster.agents.on("n3");
        agent.rewrite(&config)?;
        agent.restart()?;
        std::thread::sleep(Duration::from_secs(3));
        let status = agent.status()?;
        let owned = status["vips"].as_array().into_iter().flatten();
        ensure!(owned.into_iter().all(|vip| vip["owned"] == false), "{}", status["vips"]);
        // The two others are a majority.
        let now = cluster.lab.owner_of(VIPS[0])?;
        ensure!(now != "n3", "{now} owns the VIP; it was {before}");
        Ok(())
    })
}

#[test]
fn a_host_without_kernel_programs_votes_and_owns_nothing() -> Result<()> {
    electing(3)?.explain(|cluster| {
        let agent = cluster.agents.on("n3");
        ensure!(agent.stop()?.success(), "n3 ended badly");
        let mut config = Config::of(&cluster.lab, cluster.lab.host("n3"), &web(&cluster.lab));
        by_quorum(&mut config);
        // Enough for addresses and announcements, not for programs.
        let two = "-all,+net_admin,+net_raw";
        let launch =
            Launch::default().through(&["setpriv", "--inh-caps", two, "--bounding-set", two]);
        let mut third = Agent::start_as(cluster.lab.host("n3"), &config.to_string(), &launch)?;
        third.wait_until("n3 votes", |status| status["quorum"]["role"] == "voter")?;
        let notices = third.status()?["notices"].to_string();
        ensure!(notices.contains("this host votes and owns nothing"), "{notices}");
        // With n2 alone it is a majority, and n2 owns everything.
        cluster.agents.on("n1").process().kill()?;
        for vip in VIPS {
            eventually(GENEROUS, "n2 to own everything", || {
                let name = cluster.lab.owner_of(vip)?;
                ensure!(name == "n2", "{name} owns {vip}");
                Ok(())
            })?;
        }
        std::thread::sleep(Duration::from_secs(1));
        let owned = third.status()?["vips"].as_array().cloned().unwrap_or_default();
        ensure!(owned.iter().all(|vip| vip["owned"] == false && vip["held"] == false), "{owned:?}");
        Ok(())
    })
}

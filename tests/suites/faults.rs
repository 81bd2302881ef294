//! Faults, captures and observation, with nothing but the kernel in the lab.

use std::fs;
use std::net::IpAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{
    Attempt, Capture, Connection, Entry, Foreign, Lab, Server, VIPS, Watch, What, eventually,
    experiment, owner, who_has,
};

const BRIEFLY: Duration = Duration::from_millis(300);

fn both(lab: &Lab, host: &str) -> [IpAddr; 2] {
    [lab.host(host).v4().into(), lab.host(host).v6().into()]
}

#[test]
fn the_observer_sees_one_owner_or_two_or_none() -> Result<()> {
    let lab = Lab::bridge(2, 1)?;
    let client = lab.host("c1");
    for vip in VIPS {
        ensure!(who_has(client, vip)?.is_empty(), "somebody answers for {vip}");
        let length = if vip.is_ipv4() { 32 } else { 128 };
        let add = format!("ip addr add {vip}/{length} dev eth0 nodad");
        lab.host("n1").shell(&add)?;
        ensure!(owner(client, vip)? == lab.host("n1").mac());
        let watch = Watch::start(client, vip)?;
        std::thread::sleep(BRIEFLY);
        lab.host("n2").shell(&add)?;
        ensure!(who_has(client, vip)?.len() == 2, "the second owner of {vip} is not seen");
        let heard = watch.finish()?;
        ensure!(heard.first().is_some_and(|first| first.answered.len() == 1), "{heard:?}");
        ensure!(heard.iter().any(|heard| heard.answered.len() == 2), "{heard:?}");
    }
    Ok(())
}

#[test]
fn cuts_and_losses_are_as_told() -> Result<()> {
    let lab = Lab::bridge(3, 0)?;
    let _servers = lab.nodes().map(|node| Server::on_port(node, 80)).collect::<Result<Vec<_>>>()?;
    let reach = |from: &str, to: &str| -> Result<[Attempt; 2]> {
        let one = |address| Attempt::to(lab.host(from), (address, 80).into(), BRIEFLY);
        let [v4, v6] = both(&lab, to);
        Ok([one(v4)?, one(v6)?])
    };
    let open = [Attempt::Accepted; 2];
    let mut held = Connection::open(lab.host("n1"), (lab.host("n2").v4(), 80).into())?;

    lab.partition(&["n1"], &["n2"])?;
    ensure!(!reach("n1", "n2")?.contains(&Attempt::Accepted));
    ensure!(reach("n1", "n3")? == open && reach("n3", "n2")? == open);
    lab.heal()?;
    eventually(Duration::from_secs(5), "healed", || {
        ensure!(reach("n1", "n2")? == open);
        Ok(())
    })?;
    held.echo("still there")?;

    // One way only: what n1 sends is lost, what n2 sends arrives.
    lab.cut("n1", "n2")?;
    let capture = Capture::start(lab.host("n1"), "eth0")?;
    ensure!(!reach("n2", "n1")?.contains(&Attempt::Accepted));
    let n2 = IpAddr::from(lab.host("n2").v4());
    let frames = capture.finish()?;
    let heard = frames.iter().filter(|frame| {
        !frame.sent && frame.seen.addresses().is_some_and(|(source, _)| source == n2)
    });
    ensure!(heard.count() > 0, "n1 should have heard n2: {frames:?}");
    lab.heal()?;

    lab.unplug("n3")?;
    ensure!(lab.host("n3").shell("cat /sys/class/net/eth0/carrier")?.trim() == "0");
    ensure!(!reach("n1", "n3")?.contains(&Attempt::Accepted));
    lab.plug_in("n3")?;
    eventually(Duration::from_secs(5), "plugged in", || {
        ensure!(reach("n1", "n3")? == open);
        Ok(())
    })?;

    lab.lose("n1", 30)?;
    let ping = lab.host("n1").shell("ping -q -i0.002 -c300 -W1 10.77.0.12 || true")?;
    lab.heal()?;
    let loss = ping.split(", ").find_map(|part| part.strip_suffix("% packet loss"));
    let loss = loss.and_then(|loss| loss.parse::<f64>().ok()).context(ping.clone())?;
    // Lost on the way there or back: 1 - 0.7².
    ensure!((35.0..68.0).contains(&loss), "{loss}% were lost");
    Ok(())
}

#[test]
fn what_passes_is_captured_and_counted() -> Result<()> {
    let lab = Lab::bridge(1, 1)?;
    let (node, client) = (lab.host("n1"), lab.host("c1"));
    let _server = Server::on_port(node, 80)?;
    let capture = Capture::of_host(&lab, "n1")?;
    let before = node.counters("eth0")?;
    let mut connection = Connection::open(client, (node.v6(), 80).into())?;
    connection.download(10_000_000)?;
    let passed = node.counters("eth0")? - before;
    ensure!((10_000_000..11_000_000).contains(&passed.tx_bytes), "{passed:?}");
    ensure!(passed.tx_frames > 10_000_000 / 1500, "not at this MTU: {passed:?}");
    let frames = capture.finish()?;
    let of_ours = |flags: u8, to_host: bool| {
        frames.iter().any(|frame| {
            frame.sent == to_host
                && matches!(frame.seen.what, What::Ip { flags: found, protocol: 6, .. }
                    if found & 0x12 == flags)
        })
    };
    ensure!(of_ours(0x02, true) && of_ours(0x12, false), "no handshake in the capture");
    let solicited = |kind| {
        frames.iter().any(
            |frame| matches!(frame.seen.what, What::Neighbour { kind: found, .. } if found == kind),
        )
    };
    ensure!(solicited(135) && solicited(136), "no neighbour discovery in the capture");
    Ok(())
}

#[test]
fn what_xdp_sends_back_arrives_and_is_counted() -> Result<()> {
    let lab = Lab::bridge(1, 1)?;
    let (node, client) = (lab.host("n1"), lab.host("c1"));
    let _reflector = node.foreign_xdp("eth0", Foreign::Reflect)?;
    let (at_port, at_client) = (Capture::of_host(&lab, "n1")?, Capture::start(client, "eth0")?);
    let before = node.counters("eth0")?;
    for _ in 0..100 {
        client.send_frame("eth0", &experiment(node.mac(), client.mac()))?;
    }
    std::thread::sleep(Duration::from_millis(100));
    let passed = node.counters("eth0")? - before;
    let back = |frames: Vec<lab::Captured>| {
        let back = frames.iter().filter(|frame| {
            !frame.sent && frame.seen.from == node.mac() && frame.seen.to == client.mac()
        });
        back.count()
    };
    let (port, end) = (back(at_port.finish()?), back(at_client.finish()?));
    println!("{passed:?} {}", node.shell("ethtool -S eth0; cat /proc/net/dev; ethtool -k eth0 | grep -E 'generic-receive|checksum|gro'")?);
    println!(
        "wire {} {}",
        lab.wire().shell("ethtool -S n1; cat /proc/net/dev")?,
        client.shell("cat /proc/net/dev")?
    );
    ensure!(port == 100 && end == 100, "{port} seen at the port, {end} at the client");
    ensure!(passed.tx_frames >= 100 && passed.tx_bytes >= 6000, "not counted: {passed:?}");
    Ok(())
}

#[test]
fn a_believed_neighbour_is_sent_to() -> Result<()> {
    let lab = Lab::bridge(2, 1)?;
    let client = lab.host("c1");
    for (vip, entry) in [(VIPS[0], Entry::Permanent), (VIPS[1], Entry::Stale)] {
        client.believe(vip, lab.host("n2").mac(), entry)?;
        let capture = Capture::of_host(&lab, "n2")?;
        Attempt::to(client, (vip, 80).into(), BRIEFLY)?;
        let frames = capture.finish()?;
        let there = |frame: &&lab::Captured| {
            frame.sent
                && frame.seen.to == lab.host("n2").mac()
                && frame.seen.addresses().is_some_and(|(_, to)| to == vip)
        };
        ensure!(frames.iter().any(|frame| there(&frame)), "nothing for {vip} reached n2");
        client.forget(vip)?;
    }
    Ok(())
}

#[test]
fn a_host_has_everything_of_its_own() -> Result<()> {
    let lab = Lab::bridge(2, 0)?;
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let before = (n1.snapshot()?, n2.snapshot()?);
    let make = "mkdir /sys/fs/bpf/mine /sys/fs/cgroup/mine /run/mine; touch /var/lib/kube-vip/mine; \
                ip addr add 10.77.0.100/32 dev eth0; sysctl -qw net.ipv4.conf.eth0.arp_ignore=1";
    n1.shell(make)?;
    before.1.expect_same(&n2.snapshot()?)?;
    let changes = before.0.expect_same(&n1.snapshot()?).expect_err("n1 has changed").to_string();
    for part in ["10.77.0.100/32", "/sys/fs/bpf/mine", "/run/mine", "arp_ignore = 1"] {
        ensure!(changes.contains(part), "{part} is not in: {changes}");
    }
    ensure!(n1.shell("hostname")?.trim() == "n1");
    ensure!(n1.shell("cat /proc/self/cgroup")?.lines().any(|line| line == "0::/"));
    ensure!(n1.shell("ls /sys/class/net")?.split_whitespace().eq(["eth0", "lo"]));
    ensure!(n1.pins()? == ["/sys/fs/bpf/mine"] && n2.pins()?.is_empty());
    ensure!(n1.xdp_program("eth0")?.is_none());
    let foreign = n1.foreign_xdp("eth0", Foreign::Pass)?;
    ensure!(n1.xdp_program("eth0")?.is_some() && n2.xdp_program("eth0")?.is_none());
    drop(foreign);
    ensure!(n1.xdp_program("eth0")?.is_none());
    Ok(())
}

#[test]
fn processes_are_frozen_and_killed_by_number() -> Result<()> {
    let lab = Lab::bridge(1, 0)?;
    let mut command = lab.host("n1").command("/bin/sh");
    command.args(["-c", "trap 'echo ending >&2; exit 3' TERM; while :; do sleep 0.01; done"]);
    let mut process = lab.host("n1").spawn("sh", command)?;
    std::thread::sleep(Duration::from_millis(50));
    process.freeze()?;
    ensure!(process.terminate(BRIEFLY).is_err(), "a frozen process does not end");
    process.thaw()?;
    let status = process.wait(Duration::from_secs(5))?.context("thawed, it ends")?;
    ensure!(status.code() == Some(3) && process.log() == "ending\n");
    let mut command = lab.host("n1").command("sleep");
    command.arg("60");
    let mut process = lab.host("n1").spawn("sleep", command)?;
    process.kill()?;
    ensure!(process.ended()?.and_then(|status| status.signal()) == Some(9));
    Ok(())
}

/// Not a test: the victim of the next one.
#[test]
#[ignore = "runs forever; the test below starts it and kills it"]
fn a_lab_that_waits_to_die() -> Result<()> {
    let lab = Lab::bridge(2, 0)?;
    let mut command = lab.host("n1").command("sleep");
    command.arg("3600");
    let process = lab.host("n1").spawn("sleep", command)?;
    let note = std::env::var("LAB_NOTE").context("started by hand")?;
    let text =
        format!("{} {} {}", process.pid(), lab.host("n1").holder(), lab.directory().display());
    fs::write(format!("{note}.new"), text)?;
    fs::rename(format!("{note}.new"), note)?;
    loop {
        std::thread::park();
    }
}

/// Another process with a lab of its own, and what it must not leave behind.
struct Victim {
    process: std::process::Child,
    /// A process in a host, its holder, the lab's directory.
    left: [String; 3],
}

impl Victim {
    fn start(name: &str) -> Result<Self> {
        let note = std::env::temp_dir().join(format!("lab-note-{name}-{}", std::process::id()));
        let process = std::process::Command::new(std::env::current_exe()?)
            .args(["--ignored", "--exact", "a_lab_that_waits_to_die"])
            .env("LAB_NOTE", &note)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        let patience = Duration::from_secs(10);
        let text = eventually(patience, "the other lab", || Ok(fs::read_to_string(&note)?))?;
        fs::remove_file(&note)?;
        let mut words = text.split(' ');
        let mut next = || words.next().context("the note is short");
        let left = [format!("/proc/{}", next()?), format!("/proc/{}", next()?), next()?.to_owned()];
        Ok(Self { process, left })
    }

    fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    fn expect_gone(&self, left: &[String]) -> Result<()> {
        eventually(Duration::from_secs(10), "everything gone", || {
            let still = left.iter().filter(|path| Path::new(path).exists()).collect::<Vec<_>>();
            ensure!(still.is_empty(), "still there: {still:?}");
            Ok(())
        })
    }
}

#[test]
fn a_lab_goes_when_its_process_is_killed() -> Result<()> {
    let mut victim = Victim::start("killed")?;
    victim.kill()?;
    let killed = Instant::now();
    victim.expect_gone(&victim.left)?;
    println!("gone {:?} after the kill", killed.elapsed());
    Ok(())
}

#[test]
fn a_lab_whose_reaper_is_killed_too_goes_when_the_next_one_starts() -> Result<()> {
    let mut victim = Victim::start("reaper")?;
    let reaper = victim.left[2].rsplit('-').next().context("no number")?.parse::<i32>()?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(reaper), nix::sys::signal::Signal::SIGKILL)?;
    victim.kill()?;
    // The holders see to the processes; directories are left.
    victim.expect_gone(&victim.left[..2])?;
    let _next = Lab::bridge(1, 0)?;
    victim.expect_gone(&victim.left)
}

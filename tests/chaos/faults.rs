//! What goes wrong.

use std::time::{Duration, Instant};

use anyhow::Result;
use lab::{Cluster, Dice, STATE_DIR, VIPS};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The agent is killed and started again.
    Kill,
    /// It is killed and started again at once, while what it owned is moved.
    Restart,
    /// It is killed and has lost what it must not forget.
    LoseDisk,
    /// It ends as asked to and is started again.
    End,
    /// It stands still, and goes on.
    Freeze,
    /// It stands still in the middle of its announcements as a new owner.
    FreezeNewOwner,
    /// The host's cable is pulled.
    Unplug,
    /// The host does not reach the others and they do not reach it; clients reach all.
    Isolate,
    /// What it sends does not reach the other hosts.
    Mute,
    /// What the others send does not reach it.
    Deafen,
    /// A third of all its frames are lost.
    Lose,
    /// Its link is slow, so that frames queue for some 100 ms.
    Slow,
    /// Its disk is full.
    FillDisk,
    /// The owner and the leader are cut off from the rest, together.
    CutOffLeaderAndOwner,
    /// The leader is killed, and the owner's agent stands still.
    LeaderAndOwner,
    /// All wall clocks are two hours ahead, then two hours behind.
    StepClock,
}

impl Kind {
    const ALL: [Self; 15] = [
        Self::Kill,
        Self::Restart,
        Self::LoseDisk,
        Self::End,
        Self::Freeze,
        Self::FreezeNewOwner,
        Self::Unplug,
        Self::Isolate,
        Self::Mute,
        Self::Deafen,
        Self::Lose,
        Self::Slow,
        Self::FillDisk,
        Self::CutOffLeaderAndOwner,
        Self::LeaderAndOwner,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "agent killed",
            Self::Restart => "killed, started at once",
            Self::LoseDisk => "killed, disk lost",
            Self::End => "ended (SIGTERM)",
            Self::Freeze => "agent frozen",
            Self::FreezeNewOwner => "new owner frozen",
            Self::Unplug => "cable pulled",
            Self::Isolate => "cut off from hosts",
            Self::Mute => "not heard by hosts",
            Self::Deafen => "does not hear hosts",
            Self::Lose => "a third lost",
            Self::Slow => "slow link",
            Self::FillDisk => "disk full",
            Self::CutOffLeaderAndOwner => "leader, owner cut off",
            Self::LeaderAndOwner => "leader dead, owner frozen",
            Self::StepClock => "wall clock stepped",
        }
    }

    /// Whether connections to backends on the host may end.
    fn harms_connections(self) -> bool {
        match self {
            Self::Kill
            | Self::Restart
            | Self::LoseDisk
            | Self::Freeze
            | Self::FreezeNewOwner
            | Self::FillDisk
            | Self::LeaderAndOwner
            | Self::StepClock => false,
            // An agent that ends takes its data plane with it, unless it is told not to.
            Self::End
            | Self::Unplug
            | Self::Isolate
            | Self::Mute
            | Self::Deafen
            | Self::Lose
            | Self::Slow
            | Self::CutOffLeaderAndOwner => true,
        }
    }
}

/// A fault that came and went.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    /// Connections to backends on these hosts may have ended.
    pub(crate) harmed: Vec<String>,
    pub(crate) from: Instant,
    /// It was over, and every VIP had an owner.
    pub(crate) settled: Instant,
}

/// One fault after the other.
pub(crate) struct Faults {
    dice: Dice,
    steps_clock: bool,
    /// Kinds that have not come yet in this round, so that short runs have them all too.
    coming: Vec<Kind>,
    done: Vec<Fault>,
}

impl Faults {
    pub(crate) fn new(dice: Dice, steps_clock: bool) -> Self {
        Self { dice, steps_clock, coming: Vec::new(), done: Vec::new() }
    }

    pub(crate) fn done(&self) -> &[Fault] {
        &self.done
    }

    fn milliseconds(&mut self, least: usize, most: usize) -> Duration {
        Duration::from_millis((least + self.dice.below(most - least)) as u64)
    }

    /// Everything is well for a while after a fault.
    pub(crate) fn calm(&mut self) {
        if let Some(last) = self.done.last_mut() {
            last.settled = Instant::now();
        }
        std::thread::sleep(self.milliseconds(100, 1500));
    }

    /// The next fault, from its beginning to its end.
    pub(crate) fn next(&mut self, cluster: &mut Cluster) -> Result<()> {
        if self.coming.is_empty() {
            self.coming = Kind::ALL.to_vec();
            self.coming.extend(self.steps_clock.then_some(Kind::StepClock));
        }
        let at = self.dice.below(self.coming.len());
        let kind = self.coming.swap_remove(at);
        let owner = cluster.lab.owner_of(*self.dice.pick(&VIPS))?;
        let leader = leader(cluster);
        let host = match self.dice.below(10) {
            0..4 => owner.clone(),
            4..7 => leader.clone().unwrap_or_else(|| owner.clone()),
            other => format!("n{}", other - 6),
        };
        let lasts = self.milliseconds(300, 2500);
        let from = Instant::now();
        let touched = self.happen(kind, cluster, &host, (leader, owner), lasts)?;
        let harmed = if kind.harms_connections() { touched.clone() } else { Vec::new() };
        let uptime = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)?.tv_sec();
        println!(
            "{:6.1} s (until {uptime} s after boot) {} {lasts:?}: {}",
            lab_seconds(from),
            touched.join(" "),
            kind.name()
        );
        self.done.push(Fault { name: kind.name(), harmed, from, settled: Instant::now() });
        Ok(())
    }

    /// Brings a fault about and ends it; the hosts it touched.
    fn happen(
        &mut self,
        kind: Kind,
        cluster: &mut Cluster,
        host: &str,
        (leader, owner): (Option<String>, String),
        lasts: Duration,
    ) -> Result<Vec<String>> {
        let mut touched = vec![host.to_owned()];
        let others: Vec<&str> = ["n1", "n2", "n3"].into_iter().filter(|it| *it != host).collect();
        match kind {
            Kind::Kill => {
                cluster.agents.on(host).process().kill()?;
                std::thread::sleep(lasts);
                start(cluster, host)?;
            }
            Kind::Restart => {
                let agent = cluster.agents.on(host);
                agent.restart()?;
                let to = *self.dice.pick(&others);
                for vip in VIPS {
                    // Where nobody leads for the moment, it stays.
                    let _ = cluster.agents.on(to).cli(&["move", &vip.to_string(), to]);
                }
                cluster.agents.on(host).wait_ready()?;
            }
            Kind::LoseDisk => {
                cluster.agents.on(host).process().kill()?;
                cluster.host(host).shell(&format!("rm -rf {STATE_DIR}/*"))?;
                std::thread::sleep(lasts);
                start(cluster, host)?;
                // Two hosts without memory are too many: the next fault waits for the vote.
                cluster.agents.on(host).wait_until("a vote", |status| {
                    let role = status["quorum"]["role"].as_str();
                    status["quorum"]["changing"] == false
                        && matches!(role, Some("voter" | "leader"))
                })?;
            }
            Kind::End => {
                cluster.agents.on(host).stop()?;
                std::thread::sleep(lasts);
                start(cluster, host)?;
            }
            Kind::Freeze => {
                cluster.agents.on(host).process().freeze()?;
                std::thread::sleep(lasts);
                cluster.agents.on(host).process().thaw()?;
            }
            Kind::FreezeNewOwner => {
                let to = *self.dice.pick(&others);
                let vip = self.dice.pick(&VIPS).to_string();
                // Where nobody leads for the moment, it just stands still.
                let _ = cluster.agents.on(to).cli(&["move", &vip, to]);
                std::thread::sleep(self.milliseconds(0, 60));
                cluster.agents.on(to).process().freeze()?;
                std::thread::sleep(lasts);
                cluster.agents.on(to).process().thaw()?;
                touched = vec![to.to_owned()];
            }
            Kind::Unplug => {
                cluster.lab.unplug(host)?;
                std::thread::sleep(lasts);
                cluster.lab.plug_in(host)?;
            }
            Kind::Isolate => {
                cluster.lab.partition(&[host], &others)?;
                std::thread::sleep(lasts);
                cluster.lab.heal()?;
            }
            Kind::Mute | Kind::Deafen => {
                for other in &others {
                    match kind {
                        Kind::Mute => cluster.lab.cut(host, other)?,
                        _ => cluster.lab.cut(other, host)?,
                    }
                }
                std::thread::sleep(lasts);
                cluster.lab.heal()?;
            }
            Kind::Lose => {
                cluster.lab.lose(host, 33)?;
                std::thread::sleep(lasts);
                cluster.lab.heal()?;
            }
            Kind::Slow => {
                cluster.lab.slow_down(host)?;
                std::thread::sleep(lasts);
                cluster.lab.speed_up(host)?;
            }
            Kind::FillDisk => {
                let fill = format!("dd if=/dev/zero of={STATE_DIR}/fill bs=4k 2>&1 || true");
                cluster.host(host).shell(&fill)?;
                std::thread::sleep(lasts);
                cluster.host(host).shell(&format!("rm {STATE_DIR}/fill"))?;
            }
            Kind::CutOffLeaderAndOwner => {
                touched = [leader.unwrap_or_else(|| host.to_owned()), owner].into();
                touched.sort();
                touched.dedup();
                let within: Vec<&str> = touched.iter().map(String::as_str).collect();
                let others = ["n1", "n2", "n3"].into_iter();
                let others: Vec<&str> = others.filter(|it| !within.contains(it)).collect();
                cluster.lab.partition(&within, &others)?;
                std::thread::sleep(lasts);
                cluster.lab.heal()?;
                // Whoever is alone loses what is elsewhere too.
                touched = ["n1", "n2", "n3"].map(str::to_owned).into();
            }
            Kind::LeaderAndOwner => {
                let leader = leader.unwrap_or_else(|| host.to_owned());
                if owner != leader {
                    cluster.agents.on(&owner).process().freeze()?;
                }
                cluster.agents.on(&leader).process().kill()?;
                std::thread::sleep(lasts);
                if owner != leader {
                    cluster.agents.on(&owner).process().thaw()?;
                }
                start(cluster, &leader)?;
                touched = vec![leader, owner];
            }
            Kind::StepClock => {
                for step in ["+2 hours", "-4 hours", "+2 hours"] {
                    cluster.host(host).run(&["date", "--set", step])?;
                    std::thread::sleep(lasts);
                }
                touched = ["n1", "n2", "n3"].map(str::to_owned).into();
            }
        }
        Ok(touched)
    }
}

fn start(cluster: &mut Cluster, host: &str) -> Result<()> {
    let agent = cluster.agents.on(host);
    agent.restart()?;
    agent.wait_ready().map(drop)
}

fn leader(cluster: &mut Cluster) -> Option<String> {
    let status = cluster.agents.all().iter().find_map(|agent| agent.status().ok())?;
    status["quorum"]["leader"].as_str().map(str::to_owned)
}

/// Seconds since the first fault, for people.
fn lab_seconds(at: Instant) -> f64 {
    static FIRST: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    at.duration_since(*FIRST.get_or_init(|| at)).as_secs_f64()
}

//! What an agent needs while nothing happens.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::{Agents, Lab, web};
use nix::unistd::{SysconfVar, sysconf};

/// The dearest of the lab's agents.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AtRest {
    /// Mebibytes resident.
    pub(crate) resident: f64,
    /// Percent of a core.
    pub(crate) cpu: f64,
}

/// Runs three hosts that share a service, leaves them alone for so long, and looks what their
/// agents used.
pub(crate) fn at_rest(watched: Duration) -> Result<AtRest> {
    let lab = Lab::bridge(3, 1)?;
    let mut agents = Agents::start(&lab, &web(&lab))?;
    // What belongs to the start is over by then.
    thread::sleep(Duration::from_secs(2));
    let pids: Vec<u32> = agents.all().iter_mut().map(|agent| agent.process().pid()).collect();
    let start = Instant::now();
    let before = pids.iter().map(|pid| cpu_seconds(*pid)).collect::<Result<Vec<_>>>()?;
    thread::sleep(watched);
    let seconds = start.elapsed().as_secs_f64();
    let mut dearest = AtRest::default();
    for (agent, before) in agents.all().iter_mut().zip(before) {
        let used = cpu_seconds(agent.process().pid())? - before;
        let resident = agent.process().resident()? as f64 / f64::from(1 << 20);
        dearest.resident = dearest.resident.max(resident);
        dearest.cpu = dearest.cpu.max(used / seconds * 100.0);
    }
    Ok(dearest)
}

/// User and system time of a process so far (`proc_pid_stat(5)`, fields 14 and 15).
fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    // The second field is a name in parentheses and may hold spaces.
    let rest = stat.rsplit_once(')').context("no name in it")?.1;
    let field = |number: usize| -> Result<f64> {
        Ok(rest.split_whitespace().nth(number - 3).context("too few fields")?.parse()?)
    };
    let ticks = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")? as f64;
    Ok((field(14)? + field(15)?) / ticks)
}

//! `kube-vip move`

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use kube_vip_quorum::node::Order;
use serde::Serialize;

use super::output::{self, Format};
use crate::publish::{self, Status, VipStatus};

/// How long a VIP may take to get where it is to be.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at the agent.
pub(super) const LOOK: Duration = Duration::from_millis(5);

/// Move a virtual address to another host, and wait until the hosts have agreed on it
///
/// The host that has it gives it back first, so it is never in two places, and nobody answers for it
/// for a few milliseconds only. It stays there until that host is lost, drained or has it moved.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kube-vip move 192.168.0.75 n2
  kube-vip move fd00::75 n2 -o json")]
pub(super) struct Move {
    /// The virtual address
    vip: IpAddr,

    /// Id of the host that is to have it; `kube-vip peers list` shows them
    #[arg(value_name = "HOST")]
    host: String,

    /// Name of the agent, `instance` in its configuration
    #[arg(long, value_name = "NAME", default_value = "default")]
    instance: String,

    /// How to say what was done
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Serialize)]
struct Moved {
    vip: IpAddr,
    from: Option<String>,
    to: String,
    milliseconds: u64,
}

impl Move {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self { vip, host, instance, output } = self;
        let dir = publish::run_dir();
        let before = publish::fetch(&dir, &instance)?;
        let vips: Vec<_> = before.vips.iter().map(|it| it.address.to_string()).collect();
        let found = of(&before, vip).with_context(|| {
            format!("{vip} is none of the virtual addresses here: {}", vips.join(", "))
        })?;
        let from = found.owner.clone();
        let began = Instant::now();
        publish::order(&dir, &instance, Order::Move { vip, host: host.clone() })?;
        let arrived =
            |status: &Status| of(status, vip).is_some_and(|it| it.owner.as_ref() == Some(&host));
        ensure!(
            eventually(&dir, &instance, arrived)?,
            "{vip} is not at {host} after {PATIENCE:?}; `kube-vip status` there says more"
        );
        let milliseconds = began.elapsed().as_millis() as u64;
        let moved = Moved { vip, from, to: host, milliseconds };
        output::print(match output {
            Format::Json => serde_json::to_string_pretty(&moved)? + "\n",
            Format::Text => {
                let Moved { vip, from, to, milliseconds } = moved;
                let from = from.map(|from| format!(" (was at {from})")).unwrap_or_default();
                format!("{vip} is at {to} now{from}, after {milliseconds} ms\n")
            }
        })
    }
}

fn of(status: &Status, vip: IpAddr) -> Option<&VipStatus> {
    status.vips.iter().find(|it| it.address == vip)
}

/// Looks until it is so; false if it does not come.
pub(super) fn eventually(
    dir: &Path,
    instance: &str,
    is_so: impl Fn(&Status) -> bool,
) -> anyhow::Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if is_so(&publish::fetch(dir, instance)?) {
            return Ok(true);
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
        std::thread::sleep(LOOK);
    }
}

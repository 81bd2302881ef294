//! `kube-vip drain`

use std::path::Path;
use std::time::Instant;

use anyhow::ensure;
use kube_vip_quorum::node::Order;
use serde::Serialize;

use super::move_vip::{PATIENCE, eventually};
use super::output::{self, Format};
use crate::publish::{self, Status};

/// Move all virtual addresses away from a host, and let it have none until it is undone
///
/// The host goes on voting, and serving the connections of its backends. It outlasts restarts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kube-vip drain                   This host, before it is taken down
  kube-vip drain --undo            It may own virtual addresses again
  kube-vip drain n2 -o json        Another host")]
pub(super) struct Drain {
    /// Id of the host; this one if none is named
    #[arg(value_name = "HOST")]
    host: Option<String>,

    /// Let it own virtual addresses again
    #[arg(long)]
    undo: bool,

    /// Name of the agent, `instance` in its configuration
    #[arg(long, value_name = "NAME", default_value = "default")]
    instance: String,

    /// How to say what was done
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Serialize)]
struct Drained {
    host: String,
    drained: bool,
    milliseconds: u64,
}

impl Drain {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self { host, undo, instance, output } = self;
        let dir = publish::run_dir();
        let host = match host {
            Some(host) => host,
            None => publish::fetch(&dir, &instance)?.host,
        };
        let began = Instant::now();
        publish::order(&dir, &instance, Order::Drain { host: host.clone(), drained: !undo })?;
        if !undo {
            emptied(&dir, &instance, &host)?;
        }
        let milliseconds = began.elapsed().as_millis() as u64;
        let drained = Drained { host, drained: !undo, milliseconds };
        output::print(match output {
            Format::Json => serde_json::to_string_pretty(&drained)? + "\n",
            Format::Text => match drained {
                Drained { host, drained: true, milliseconds } => {
                    format!("{host} has no virtual address any more, after {milliseconds} ms\n")
                }
                Drained { host, .. } => format!("{host} may own virtual addresses again\n"),
            },
        })
    }
}

/// Waits until a host has no VIP.
pub(super) fn emptied(dir: &Path, instance: &str, host: &str) -> anyhow::Result<()> {
    let is_empty = |status: &Status| {
        let assigned = status.quorum.iter().flat_map(|quorum| &quorum.hosts);
        let empty = assigned.filter(|it| it.id == host).all(|it| it.assigned.is_empty());
        empty && status.vips.iter().all(|vip| vip.owner.as_deref() != Some(host))
    };
    ensure!(
        eventually(dir, instance, is_empty)?,
        "no other host has taken over what {host} owns after {PATIENCE:?}; it is drained and gives \
         them back as soon as one can (`kube-vip peers list`)"
    );
    Ok(())
}

//! `kube-vip cleanup`

use std::fmt::Write as _;

use anyhow::{Context as _, ensure};

use super::output::{self, Format};
use crate::cleanup::{self, Cleaned};
use crate::{logging, publish};

/// Take out of this host what an agent left that was killed, or kept its data plane when it ended
///
/// Programs, maps and their pins, virtual addresses, sockets, also those of older versions. An agent
/// that is running is left alone; ending it with SIGINT does the same.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kube-vip cleanup
  kube-vip cleanup --instance services     What another agent on this host left
  kube-vip cleanup --all -o json           What all of them left")]
pub(super) struct Cleanup {
    /// Name of the agent, `instance` in its configuration
    #[arg(long, value_name = "NAME", default_value = "default", conflicts_with = "all")]
    instance: String,

    /// Of all agents that are not running
    #[arg(long)]
    all: bool,

    /// How to say what was done
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Cleanup {
    pub(super) fn run(self) -> anyhow::Result<()> {
        logging::init(logging::Format::default(), Some("warn"))?;
        let dir = publish::run_dir();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let names = if self.all {
            cleanup::instances(&dir)?.into_iter().collect()
        } else {
            vec![self.instance]
        };
        let mut all = Vec::new();
        for name in names {
            match runtime.block_on(cleanup::run(&dir, &name)) {
                Ok(cleaned) => all.push(cleaned),
                // One that runs is no obstacle to the others.
                Err(error) if self.all => {
                    let failed = vec![format!("{error:#}")];
                    all.push(Cleaned { instance: name, failed, ..Cleaned::default() });
                }
                Err(error) => return Err(error),
            }
        }
        output::print(match self.output {
            Format::Text => text(&all),
            Format::Json => serde_json::to_string_pretty(&all)? + "\n",
        })?;
        let failed: usize = all.iter().map(|cleaned| cleaned.failed.len()).sum();
        ensure!(failed == 0, "{failed} of these could not be taken away");
        Ok(())
    }
}

fn text(all: &[Cleaned]) -> String {
    let mut text = String::new();
    for Cleaned { instance, removed, failed } in all {
        let lines = removed.iter().map(|what| ("removed", what));
        for (done, what) in lines.chain(failed.iter().map(|what| ("failed", what))) {
            let _ = writeln!(text, "{instance}: {done}: {what}");
        }
    }
    if text.is_empty() {
        text.push_str("nothing was left\n");
    }
    text
}

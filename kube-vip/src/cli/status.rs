//! `kube-vip status`

use std::io::IsTerminal;

use super::output;
use crate::publish::{self, Style};

/// Show what the agent on this host does
///
/// Virtual IPs and their owner, how packets are handled on each interface, backends with their
/// host, state, share and packets. Counters are this host's own.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kube-vip status
  kube-vip status -o wide                  With bytes, replies and what became of every packet
  kube-vip status -o json | jq .vips       For programs
  kube-vip status --instance services      Of another agent on this host")]
pub(super) struct StatusCommand {
    /// How to show it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,

    /// Name of the agent, `instance` in its configuration
    #[arg(long, value_name = "NAME", default_value = "default")]
    instance: String,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Format {
    #[default]
    Table,
    Wide,
    Json,
    Yaml,
}

impl StatusCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let status = publish::fetch(&publish::run_dir(), &self.instance)?;
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        output::print(match self.output {
            Format::Table => publish::render(&status, Style { wide: false, colour }),
            Format::Wide => publish::render(&status, Style { wide: true, colour }),
            Format::Json => serde_json::to_string_pretty(&status)? + "\n",
            Format::Yaml => serde_saphyr::to_string(&status)?,
        })
    }
}

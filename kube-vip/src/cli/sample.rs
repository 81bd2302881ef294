//! `kube-vip sample`

use super::output;
use crate::config::SAMPLE;

/// Print something to begin with
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  kube-vip sample config > config.yaml")]
pub(super) struct Sample {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// A configuration for three hosts that share a virtual IP, with explanations
    Config,
}

impl Sample {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        match self.what {
            What::Config => output::print(SAMPLE),
        }
    }
}

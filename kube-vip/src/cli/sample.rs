//! `kube-vip sample`

use super::flags::Flags;
use super::output;
use crate::config::{Given, MANIFEST, SAMPLE};

/// Print something to begin with
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kube-vip sample config > config.yaml     With explanations
  kube-vip sample config --vip 10.0.0.100 --interface eno1 > config.yaml
  kube-vip sample manifest > /etc/kubernetes/manifests/kube-vip.yaml")]
pub(super) struct Sample {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// A configuration for three hosts that share a virtual IP, with explanations; with flags one
    /// that says what they do
    Config(Box<Flags>),
    /// A static Pod that runs kube-vip with a configuration on the host
    Manifest,
}

impl Sample {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        match &self.what {
            What::Config(flags) if flags.is_empty() => output::print(SAMPLE),
            What::Config(flags) => {
                let mut given = Given::default();
                flags.clone().or_sample().add_to(&mut given, false);
                output::print(given.render()?)
            }
            What::Manifest => output::print(MANIFEST),
        }
    }
}

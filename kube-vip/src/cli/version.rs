//! `kube-vip version`

use super::output::{self, Format};

/// Print the version
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kube-vip version
  kube-vip version -o json")]
pub(super) struct Version {
    /// How to show it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Version {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let version = env!("CARGO_PKG_VERSION");
        output::print(match self.output {
            Format::Text => format!("kube-vip {version}\n"),
            Format::Json => format!("{}\n", serde_json::json!({ "version": version })),
        })
    }
}

//! `cargo xtask bench`: how fast, as ratios against a floor of the same run.

use anyhow::Result;

use crate::setup::Need;
use crate::show;
use crate::toolchain::ToolchainArgs;

/// Measures the kernel programs and the agent
///
/// Prints a table with medians and spread: nanoseconds per packet of each way through the programs
/// as ratios against a do-nothing program measured in the same run, and what the agent needs at
/// rest. Everything is built with the release profile first.
///
/// Measuring needs root (it loads kernel programs), and a machine with nothing else to do if
/// numbers are to be compared.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask bench
  cargo xtask bench --json > bench.json
  cargo xtask bench failover                 losses and handovers, next to keepalived")]
pub(crate) struct Args {
    #[command(flatten)]
    toolchain: ToolchainArgs,
    /// Machine-readable output on standard output
    #[arg(long)]
    json: bool,
    /// More arguments for the benchmark itself
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let json = args.json.then(|| "--json".to_owned());
    let arguments: Vec<String> = json.into_iter().chain(args.arguments).collect();
    show::become_program("bench", &[Need::Peer], args.toolchain, &arguments)
}

//! `cargo xtask demo`: a virtual IP, answered and balanced before your eyes.

use anyhow::Result;

use crate::show;
use crate::toolchain::ToolchainArgs;

/// Shows three hosts holding a virtual IP and balancing connections
///
/// Makes three hosts and a client as network namespaces on this machine, starts a real agent on each
/// host, and prints what happens as it happens: who answers ARP, how connections spread over the
/// backends, what share of the replies the owner carries. Nothing leaves the namespaces, and all is
/// removed at the end, also after Ctrl-C.
///
/// Builds everything first. Making namespaces and loading kernel programs needs root; who is not
/// root gets everything built and is told the command to run with sudo.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask demo
  cargo xtask demo --keep         leave the lab running; says how to enter it and how to end it")]
pub(crate) struct Args {
    #[command(flatten)]
    toolchain: ToolchainArgs,
    /// Leave the lab running and say how to enter it
    #[arg(long)]
    keep: bool,
    /// More arguments for the demo itself
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let keep = args.keep.then(|| "--keep".to_owned());
    let arguments: Vec<String> = keep.into_iter().chain(args.arguments).collect();
    show::become_program("demo", &[], args.toolchain, &arguments)
}

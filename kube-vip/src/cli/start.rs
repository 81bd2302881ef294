//! `kube-vip start`

use std::path::PathBuf;

use anyhow::Context;

use crate::config::Config;
use crate::{agent, logging};

/// Run the agent on this host, in the foreground
///
/// It takes up changes of the file by itself; a file with a mistake is refused as a whole, with the
/// reason in the log and in `kube-vip status`, while the old one stays in force. SIGTERM or Ctrl-C
/// ends it and leaves the host as it was found; with --keep-on-exit SIGTERM leaves the data plane to
/// the next agent.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  kube-vip start -c /etc/kube-vip/config.yaml
  kube-vip start -c config.yaml --log-level info,kube_vip::announce=debug")]
pub(super) struct Start {
    /// The configuration; `kube-vip sample config` prints one to begin with
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,

    /// SIGTERM leaves programs and connections to the next agent, as `keepOnExit: true` in the file
    #[arg(long)]
    keep_on_exit: bool,

    /// Lines for people or a JSON object per line
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: logging::Format,

    /// error, warn, info, debug or trace, also by module; otherwise as `RUST_LOG` says, or info
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl Start {
    pub(super) fn run(self) -> anyhow::Result<()> {
        logging::init(self.log_format, self.log_level.as_deref())?;
        let config = Config::load(&self.config)?;
        // The work is a few messages a second; packets never come here.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        runtime.block_on(agent::run(&self.config, config, self.keep_on_exit))
    }
}

//! `kube-vip start`

use std::path::PathBuf;

use anyhow::Context;

use super::flags::{ClusterFlags, Flags};
use crate::config::{Given, Key, Origin};
use crate::{agent, logging};

/// Run the agent on this host, in the foreground
///
/// It takes up changes of the file by itself; a file with a mistake is refused as a whole, with the
/// reason in the log and in `kube-vip status`, while the old one stays in force. SIGTERM or Ctrl-C
/// ends it and leaves the host as it was found; with --keep-on-exit SIGTERM leaves the data plane to
/// the next agent.
///
/// Instead of a file, flags and variables can say what to do, as in the old program. Beside a file
/// flags have no effect, and variables override it (`vip_interface`, `vip_address`, `vip_peers`, …).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kube-vip start -c /etc/kube-vip/config.yaml
  kube-vip start -c config.yaml --log-level info,kube_vip::announce=debug
  kube-vip start --singleNode --interface eth0 --vip 192.168.0.100 --lbBindToVip --lbPort 6443 \\
    --lbBackends 192.168.0.1:6444,192.168.0.2:6444")]
pub(super) struct Start {
    /// The configuration; `kube-vip sample config` prints one to begin with
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Leave virtual IPs to somebody else and only balance ports of this host's own addresses; only
    /// with --singleNode
    #[arg(short = 'd', long = "disableVIP", value_name = "BOOL", num_args = 0..=1,
          require_equals = true, default_missing_value = "true")]
    disable_vip: Option<String>,

    /// SIGTERM leaves programs and connections to the next agent, as `keepOnExit: true` in the file
    #[arg(long)]
    keep_on_exit: bool,

    /// Lines for people or a JSON object per line
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: logging::Format,

    /// error, warn, info, debug or trace, also by module; otherwise as `RUST_LOG` says, or info
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,

    #[command(flatten)]
    flags: Flags,

    #[command(flatten)]
    cluster: ClusterFlags,
}

impl Start {
    pub(super) fn run(self) -> anyhow::Result<()> {
        logging::init(self.log_format, self.log_level.as_deref())?;
        let origin = self.origin(|name| std::env::var(name).ok());
        anyhow::ensure!(
            origin.file.is_some() || !origin.given.is_empty(),
            "there is nothing to do: name a configuration with -c (`kube-vip sample config` prints \
             one to begin with), or say with flags what stands in one (`kube-vip start --help`)"
        );
        let config = origin.load()?;
        // The work is a few messages a second; packets never come here.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        runtime.block_on(agent::run(origin, config, self.keep_on_exit))
    }

    /// Where the configuration comes from; `variable` looks one up.
    fn origin(&self, variable: impl Fn(&str) -> Option<String>) -> Origin {
        let mut given = Given::default();
        self.flags.add_to(&mut given, self.config.is_some());
        self.cluster.add_to(&mut given);
        given.add_variables(variable);
        given.add("--disableVIP", Key::NoVip, self.disable_vip.as_deref().unwrap_or_default());
        Origin { file: self.config.clone(), given }
    }
}

//! `kube-vip man`

use anyhow::Context;

use super::output;

/// Print a manual page
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kube-vip man | man -l -
  kube-vip man start > /usr/local/share/man/man8/kube-vip-start.8")]
pub(super) struct Man {
    /// The page of this command; otherwise of the whole program
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

impl Man {
    pub(super) fn run(&self, cli: &clap::Command) -> anyhow::Result<()> {
        let page = match &self.command {
            None => cli.clone(),
            Some(name) => {
                let found = cli.find_subcommand(name);
                let known = || cli.get_subcommands().map(clap::Command::get_name);
                let command = found.with_context(|| {
                    let known = known().collect::<Vec<_>>().join(", ");
                    format!("there is no command {name:?}; there are {known}")
                })?;
                command
                    .clone()
                    .display_name(format!("kube-vip-{name}"))
                    .bin_name(format!("kube-vip {name}"))
            }
        };
        let mut roff = Vec::new();
        let source = concat!("kube-vip ", env!("CARGO_PKG_VERSION"));
        clap_mangen::Man::new(page).section("8").source(source).render(&mut roff)?;
        output::print(roff)
    }
}

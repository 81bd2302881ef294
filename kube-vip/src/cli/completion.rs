//! `kube-vip completion`

use clap_complete::Shell;

use super::output;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  source <(kube-vip completion bash)
  kube-vip completion bash > /etc/bash_completion.d/kube-vip
  kube-vip completion zsh > \"${fpath[1]}/_kube-vip\"
  kube-vip completion fish > ~/.config/fish/completions/kube-vip.fish")]
pub(super) struct Completion {
    /// The shell
    shell: Shell,
}

impl Completion {
    pub(super) fn run(&self, cli: &mut clap::Command) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, cli, "kube-vip", &mut script);
        output::print(script)
    }
}

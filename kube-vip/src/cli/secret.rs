//! `kube-vip secret`

use anyhow::Context as _;
use kube_vip_quorum::transport::Secret;

use super::output;

/// Print a new secret for the hosts to share
///
/// It protects what agents say to each other: whoever does not know it learns nothing and changes
/// nothing. Write it under `secret` in the configuration of each host, or into a file of its own that
/// `secretFile` names.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  kube-vip secret > /etc/kube-vip/secret   The same file on all hosts")]
pub(super) struct SecretCommand {}

impl SecretCommand {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let secret = Secret::random().context("the kernel gives no random numbers")?;
        output::print(secret.text() + "\n")
    }
}

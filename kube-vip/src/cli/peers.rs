//! `kube-vip peers`

use std::fmt::Write as _;

use anyhow::Context as _;
use kube_vip_quorum::node::Order;

use super::output::{self, Format};
use crate::publish::{self, QuorumHostStatus, QuorumRole, QuorumStatus};

/// Show the hosts that agree on who owns the virtual addresses, let one join, or remove one
///
/// A host also joins when it is added to `remotePeers` in the others' files, and is removed when it is
/// taken out of one. Each change is agreed on by a majority of the old and of the new hosts; nothing
/// loses its owner for it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kube-vip peers list
  kube-vip peers add n4            Let the agent of n4 join; its own file names the others
  kube-vip peers remove n4         What n4 owns moves first
  kube-vip peers list -o json")]
pub(super) struct Peers {
    #[command(subcommand)]
    what: What,

    /// Name of the agent, `instance` in its configuration
    #[arg(long, value_name = "NAME", default_value = "default", global = true)]
    instance: String,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show who takes part
    List {
        /// How to show it
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Let a host join, though no file names it
    Add {
        /// Its id, `localPeer.id` in its file
        #[arg(value_name = "ID")]
        host: String,
    },
    /// Remove a host, for good: it stays outside until it is added again
    Remove {
        /// Its id
        #[arg(value_name = "ID")]
        host: String,
    },
}

impl Peers {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let (dir, instance) = (publish::run_dir(), &self.instance);
        match self.what {
            What::List { output } => {
                let status = publish::fetch(&dir, instance)?;
                let quorum = status.quorum.context(
                    "the hosts do not elect among themselves here (`election: file`); \
                     `kube-vip status` shows the peers of the file",
                )?;
                output::print(match output {
                    Format::Text => text(&quorum),
                    Format::Json => serde_json::to_string_pretty(&quorum)? + "\n",
                })
            }
            What::Add { host } => {
                publish::order(&dir, instance, Order::Admit { host: host.clone() })?;
                output::print(format!(
                    "{host} may join: start its agent with these hosts under remotePeers\n"
                ))
            }
            What::Remove { host } => {
                let status = publish::fetch(&dir, instance)?;
                // What it owns moves first, so that nothing has to run out.
                let itself =
                    status.quorum.is_some_and(|it| it.hosts.iter().any(|it| it.id == host));
                if itself {
                    let drain = Order::Drain { host: host.clone(), drained: true };
                    publish::order(&dir, instance, drain)?;
                    super::drain::emptied(&dir, instance, &host)?;
                }
                publish::order(&dir, instance, Order::Remove { host: host.clone() })?;
                output::print(format!("{host} takes no part any more\n"))
            }
        }
    }
}

fn text(quorum: &QuorumStatus) -> String {
    let mut text = String::new();
    let width = quorum.hosts.iter().map(|host| host.id.len()).max().unwrap_or(0);
    for host in &quorum.hosts {
        let QuorumHostStatus { id, addresses, role, weight, drained, assigned } = host;
        let role = match role {
            QuorumRole::Leader => "leads  ",
            QuorumRole::Voter => "votes  ",
            QuorumRole::Learner => "follows",
            QuorumRole::Outside => "outside",
        };
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let _ = write!(text, "{id:width$}  {role}  {}", addresses.join(" "));
        if *weight != 1 {
            let _ = write!(text, "  weight {weight}");
        }
        if *drained {
            text.push_str("  drained");
        }
        if !assigned.is_empty() {
            let all: Vec<_> = assigned.iter().map(ToString::to_string).collect();
            let _ = write!(text, "  has {}", all.join(" "));
        }
        text.push('\n');
    }
    for stranger in &quorum.strangers {
        let _ = writeln!(text, "{stranger:width$}  in this host's file or taking part, not both");
    }
    if let Some(trouble) = &quorum.trouble {
        let _ = writeln!(text, "{trouble}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_part_is_told_line_by_line() {
        let host = |id: &str, role, drained| QuorumHostStatus {
            id: id.to_owned(),
            addresses: vec![([10, 77, 0, 11], 10000).into()],
            role,
            weight: if drained { 2 } else { 1 },
            drained,
            assigned: if drained { vec![] } else { vec![[10, 77, 0, 100].into()] },
        };
        let quorum = QuorumStatus {
            role: QuorumRole::Leader,
            leader: Some("n1".to_owned()),
            hosts: vec![
                host("n1", QuorumRole::Leader, false),
                host("host2", QuorumRole::Voter, true),
            ],
            changing: false,
            differing: vec![],
            strangers: vec!["n4".to_owned()],
            trouble: None,
        };
        let expected = "\
n1     leads    10.77.0.11:10000  has 10.77.0.100
host2  votes    10.77.0.11:10000  weight 2  drained
n4     in this host's file or taking part, not both
";
        assert_eq!(text(&quorum), expected);
    }
}

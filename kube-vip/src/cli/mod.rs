//! What the user types.

mod cleanup;
mod completion;
mod drain;
mod flags;
mod man;
mod move_vip;
mod output;
mod peers;
mod sample;
mod secret;
mod start;
mod status;
mod version;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// A virtual IP and load balancer for Kubernetes and for plain hosts.
///
/// One of several hosts owns a virtual IP and answers for it; all of them balance what arrives
/// there over backends on any of them, in the kernel, by XDP programs.
#[derive(Debug, Parser)]
#[command(name = "kube-vip", version, propagate_version = false, max_term_width = 100)]
#[command(after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  kube-vip sample config > config.yaml   A file to begin with: set addresses and interface in it
  kube-vip start -c config.yaml          Run in the foreground until Ctrl-C
  kube-vip status                        Who owns the virtual IP, which backends get what";

#[derive(Debug, Subcommand)]
enum Command {
    Start(Box<start::Start>),
    Status(status::StatusCommand),
    Peers(peers::Peers),
    Move(move_vip::Move),
    Drain(drain::Drain),
    Cleanup(cleanup::Cleanup),
    Sample(sample::Sample),
    Secret(secret::SecretCommand),
    Version(version::Version),
    Completion(completion::Completion),
    Man(man::Man),
}

/// Reads the arguments and does what they say.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Start(command) => command.run(),
        Command::Status(command) => command.run(),
        Command::Peers(command) => command.run(),
        Command::Move(command) => command.run(),
        Command::Drain(command) => command.run(),
        Command::Cleanup(command) => command.run(),
        Command::Sample(command) => command.run(),
        Command::Secret(command) => command.run(),
        Command::Version(command) => command.run(),
        Command::Completion(command) => command.run(&mut Cli::command()),
        Command::Man(command) => command.run(&Cli::command()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_by_example() {
        for command in Cli::command().get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Example"), "{}", command.get_name());
        }
    }

    #[test]
    fn arguments_are_understood() {
        for line in [
            "start -c f",
            "start --config f --log-format json --log-level debug",
            "start --arp --singleNode=false --vip 10.0.0.1 --localPeer a:10.0.0.2:1 -d",
            "start --remotePeers b:10.0.0.3:1 --remotePeers c:10.0.0.4:1 --lbBackends 10.0.0.5:80",
            "start --kubeConfig /etc/kubernetes/admin.conf --inCluster --leaderElection=true",
            "sample config --vip 10.0.0.1 --lbPort=6443",
            "sample manifest",
            "status",
            "status -o wide --instance x",
            "cleanup",
            "secret",
            "cleanup --all -o json",
            "cleanup --instance x",
            "peers list -o json",
            "peers add n4 --instance x",
            "peers remove n4",
            "move 10.0.0.1 n2",
            "drain",
            "drain n2 --undo -o json",
            "sample config",
            "version -o json",
            "completion bash",
            "man",
            "man start",
        ] {
            let words = std::iter::once("kube-vip").chain(line.split(' '));
            let parsed = Cli::try_parse_from(words);
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
        for line in [
            "",
            "start --arp true",
            "start --nonsense",
            "sample",
            "status -o xml",
            "cleanup --all --instance x",
            "completion",
            "peers",
            "move 10.0.0.1",
            "move n2 10.0.0.1",
            "man nothing",
        ] {
            let words = std::iter::once("kube-vip").chain(line.split_whitespace());
            let parsed = Cli::try_parse_from(words);
            let refused = match parsed {
                Ok(Cli { command: Command::Man(man) }) => man.run(&Cli::command()).is_err(),
                other => other.is_err(),
            };
            assert!(refused, "{line}");
        }
    }
}

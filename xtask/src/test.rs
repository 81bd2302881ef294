//! `cargo xtask test`: everything that can be tested on one machine.

use std::io::{IsTerminal, Read, Write};
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::build::{self, Profile};
use crate::progress::Step;
use crate::setup::{self, Need};
use crate::toolchain::ToolchainArgs;
use crate::{build_ebpf, privilege};

/// The packages whose tests make namespaces or load programs.
const ROOT_PACKAGES: [&str; 2] = ["kube-vip-tests", "kube-vip-model"];

/// Runs all tests: unit, property, packet and lab tests
///
/// Sets up what is missing, compiles the kernel programs and the agent, then runs `cargo test` for
/// the workspace. Packet tests send packets through the real programs in the kernel; lab tests make
/// hosts as network namespaces and run real agents in them. Both need root, so this does. Without
/// root, `--unit` runs the rest.
///
/// The test runner's output is shown as it comes; the last line is `N passed, M failed`. The exit
/// code is 0 only if all passed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask test                           everything (root)
  cargo xtask test arp                       tests with `arp` in their name (root)
  cargo xtask test -p kube-vip-tests         one package (root)
  cargo xtask test arp -- --nocapture        arguments after -- are the test runner's
  cargo xtask test --packets 20000000 -p kube-vip-model
                                             programs against model, for long (root)
  cargo xtask test --unit                    what needs neither root nor kernel programs")]
pub(crate) struct Args {
    #[command(flatten)]
    toolchain: ToolchainArgs,
    /// Only what needs neither root nor the kernel programs nor the lab's tools
    #[arg(long)]
    unit: bool,
    /// How many packets the programs are compared with their reference model over; 1,000,000 unless
    /// said
    #[arg(long, value_name = "N")]
    packets: Option<u64>,
    /// Arguments for `cargo test`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "CARGO TEST ARGS")]
    arguments: Vec<String>,
}

/// Runs the tests; says whether all passed.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let mut cargo = build::cargo("test");
    cargo.arg("--no-fail-fast").args(selection(args));
    if !args.unit {
        privilege::require_lab(
            "running packet and lab tests",
            &format!(
                "Run everything with root:\n{}\nor what needs no root:\n  cargo xtask test --unit",
                privilege::with_sudo("cargo xtask test")
            ),
        )?;
        setup::ensure(&[Need::Toolchain, Need::Linker, Need::Lab], args.toolchain)?;
        let objects = build_ebpf::ensure(args.toolchain)?;
        // The same selection as the tests', so that nothing is compiled twice.
        let agent = build::agent(Profile::Debug, &["--workspace"])?;
        cargo.env("KUBE_VIP_BIN", agent).env("KUBE_VIP_BPF_DIR", objects.dir);
    }
    if let Some(packets) = args.packets {
        cargo.env("KUBE_VIP_MODEL_PACKETS", packets.to_string());
    }
    cargo.args(&args.arguments);

    let step = Step::start("testing", "cargo test and its output follow");
    let mut summary = Summary::default();
    let status = run_relayed(cargo, &mut summary)?;
    step.done("tested");
    if !status.success() && summary.suites == 0 {
        bail!("cargo test ran no test ({status}); its messages are above");
    }
    if !status.success() && summary.failed == 0 {
        eprintln!("    a test program ended without saying so (see above); counted as one failure");
        summary.failed = 1;
    }
    if summary.passed + summary.failed == 0 {
        bail!("no test ran; does `{}` match the name of any?", args.arguments.join(" "));
    }
    println!("{} passed, {} failed", summary.passed, summary.failed);
    Ok(summary.failed == 0)
}

/// Which packages: all, unless the arguments name some.
fn selection(args: &Args) -> Vec<&'static str> {
    let ours = args.arguments.iter().take_while(|arg| *arg != "--");
    let names_packages = ours.into_iter().any(|arg| {
        arg == "-p" || arg == "--package" || arg.starts_with("--package=") || arg.starts_with("-p=")
    });
    match (names_packages, args.unit) {
        (true, _) => vec![],
        (false, false) => vec!["--workspace"],
        (false, true) => {
            let [lab, model] = ROOT_PACKAGES;
            vec!["--workspace", "--exclude", lab, "--exclude", model]
        }
    }
}

/// The sums of all `test result:` lines.
#[derive(Debug, Default, PartialEq, Eq)]
struct Summary {
    suites: u32,
    passed: u32,
    failed: u32,
}

impl Summary {
    fn line(&mut self, line: &str) {
        let Some(result) = line.trim().strip_prefix("test result:") else { return };
        self.suites += 1;
        for part in result.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let count = words.next().and_then(|word| word.parse::<u32>().ok());
            match (count, words.next()) {
                (Some(count), Some("passed")) => self.passed += count,
                (Some(count), Some("failed")) => self.failed += count,
                _ => {}
            }
        }
    }
}

/// Runs the tests, passing their output on and adding up their results.
///
/// Standard output and standard error are one stream, or cargo's headings land in the middle of
/// the test runner's lines. A process that a test left behind holds the stream open; it must not
/// hold us.
fn run_relayed(mut cargo: Command, summary: &mut Summary) -> Result<ExitStatus> {
    let (mut output, input) = std::io::pipe().context("cannot make a pipe")?;
    if std::io::stdout().is_terminal() {
        cargo.env("CARGO_TERM_COLOR", "always");
    }
    cargo.stdout(input.try_clone()?).stderr(input);
    let mut child = cargo.spawn().context("cannot start cargo test")?;
    // The command holds the pipe's other end; only the tests may.
    drop(cargo);
    let (sender, pieces) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(count @ 1..) = output.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    let mut relay = Relay::default();
    loop {
        match pieces.recv_timeout(Duration::from_secs(1)) {
            Ok(piece) => relay.piece(&piece, &mut std::io::stdout().lock(), summary)?,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                if child.try_wait()?.is_some() {
                    eprintln!("    a process started by the tests is still running");
                    break;
                }
            }
        }
    }
    Ok(child.wait()?)
}

/// Output on its way through, shown as it comes and not by lines: a test's name is there before
/// its result.
#[derive(Debug, Default)]
struct Relay {
    line: Vec<u8>,
}

impl Relay {
    fn piece(&mut self, piece: &[u8], to: &mut impl Write, summary: &mut Summary) -> Result<()> {
        to.write_all(piece).and_then(|()| to.flush()).context("cannot write the tests' output")?;
        for byte in piece {
            if *byte == b'\n' {
                summary.line(&String::from_utf8_lossy(&self.line));
                self.line.clear();
            } else {
                self.line.push(*byte);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Args, Relay, Summary, selection};
    use crate::toolchain::ToolchainArgs;

    const OUTPUT: &str = "\
running 2 tests
test a ... ok
test b ... FAILED
test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.00s

test result: ok. 40 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 1.20s
";

    #[test]
    fn results_are_summed_and_the_output_is_passed_on() {
        let (mut shown, mut summary, mut relay) =
            (Vec::new(), Summary::default(), Relay::default());
        for piece in OUTPUT.as_bytes().chunks(7) {
            relay.piece(piece, &mut shown, &mut summary).unwrap();
        }
        assert_eq!(shown, OUTPUT.as_bytes());
        assert_eq!(summary, Summary { suites: 2, passed: 41, failed: 1 });
    }

    #[test]
    fn packages_named_by_the_developer_replace_the_workspace() {
        let args = |unit, words: &str| Args {
            toolchain: ToolchainArgs::default(),
            unit,
            packets: None,
            arguments: words.split_whitespace().map(str::to_owned).collect(),
        };
        assert_eq!(selection(&args(false, "arp")), ["--workspace"]);
        assert_eq!(selection(&args(false, "arp -- -p")), ["--workspace"]);
        assert_eq!(
            selection(&args(true, "")),
            ["--workspace", "--exclude", "kube-vip-tests", "--exclude", "kube-vip-model"]
        );
        assert!(selection(&args(true, "-p xtask")).is_empty());
    }
}

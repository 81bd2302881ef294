//! `cargo xtask test`: everything that can be tested on one machine.

use std::io::{Read, Write};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::build::{self, Profile};
use crate::progress::Step;
use crate::setup::{self, Need};
use crate::toolchain::ToolchainArgs;
use crate::{build_ebpf, privilege};

/// The package whose tests make namespaces and load programs.
const LAB_PACKAGE: &str = "kube-vip-tests";

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
  cargo xtask test --unit                    what needs neither root nor kernel programs")]
pub(crate) struct Args {
    #[command(flatten)]
    toolchain: ToolchainArgs,
    /// Only what needs neither root nor the kernel programs nor the lab's tools
    #[arg(long)]
    unit: bool,
    /// Arguments for `cargo test`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "CARGO TEST ARGS")]
    arguments: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
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
    cargo.args(&args.arguments);

    let step = Step::start("testing", "cargo test and its output follow");
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cannot start cargo test")?;
    let mut summary = Summary::default();
    if let Some(stdout) = child.stdout.take() {
        relay(stdout, &mut std::io::stdout().lock(), &mut summary)?;
    }
    let status = child.wait()?;
    step.done("tested");
    if !status.success() && summary.suites == 0 {
        bail!("cargo test ran no test ({status}); its messages are above");
    }
    if !status.success() && summary.failed == 0 {
        eprintln!("    a test program ended without saying so (see above); counted as one failure");
        summary.failed = 1;
    }
    println!("{} passed, {} failed", summary.passed, summary.failed);
    if summary.failed > 0 {
        bail!("tests failed");
    }
    Ok(())
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
        (false, true) => vec!["--workspace", "--exclude", LAB_PACKAGE],
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

/// Passes output on as it comes, not by lines: a test's name is shown before its result.
fn relay(mut from: impl Read, to: &mut impl Write, summary: &mut Summary) -> Result<()> {
    let mut buffer = [0; 8192];
    let mut line = Vec::new();
    loop {
        let count = from.read(&mut buffer).context("cannot read the tests' output")?;
        if count == 0 {
            break;
        }
        to.write_all(&buffer[..count])?;
        to.flush()?;
        for byte in &buffer[..count] {
            if *byte == b'\n' {
                summary.line(&String::from_utf8_lossy(&line));
                line.clear();
            } else {
                line.push(*byte);
            }
        }
    }
    summary.line(&String::from_utf8_lossy(&line));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Args, Summary, relay, selection};
    use crate::toolchain::ToolchainArgs;

    const OUTPUT: &str = "\
running 2 tests
test a ... ok
test b ... FAILED
test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.00s

test result: ok. 40 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 1.20s
";

    /// Hands out its text in pieces of seven bytes.
    struct Pieces<'a>(&'a [u8]);

    impl std::io::Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let count = self.0.len().min(7);
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn results_are_summed_and_the_output_is_passed_on() {
        let (mut shown, mut summary) = (Vec::new(), Summary::default());
        relay(Pieces(OUTPUT.as_bytes()), &mut shown, &mut summary).unwrap();
        assert_eq!(shown, OUTPUT.as_bytes());
        assert_eq!(summary, Summary { suites: 2, passed: 41, failed: 1 });
    }

    #[test]
    fn packages_named_by_the_developer_replace_the_workspace() {
        let args = |unit, words: &str| Args {
            toolchain: ToolchainArgs::default(),
            unit,
            arguments: words.split_whitespace().map(str::to_owned).collect(),
        };
        assert_eq!(selection(&args(false, "arp")), ["--workspace"]);
        assert_eq!(selection(&args(false, "arp -- -p")), ["--workspace"]);
        assert_eq!(selection(&args(true, "")), ["--workspace", "--exclude", "kube-vip-tests"]);
        assert!(selection(&args(true, "-p xtask")).is_empty());
    }
}

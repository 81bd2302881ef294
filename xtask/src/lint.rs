//! `cargo xtask lint`: what a reviewer should not have to say.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::progress::{Step, note};
use crate::setup::{self, Need, Tools};
use crate::toolchain::{Kind, ToolchainArgs};
use crate::{build, build_ebpf, child, lint_tables, paths};

/// Checks form, lints and licences of both workspaces; warnings are errors
///
/// Runs, for the user-space workspace and for the eBPF workspace: rustfmt, and clippy with warnings
/// denied (for the programs with the clippy of the compiler that builds them, for their own
/// target). Then compares the lint tables of both, and runs cargo-deny (licences, banned and
/// duplicate crates, sources) if it is installed. Known vulnerabilities are looked up only with
/// --advisories, because that needs the network.
///
/// All checks run even if one fails; the exit code is 0 only if none did. Needs no root,
/// except to install the clippy package of a distribution's compiler.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask lint
  cargo xtask lint --fix            let rustfmt repair what it can
  cargo xtask lint --advisories     also look for known vulnerabilities")]
pub(crate) struct Args {
    #[command(flatten)]
    toolchain: ToolchainArgs,
    /// Format instead of complaining about the format
    #[arg(long)]
    fix: bool,
    /// Fetch the database of known vulnerabilities and check all dependencies against it
    #[arg(long)]
    advisories: bool,
}

/// A check says `ok`, or why it checked nothing.
type Check<'a> = (&'a str, &'a str, Box<dyn Fn() -> Result<&'static str> + 'a>);

const OK: &str = "ok";

pub(crate) fn run(args: &Args) -> Result<()> {
    let needs = [Need::Toolchain, Need::Linker, Need::BpfClippy];
    let tools = setup::ensure(&needs, args.toolchain)?;
    let checks: [Check<'_>; 6] = [
        ("lint tables", "both workspaces must have the same", Box::new(tables)),
        ("rustfmt", "user space", Box::new(|| format(args.fix, "Cargo.toml"))),
        ("rustfmt", "kernel programs", Box::new(|| format(args.fix, "kube-vip-ebpf/Cargo.toml"))),
        ("clippy", "user space, all targets", Box::new(clippy)),
        ("clippy", "kernel programs", Box::new(|| bpf_clippy(&tools))),
        ("cargo-deny", "licences, bans, sources", Box::new(|| deny(args.advisories))),
    ];
    let mut failed = Vec::new();
    for (name, what, check) in checks {
        let step = Step::start(name, what);
        match check() {
            Ok(result) => step.done(result),
            Err(error) => {
                step.done(&format!("FAILED: {error:#}"));
                failed.push(format!("{name} ({what})"));
            }
        }
    }
    if !failed.is_empty() {
        bail!("lint failed: {}", failed.join(", "));
    }
    Ok(())
}

fn tables() -> Result<&'static str> {
    let read = |name: &str| {
        let path = paths::root().join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let differences =
        lint_tables::differences(&read("Cargo.toml")?, &read("kube-vip-ebpf/Cargo.toml")?);
    if !differences.is_empty() {
        bail!("the lint tables differ; make them equal:\n      {}", differences.join("\n      "));
    }
    Ok(OK)
}

fn format(fix: bool, manifest: &str) -> Result<&'static str> {
    let mut cargo = child::cargo();
    cargo.args(["fmt", "--all", "--manifest-path", manifest]);
    if !fix {
        cargo.arg("--check");
    }
    child::stream(&mut cargo, "cargo fmt")
        .context("`cargo xtask lint --fix` repairs what rustfmt shows above")?;
    Ok(OK)
}

fn clippy() -> Result<&'static str> {
    let mut cargo = build::cargo("clippy");
    cargo.args(["--workspace", "--all-targets", "--", "-D", "warnings"]);
    child::stream(&mut cargo, "cargo clippy").map(|()| OK)
}

fn bpf_clippy(tools: &Tools) -> Result<&'static str> {
    let toolchain = tools.toolchain()?;
    let mut cargo = build_ebpf::bpf_cargo(tools, "clippy")?;
    // cargo-clippy and its driver must be of the compiler that made core's metadata.
    cargo.env("CARGO", &toolchain.cargo);
    let bin = toolchain.rustc.with_file_name("");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&path)))?;
    cargo.env("PATH", path).args(["--release", "--lib", "--bins", "--", "-D", "warnings"]);
    if toolchain.kind == Kind::Nightly {
        note("with a nightly: newer lints than the compiler of the packages has");
    }
    child::stream(&mut cargo, "cargo clippy for the kernel programs").map(|()| OK)
}

fn deny(advisories: bool) -> Result<&'static str> {
    let there = paths::find_program("cargo-deny").is_some();
    if !there {
        note("cargo-deny is not installed: nobody looked at licences and bans of dependencies.");
        note("To install it (takes some minutes): cargo install --locked cargo-deny");
        return Ok("NOT CHECKED");
    }
    let mut checks = vec!["bans", "licenses", "sources"];
    if advisories {
        checks.push("advisories");
    }
    for manifest in ["Cargo.toml", "kube-vip-ebpf/Cargo.toml"] {
        let mut cargo: Command = child::cargo();
        cargo
            .args(["deny", "--all-features", "--manifest-path", manifest, "--config"])
            .arg(paths::root().join("deny.toml"))
            .args(["check", "--hide-inclusion-graph"])
            .args(&checks);
        child::stream(&mut cargo, &format!("cargo deny for {manifest}"))?;
    }
    Ok(OK)
}

//! `cargo xtask build`: the agent with the kernel programs inside.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::progress::{Step, size};
use crate::toolchain::ToolchainArgs;
use crate::{build_ebpf, child, paths};

/// Builds the agent with the kernel programs inside
///
/// Compiles the kernel programs if they changed (see `cargo xtask build-ebpf --help`), then the
/// agent, and leaves one program at target/debug/kube-vip or target/release/kube-vip. The last line
/// on standard output is its path. Building needs no root; starting the program does.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask build
  cargo xtask build --release && sudo target/release/kube-vip --help")]
pub(crate) struct Args {
    #[command(flatten)]
    toolchain: ToolchainArgs,
    /// Optimised and small, for use; without it, quick to build, for development
    #[arg(long)]
    release: bool,
}

/// Which build of the user-space programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    Debug,
    Release,
}

impl Profile {
    fn directory(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    build_ebpf::ensure(args.toolchain)?;
    let profile = if args.release { Profile::Release } else { Profile::Debug };
    let program = agent(profile, &["--package", "kube-vip"])?;
    println!("{}", program.display());
    Ok(())
}

/// Builds the agent; `selection` says of which packages cargo unites the features.
pub(crate) fn agent(profile: Profile, selection: &[&str]) -> Result<PathBuf> {
    program("kube-vip", profile, selection, "the agent, with the kernel programs inside")
}

/// Builds one program of the workspace and returns its path.
pub(crate) fn program(
    name: &str,
    profile: Profile,
    selection: &[&str],
    why: &str,
) -> Result<PathBuf> {
    let step = Step::start(&format!("building {name}, {} profile", profile.directory()), why);
    let mut cargo = cargo("build");
    cargo.args(selection).args(["--bin", name]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    child::stream(&mut cargo, &format!("building {name}"))?;
    let path = paths::target().join(profile.directory()).join(name);
    let bytes = fs::metadata(&path)
        .with_context(|| format!("cargo built {name}, but it is not at {}", path.display()))?
        .len();
    step.done(&format!("{} {}", paths::shown(&path), size(bytes)));
    Ok(path)
}

/// A cargo command for the user-space workspace that leaves its results where we say they are.
pub(crate) fn cargo(command: &str) -> Command {
    let mut cargo = child::cargo();
    cargo
        .arg(command)
        .arg("--target-dir")
        .arg(paths::target())
        .env_remove("CARGO_BUILD_TARGET")
        .env_remove("KUBE_VIP_EBPF_OBJECT");
    cargo
}

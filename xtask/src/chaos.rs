//! `cargo xtask chaos`: random faults on real agents.

use anyhow::{Context, Result, ensure};

use crate::build::{self, Profile};
use crate::progress::Step;
use crate::setup::{self, Need};
use crate::toolchain::ToolchainArgs;
use crate::{build_ebpf, mutation, privilege};

/// Where the sabotages are.
pub(crate) const SABOTAGE: &str = "tests/chaos/sabotage";

/// Lets random faults happen to three hosts that elect, and looks for two owners
///
/// Agents are killed, frozen and ended, cables pulled, hosts cut off from each other, in one direction
/// too, disks filled and lost. Meanwhile a host asks every 10 ms who owns each virtual address, the
/// ownerships in all hosts' maps are recorded, and clients check every byte that they transfer. The
/// seed determines which faults come in which order.
///
/// With --sabotage the agents are built with something broken in them (tests/chaos/sabotage), and the
/// exit code is 0 only if two owners were found.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask chaos
  cargo xtask chaos --minutes 30 --seed 42
  cargo xtask chaos --sabotage quorum        must find two owners")]
pub(crate) struct Args {
    #[command(flatten)]
    toolchain: ToolchainArgs,
    /// For how long
    #[arg(long, value_name = "N", default_value_t = 3.0)]
    minutes: f64,
    /// Which faults come; drawn and printed if not said
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Step the wall clock of this machine by hours, too, and back
    #[arg(long)]
    step_clock: bool,
    /// Break something on purpose first
    #[arg(long, value_name = "NAME")]
    sabotage: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<bool> {
    privilege::require_lab(
        "running the lab",
        &format!("Run it with root:\n{}", privilege::with_sudo("cargo xtask chaos")),
    )?;
    let tools = setup::ensure(&[Need::Toolchain, Need::Linker, Need::Lab], args.toolchain)?;
    let objects = build_ebpf::ensure(args.toolchain)?;
    let agent = match &args.sabotage {
        None => build::agent(Profile::Debug, &["--workspace"])?,
        Some(name) => {
            let all = mutation::all(SABOTAGE)?;
            let names: Vec<_> = all.iter().map(|mutation| mutation.name.as_str()).collect();
            let found = all.iter().find(|mutation| mutation.name == *name);
            let found = found.with_context(|| {
                format!("no sabotage is called {name:?}; there are {}", names.join(", "))
            })?;
            let step = Step::start(&format!("building with {name}"), &found.what);
            let agent = found.build_agent(&tools)?;
            step.done("built");
            agent
        }
    };
    let drawn = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let seed = args.seed.unwrap_or(drawn % 100_000);
    let mut cargo = build::cargo("test");
    cargo
        .args(["--workspace", "--test", "chaos", "never_two_owners", "--", "--nocapture"])
        .env("KUBE_VIP_BIN", agent)
        .env("KUBE_VIP_BPF_DIR", objects.dir)
        .env("KUBE_VIP_CHAOS_MINUTES", args.minutes.to_string())
        .env("KUBE_VIP_CHAOS_SEED", seed.to_string());
    if args.step_clock {
        cargo.env("KUBE_VIP_CHAOS_STEP_CLOCK", "1");
    }
    if args.sabotage.is_none() {
        return Ok(cargo.status().context("cannot start cargo test")?.success());
    }
    let output = cargo.output().context("cannot start cargo test")?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let found = text.lines().find(|line| {
        line.contains("two owners for") || line.contains("two hosts answered one question")
    });
    ensure!(found.is_some() || output.status.success(), "it ended for another reason:\n{text}");
    match found {
        Some(line) => println!("found: {line}"),
        None => println!("NOT FOUND in {} minutes, seed {seed}", args.minutes),
    }
    Ok(found.is_some())
}

//! `cargo xtask mutants`: whether the differential test finds what is broken on purpose.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::mutation::{self, Mutation};
use crate::progress::Step;
use crate::setup::{self, Need};
use crate::toolchain::ToolchainArgs;
use crate::{build, build_ebpf, privilege};

/// Where the mutations are.
pub(crate) const MUTATIONS: &str = "tests/model/mutations";

/// Breaks the kernel programs on purpose and looks whether the model finds it
///
/// Each file in tests/model/mutations/ names a line of the programs and what to put in its place.
/// For each, a copy of the sources is changed, compiled, and compared with the reference model as
/// `cargo xtask test` does. First the programs as they are, which must agree.
///
/// The exit code is 0 only if every mutation was found. Loading programs needs root. Each mutation
/// takes about a minute.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask mutants
  cargo xtask mutants checksum               those with `checksum` in their name
  cargo xtask mutants --packets 5000000")]
pub(crate) struct Args {
    #[command(flatten)]
    toolchain: ToolchainArgs,
    /// Most packets that are spent on one mutation
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    packets: u64,
    /// Only mutations with one of these in their name
    names: Vec<String>,
}

/// What the differential test says of an object.
enum Found {
    /// A difference, after so many packets.
    After(u64),
    /// None.
    Nothing,
    /// It was never compared: it does not compile, or the verifier refuses it. What was said.
    Unjudged(String),
}

pub(crate) fn run(args: &Args) -> Result<bool> {
    privilege::require_lab(
        "comparing the kernel programs with the model",
        &format!("Run it with root:\n{}", privilege::with_sudo("cargo xtask mutants")),
    )?;
    let tools = setup::ensure(&[Need::Toolchain, Need::Linker], args.toolchain)?;
    let objects = build_ebpf::ensure(args.toolchain)?;
    let all = mutation::all(MUTATIONS)?;
    let named = |mutation: &&Mutation| {
        args.names.is_empty() || args.names.iter().any(|name| mutation.name.contains(name))
    };
    let chosen: Vec<&Mutation> = all.iter().filter(named).collect();
    ensure!(!chosen.is_empty(), "no mutation has a name like {:?}", args.names);
    let step = Step::start("comparing", "the programs as they are must agree with the model");
    match compare(&objects.dir, args.packets.min(100_000))? {
        Found::Nothing => step.done("they do"),
        Found::After(packets) => {
            bail!("the programs as they are differ from the model after {packets} packets")
        }
        Found::Unjudged(said) => bail!("the test ended without a comparison:\n{said}"),
    }

    let (mut missed, mut unjudged) = (0, Vec::new());
    let mut table = Vec::new();
    for mutation in chosen {
        let step = Step::start(&mutation.name, &mutation.what);
        let object = mutation.compile(&tools)?;
        let result = match compare(&object, args.packets)? {
            Found::After(packets) => format!("found after {packets} packets"),
            Found::Nothing => {
                missed += 1;
                format!("NOT FOUND in {} packets", args.packets)
            }
            Found::Unjudged(said) => {
                unjudged.push(format!("{}: {said}", mutation.name));
                "NOT JUDGED: no comparison".to_owned()
            }
        };
        step.done(&result);
        table.push(format!("{:<24} {result:<32} {}", mutation.name, mutation.what));
    }
    table.iter().for_each(|line| println!("{line}"));
    unjudged.iter().for_each(|said| println!("{said}"));
    let unjudged = unjudged.len();
    let found = table.len() - missed - unjudged;
    println!("{found} found, {missed} not found, {unjudged} not judged");
    Ok(missed + unjudged == 0)
}

fn compare(objects: &Path, packets: u64) -> Result<Found> {
    let mut cargo: Command = build::cargo("test");
    cargo
        .args(["--package", "kube-vip-model", "--test", "differential", "programs_do"])
        .env("KUBE_VIP_BPF_DIR", objects)
        .env("KUBE_VIP_MODEL_PACKETS", packets.to_string())
        .env("KUBE_VIP_MODEL_SHRINK", "0");
    let output = cargo.output().context("cannot start cargo test")?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    if output.status.success() {
        return Ok(Found::Nothing);
    }
    let after = text.split("model and programs differ in sequence ").nth(1);
    let after = after.and_then(|text| text.split(", after ").nth(1)?.split(' ').next());
    match after.and_then(|number| number.parse().ok()) {
        Some(packets) => Ok(Found::After(packets)),
        None => Ok(Found::Unjudged(text.into_owned())),
    }
}

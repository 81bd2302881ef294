//! `cargo xtask build-ebpf`: compiles the kernel programs.

use std::env::consts::ARCH;
use std::fs;
use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::fingerprint::Fingerprint;
use crate::progress::{Step, note, size};
use crate::setup::{self, Need};
use crate::toolchain::{BPF_TARGET, Kind, ToolchainArgs};
use crate::{child, paths};

/// The instruction set: v3 has 32-bit arithmetic and jumps, and every kernel we support knows it.
/// rustc hands it on to bpf-linker as `--cpu`, which may be given only once.
const CPU: &str = "v3";

/// What bpf-linker is told besides: tune the generated code here. `--btf` makes the types of maps
/// and functions, for bpftool and the verifier's messages. Headers lie unaligned in a frame, which
/// every kernel we support reads and writes in one instruction; without that feature (LLVM 22) each
/// byte is an instruction of its own and the programs outgrow their stack. And bpf-linker has LLVM
/// leave `memcpy`, `memmove` and `memset` alone unless told otherwise; then moving the six bytes of
/// an Ethernet address is a call of a function with a loop, and forwarding a packet takes twice as
/// long.
const LINK_ARGS: &[&str] =
    &["--btf", "--cpu-features=+allows-misaligned-mem-access", "--disable-expand-memcpy-in-order"];

/// The binaries of the eBPF workspace; each becomes `target/bpf/<name>.o`.
const OBJECTS: &[&str] = &["kube-vip-ebpf", "bench"];

/// Compiles the XDP and TC programs of kube-vip-ebpf/
///
/// Leaves them as ELF objects in target/bpf/: kube-vip-ebpf.o, which the agent carries inside, and
/// bench.o, which `cargo xtask bench` measures against. Unchanged source is not compiled again;
/// target/bpf/stamp lists what went into the objects.
///
/// Needs a compiler with core for bpfel-unknown-none and bpf-linker. Missing ones are installed
/// first, see `cargo xtask setup --help`. Compiling needs no root.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask build-ebpf
  cargo xtask build-ebpf --toolchain nightly
  llvm-objdump -d target/bpf/kube-vip-ebpf.o     what was made of it")]
pub(crate) struct Args {
    #[command(flatten)]
    toolchain: ToolchainArgs,
    /// Compile even if nothing changed
    #[arg(long)]
    force: bool,
}

/// The compiled programs.
pub(crate) struct Objects {
    pub(crate) dir: PathBuf,
}

/// The compiled programs for another command.
pub(crate) fn ensure(toolchain: ToolchainArgs) -> Result<Objects> {
    run(&Args { toolchain, force: false })
}

pub(crate) fn run(args: &Args) -> Result<Objects> {
    let tools = setup::ensure(&[Need::Toolchain, Need::Linker], args.toolchain)?;
    let flags = rustflags(&tools.linker()?.path);
    let dir = paths::bpf_objects();
    let stamp = dir.join("stamp");

    let mut inputs = Fingerprint::default();
    inputs.value("rustc", &format!("{:?} {}", tools.toolchain()?.kind, tools.toolchain()?.version));
    inputs.value("bpf-linker", &tools.linker()?.version);
    inputs.value("flags", &flags.join(" "));
    inputs.tree("kube-vip-ebpf", &paths::bpf_workspace())?;
    inputs.tree("kube-vip-common", &paths::root().join("kube-vip-common"))?;
    // kube-vip-common inherits its edition and lints from here.
    inputs.file("Cargo.toml", &paths::root().join("Cargo.toml"))?;

    let old = fs::read_to_string(&stamp).ok().map(|text| Fingerprint::from_text(&text));
    let why = match old {
        _ if args.force => Some("asked for".to_owned()),
        None => Some("not compiled yet".to_owned()),
        Some(old) => with_objects(&inputs, &dir)?.difference(&old),
    };
    let Some(why) = why else {
        note(&format!("kernel programs are fresh: {}", paths::shown(&dir)));
        return Ok(Objects { dir });
    };

    let step = Step::start("compiling the kernel programs", &why);
    let mut build = bpf_cargo(&tools, "build")?;
    build.args(["--release", "--bins"]);
    if stderr().is_terminal() {
        build.env("CARGO_TERM_COLOR", "always");
    }
    let output = child::hidden(&mut build, "compiling the kernel programs", "build-ebpf")?;
    if output.contains("warning") {
        eprintln!("{}", output.trim_end());
    }
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut made = Vec::new();
    for name in OBJECTS {
        let from = paths::bpf_build().join(BPF_TARGET).join("release").join(name);
        let to = dir.join(format!("{name}.o"));
        let bytes = copy_if_different(&without_debug(&from)?, &to)?;
        made.push(format!("{} {}", paths::shown(&to), size(bytes)));
    }
    replace(&stamp, with_objects(&inputs, &dir)?.to_text().as_bytes())?;
    step.done(&made.join(", "));
    Ok(Objects { dir })
}

/// A copy without debugging sections, which the kernel does not want and the agent would carry
/// around: the types of maps and functions stay. Where no tool for it is installed, the file itself;
/// `llvm-objdump -dS` finds source lines in that one.
fn without_debug(object: &Path) -> Result<PathBuf> {
    let copy = object.with_extension("stripped.o");
    for tool in ["/usr/lib/llvm-22/bin/llvm-strip", "llvm-strip", "rust-strip"] {
        fs::copy(object, &copy).with_context(|| format!("cannot write {}", copy.display()))?;
        let mut strip = Command::new(tool);
        if strip.arg("--strip-debug").arg(&copy).output().is_ok_and(|out| out.status.success()) {
            return Ok(copy);
        }
    }
    note("llvm-strip is not installed: the objects keep their debugging sections");
    Ok(object.to_owned())
}

/// A cargo command for the eBPF workspace, with the flags and surroundings it needs.
pub(crate) fn bpf_cargo(tools: &setup::Tools, command: &str) -> Result<Command> {
    bpf_cargo_in(tools, command, &paths::bpf_workspace(), &paths::bpf_build())
}

/// The same for a copy of that workspace.
pub(crate) fn bpf_cargo_in(
    tools: &setup::Tools,
    command: &str,
    workspace: &Path,
    build: &Path,
) -> Result<Command> {
    let toolchain = tools.toolchain()?;
    let mut cargo = child::foreign(&toolchain.cargo);
    cargo
        .arg(command)
        .args(["--target", BPF_TARGET])
        .arg("--target-dir")
        .arg(build)
        .current_dir(workspace)
        .env("RUSTC", &toolchain.rustc)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&tools.linker()?.path).join("\x1f"));
    match toolchain.kind {
        // aya-ebpf uses one feature of nightly; this unlocks it for that crate alone.
        Kind::Prebuilt => cargo.env("RUSTC_BOOTSTRAP", "aya_ebpf"),
        Kind::Nightly => cargo.args(["-Z", "build-std=core"]),
    };
    Ok(cargo)
}

fn rustflags(linker: &Path) -> Vec<String> {
    let mut flags = vec![
        format!("-Clinker={}", linker.display()),
        // BTF of the maps is made from the debug information.
        "-Cdebuginfo=2".to_owned(),
        format!("-Ctarget-cpu={CPU}"),
        format!("--cfg=bpf_target_arch=\"{ARCH}\""),
    ];
    flags.extend(LINK_ARGS.iter().map(|arg| format!("-Clink-arg={arg}")));
    flags
}

/// The inputs and the objects beside them: a damaged or missing object is a reason to build too.
fn with_objects(inputs: &Fingerprint, dir: &Path) -> Result<Fingerprint> {
    let mut print = inputs.clone();
    for name in OBJECTS {
        let object = dir.join(format!("{name}.o"));
        print.file(&paths::shown(&object), &object)?;
    }
    Ok(print)
}

/// Leaves an object that is the same untouched, so that nothing built from it is built again.
fn copy_if_different(from: &Path, to: &Path) -> Result<u64> {
    let new = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).ok().as_ref() != Some(&new) {
        replace(to, &new)?;
    }
    Ok(new.len() as u64)
}

/// Writes a file so that nobody sees half of it.
fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let half = path.with_extension("new");
    fs::write(&half, content)
        .and_then(|()| fs::rename(&half, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

//! `cargo xtask setup`: finds what the other commands need, or installs it.

use anyhow::{Context, Result, bail};

use crate::linker::{self, Linker};
use crate::packages::{self, Program};
use crate::paths;
use crate::progress::note;
use crate::toolchain::{self, Choice, Kind, Toolchain, ToolchainArgs};

/// Brings core for BPF, its cargo, and the inspection tool every developer wants beside them.
const PREBUILT_PACKAGES: &[&str] = &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

/// What the lab of the tests, the demo and the benchmark runs.
const LAB_PROGRAMS: &[Program] = &[
    Program { name: "ip", package: "iproute2", why: "makes the lab's hosts and links" },
    Program { name: "ethtool", package: "ethtool", why: "switches off offloads on lab links" },
    Program { name: "tcpdump", package: "tcpdump", why: "captures on lab links" },
    Program { name: "nft", package: "nftables", why: "masquerade rules in lab hosts" },
    Program { name: "ping", package: "iputils-ping", why: "echo requests to a VIP" },
    Program { name: "sysctl", package: "procps", why: "kernel settings of lab hosts" },
    Program { name: "nsenter", package: "util-linux", why: "enters lab hosts" },
    Program { name: "unshare", package: "util-linux", why: "makes lab hosts" },
    Program { name: "bpftool", package: "bpftool", why: "shows programs and maps" },
];

/// What the benchmark compares with.
const PEER_PROGRAMS: &[Program] = &[Program {
    name: "keepalived",
    package: "keepalived",
    why: "the benchmark measures its failover too",
}];

/// What building bpf-linker needs besides LLVM.
const BUILD_PROGRAMS: &[Program] = &[
    Program { name: "cc", package: "gcc", why: "builds bpf-linker" },
    Program { name: "c++", package: "g++", why: "builds bpf-linker against LLVM" },
];

/// Finds or installs everything the other commands need
///
/// Looks for a compiler with core for the BPF target, bpf-linker, and the programs of the test lab
/// (ip, ethtool, tcpdump, nft, ping, sysctl, nsenter, unshare, bpftool). What is there is left
/// alone; what is missing is installed: packages with apt-get, which needs root, and bpf-linker
/// with `cargo install`, which does not. The other commands call the part of this they need, so
/// running it by hand is never necessary.
///
/// The compiler is, in this order: what --toolchain asks for; a rustc that brings core for
/// bpfel-unknown-none (/usr/bin/rustc, or the one named by `KUBE_VIP_BPF_RUSTC`); a nightly with
/// rust-src; else Debian's packages are installed. bpf-linker is looked for in PATH, or named by
/// `KUBE_VIP_BPF_LINKER`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask setup                        install what is missing
  cargo xtask setup --check                only say what is there and what is missing
  cargo xtask setup --toolchain nightly    no packages for the compiler: use nightly and rust-src")]
pub(crate) struct Args {
    #[command(flatten)]
    toolchain: ToolchainArgs,
    /// Only report; exit code 1 if something is missing
    #[arg(long)]
    check: bool,
}

/// A part of the setup that a command asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A compiler for the kernel programs.
    Toolchain,
    /// bpf-linker.
    Linker,
    /// The programs the lab runs.
    Lab,
    /// What the benchmark compares with.
    Peer,
    /// The clippy of the compiler for the kernel programs.
    BpfClippy,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Tools {
    toolchain: Option<Toolchain>,
    linker: Option<Linker>,
}

impl Tools {
    /// The compiler for the kernel programs.
    pub(crate) fn toolchain(&self) -> Result<&Toolchain> {
        self.toolchain.as_ref().context("setup was not asked for the BPF toolchain")
    }

    /// bpf-linker.
    pub(crate) fn linker(&self) -> Result<&Linker> {
        self.linker.as_ref().context("setup was not asked for bpf-linker")
    }
}

/// A look at the machine: what is there, and what would have to be done.
#[derive(Debug, Default)]
struct Survey {
    tools: Tools,
    /// Why no toolchain can be had.
    stop: Option<String>,
    there: Vec<String>,
    missing: Vec<String>,
    packages: Vec<String>,
}

impl Survey {
    fn lacks(&mut self, what: String, packages: impl IntoIterator<Item = String>) {
        self.missing.push(what);
        for package in packages {
            if !self.packages.contains(&package) {
                self.packages.push(package);
            }
        }
    }

    fn programs(&mut self, programs: &[Program]) {
        for program in programs {
            match paths::find_program(program.name) {
                Some(path) => self.there.push(path.display().to_string()),
                None => self.lacks(
                    format!("{}: {}", program.name, program.why),
                    [program.package.to_owned()],
                ),
            }
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let needs = [Need::Toolchain, Need::Linker, Need::Lab];
    let survey = survey(&needs, args.toolchain)?;
    for line in &survey.there {
        note(&format!("there:   {line}"));
    }
    for line in &survey.missing {
        note(&format!("missing: {line}"));
    }
    if survey.missing.is_empty() {
        note("all is there, nothing to do");
        return Ok(());
    }
    if args.check {
        let stop = survey.stop.unwrap_or_else(|| {
            "`cargo xtask setup` installs it (packages need root, bpf-linker does not)".to_owned()
        });
        bail!("{} missing\n{stop}", survey.missing.len());
    }
    install(survey, &needs, args.toolchain)?;
    note("all is there now");
    Ok(())
}

/// What a command needs: found, or installed. Silent when all is there.
pub(crate) fn ensure(needs: &[Need], toolchain: ToolchainArgs) -> Result<Tools> {
    let survey = survey(needs, toolchain)?;
    if survey.missing.is_empty() { Ok(survey.tools) } else { install(survey, needs, toolchain) }
}

fn survey(needs: &[Need], args: ToolchainArgs) -> Result<Survey> {
    let mut survey = Survey::default();
    if needs.contains(&Need::Toolchain) {
        match toolchain::choose(args.toolchain, toolchain::probe, packages::can_install())? {
            Choice::Use(found) => {
                survey.there.push(found.describe());
                survey.tools.toolchain = Some(found);
            }
            Choice::InstallPrebuilt => survey.lacks(
                format!("a rustc with core for {}", toolchain::BPF_TARGET),
                PREBUILT_PACKAGES.iter().map(ToString::to_string),
            ),
            Choice::Stop(wanted) => {
                survey.lacks("a compiler for the kernel programs".to_owned(), []);
                survey.stop = Some(toolchain::both_ways(wanted));
            }
        }
    }
    if needs.contains(&Need::Linker) {
        survey.tools.linker = linker::find()?;
        match &survey.tools.linker {
            Some(found) => {
                survey.there.push(format!(
                    "bpf-linker {} ({})",
                    found.version,
                    found.path.display()
                ));
            }
            None => survey_linker(&mut survey)?,
        }
    }
    if needs.contains(&Need::Lab) {
        survey.programs(LAB_PROGRAMS);
    }
    if needs.contains(&Need::Peer) {
        survey.programs(PEER_PROGRAMS);
    }
    if needs.contains(&Need::BpfClippy) {
        survey_clippy(&mut survey);
    }
    Ok(survey)
}

/// LLVM that Debian 12 has for its rustc-web, when no compiler is there to ask.
const PREBUILT_LLVM: u32 = 22;

fn survey_linker(survey: &mut Survey) -> Result<()> {
    let major = match &survey.tools.toolchain {
        Some(toolchain) => linker::llvm_major(toolchain)?,
        None => PREBUILT_LLVM,
    };
    let llvm = linker::llvm_prefix(major).join("bin/llvm-config").is_file();
    let libraries = ["libzstd-dev", "zlib1g-dev", "libxml2-dev"].map(str::to_owned);
    let packages = [format!("llvm-{major}-dev"), format!("libpolly-{major}-dev")];
    survey.lacks(
        format!("bpf-linker {}", linker::VERSION),
        packages.into_iter().chain(libraries).filter(|_| !llvm),
    );
    survey.programs(BUILD_PROGRAMS);
    Ok(())
}

fn survey_clippy(survey: &mut Survey) {
    let Some(toolchain) = &survey.tools.toolchain else { return };
    if toolchain.rustc.with_file_name("cargo-clippy").is_file() {
        return;
    }
    match toolchain.kind {
        Kind::Prebuilt => survey
            .lacks("clippy for the kernel programs".to_owned(), ["rust-web-clippy".to_owned()]),
        Kind::Nightly => {
            survey.lacks("clippy for the kernel programs".to_owned(), []);
            survey.stop = Some(
                "the nightly has no clippy; add it with\n  \
                 rustup component add clippy --toolchain nightly"
                    .to_owned(),
            );
        }
    }
}

fn install(survey: Survey, needs: &[Need], args: ToolchainArgs) -> Result<Tools> {
    if let Some(stop) = survey.stop {
        bail!("{stop}");
    }
    if !survey.packages.is_empty() {
        packages::install(&survey.packages, &survey.missing.join("; "))?;
    }
    let mut after = self::survey(needs, args)?;
    if let Some(stop) = after.stop {
        bail!("{stop}");
    }
    if !after.packages.is_empty() {
        bail!(
            "still missing after installing packages: {}\n{}",
            after.missing.join("; "),
            toolchain::both_ways(args.toolchain)
        );
    }
    if needs.contains(&Need::Linker) && after.tools.linker.is_none() {
        after.tools.linker = Some(linker::install(after.tools.toolchain()?)?);
    }
    Ok(after.tools)
}

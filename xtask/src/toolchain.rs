//! Which compiler builds the kernel programs.
//!
//! `core` for the BPF target comes in no rustup toolchain. Either a distribution's rustc brings it
//! prebuilt, or a nightly builds it from `rust-src`.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{child, paths};

/// The target of the kernel programs.
pub(crate) const BPF_TARGET: &str = "bpfel-unknown-none";

/// Names another rustc with a prebuilt BPF core.
const RUSTC_VARIABLE: &str = "KUBE_VIP_BPF_RUSTC";

/// Where a distribution puts its rustc, beside any rustup in a home directory.
const DISTRIBUTION_RUSTC: &str = "/usr/bin/rustc";

/// Where `core` for the BPF target comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A rustc that brings core for BPF ready built, such as Debian's rustc-web
    Prebuilt,
    /// A nightly toolchain with the component rust-src, which builds core itself
    Nightly,
}

/// The option every command that builds the kernel programs has.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct ToolchainArgs {
    /// Where core for the BPF target comes from; without it, the first of these that is there
    #[arg(long, value_enum, env = "KUBE_VIP_BPF_TOOLCHAIN")]
    pub(crate) toolchain: Option<Kind>,
}

/// A compiler that can build the kernel programs.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    pub(crate) kind: Kind,
    pub(crate) rustc: PathBuf,
    pub(crate) cargo: PathBuf,
    pub(crate) sysroot: PathBuf,
    /// The output of `rustc -vV`.
    pub(crate) version: String,
}

impl Toolchain {
    /// One line for people.
    pub(crate) fn describe(&self) -> String {
        let first = self.version.lines().next().unwrap_or_default();
        let core = match self.kind {
            Kind::Prebuilt => "core for BPF prebuilt",
            Kind::Nightly => "builds core for BPF from rust-src",
        };
        format!("{first} ({}, {core})", self.rustc.display())
    }

    /// The major version of the LLVM inside, which bpf-linker must match.
    pub(crate) fn llvm_major(&self) -> Option<u32> {
        field(&self.version, "LLVM version")?.split('.').next()?.parse().ok()
    }
}

/// What to do about the toolchain.
#[derive(Debug)]
pub(crate) enum Choice<T> {
    /// This one is there.
    Use(T),
    /// Install the distribution's packages, then look again.
    InstallPrebuilt,
    /// Nothing is there and nothing can be installed: say both ways.
    Stop(Option<Kind>),
}

/// Chooses: what was asked for, else what is there, else what can be installed.
pub(crate) fn choose<T>(
    wanted: Option<Kind>,
    mut probe: impl FnMut(Kind) -> Result<Option<T>>,
    can_install: bool,
) -> Result<Choice<T>> {
    let kinds: &[Kind] = match wanted {
        Some(Kind::Prebuilt) => &[Kind::Prebuilt],
        Some(Kind::Nightly) => &[Kind::Nightly],
        None => &[Kind::Prebuilt, Kind::Nightly],
    };
    for kind in kinds {
        if let Some(found) = probe(*kind)? {
            return Ok(Choice::Use(found));
        }
    }
    if can_install && wanted != Some(Kind::Nightly) {
        Ok(Choice::InstallPrebuilt)
    } else {
        Ok(Choice::Stop(wanted))
    }
}

/// The message for [`Choice::Stop`].
pub(crate) fn both_ways(wanted: Option<Kind>) -> String {
    let prebuilt = format!(
        "  - a rustc that has core for {BPF_TARGET}: on Debian 12 the packages rustc-web and \
         libstd-rust-web-dev-bpf\n    (`cargo xtask setup` as root installs them); elsewhere name \
         it with {RUSTC_VARIABLE}=/path/to/rustc"
    );
    let nightly = "  - a nightly with its library's source:\n    \
                   rustup toolchain install nightly --component rust-src";
    match wanted {
        Some(Kind::Prebuilt) => {
            format!(
                "no rustc with core for {BPF_TARGET} is here, and no apt-get to install one. Needed:\n{prebuilt}"
            )
        }
        Some(Kind::Nightly) => {
            format!("no nightly toolchain with rust-src is here. Needed:\n{nightly}")
        }
        None => format!(
            "nothing here can compile for {BPF_TARGET}. One of these is needed:\n{prebuilt}\n{nightly}"
        ),
    }
}

/// Looks for a toolchain of this kind.
pub(crate) fn probe(kind: Kind) -> Result<Option<Toolchain>> {
    match kind {
        Kind::Prebuilt => probe_prebuilt(),
        Kind::Nightly => Ok(probe_nightly()),
    }
}

fn probe_prebuilt() -> Result<Option<Toolchain>> {
    let named = env::var_os(RUSTC_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    let rustc = named.clone().unwrap_or_else(|| DISTRIBUTION_RUSTC.into());
    let found = rustc
        .is_file()
        .then(|| describe(Kind::Prebuilt, &rustc))
        .flatten()
        .filter(|found| has_bpf_core(&found.sysroot));
    if let (Some(named), None) = (named, &found) {
        bail!(
            "{RUSTC_VARIABLE}={} is not a rustc with lib/rustlib/{BPF_TARGET} in its sysroot; \
             name one that has it, or unset the variable",
            named.display()
        );
    }
    // A distribution's older rustc is as good as none: its packages can be upgraded.
    Ok(found.filter(|found| new_enough(&found.version, env!("CARGO_PKG_RUST_VERSION"))))
}

fn probe_nightly() -> Option<Toolchain> {
    let rustc = paths::find_program("rustc")?;
    // `+nightly` is understood by rustup's proxy only; it must not start a download.
    let by_rustup = child::foreign(&rustc)
        .args(["+nightly", "--print", "sysroot"])
        .env("RUSTUP_AUTO_INSTALL", "0")
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
        .map(|sysroot| sysroot.join("bin/rustc"));
    [by_rustup, Some(rustc)]
        .into_iter()
        .flatten()
        .filter_map(|rustc| describe(Kind::Nightly, &rustc))
        .find(|found| {
            field(&found.version, "release").is_some_and(|release| release.contains("nightly"))
                && found.sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file()
        })
}

fn describe(kind: Kind, rustc: &Path) -> Option<Toolchain> {
    let version = child::output(child::foreign(rustc).arg("-vV")).ok()?;
    let sysroot = child::output(child::foreign(rustc).args(["--print", "sysroot"])).ok()?;
    let sysroot = PathBuf::from(sysroot.trim());
    let beside = rustc.with_file_name("cargo");
    let cargo = [beside, sysroot.join("bin/cargo")]
        .into_iter()
        .find(|cargo| cargo.is_file())
        .unwrap_or_else(|| env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from));
    Some(Toolchain { kind, rustc: rustc.to_path_buf(), cargo, sysroot, version })
}

fn has_bpf_core(sysroot: &Path) -> bool {
    let lib = sysroot.join("lib/rustlib").join(BPF_TARGET).join("lib");
    lib.read_dir().is_ok_and(|mut files| {
        files.any(|file| file.is_ok_and(|f| f.file_name().to_string_lossy().starts_with("libcore")))
    })
}

/// The value of a `name: value` line of `rustc -vV`.
fn field<'a>(version: &'a str, name: &str) -> Option<&'a str> {
    version.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Whether the rustc of this `-vV` output is at least `minimum`.
fn new_enough(version: &str, minimum: &str) -> bool {
    let numbers = |text: &str| -> Vec<u32> {
        let text = text.split('-').next().unwrap_or_default();
        text.split('.').filter_map(|part| part.parse().ok()).collect()
    };
    field(version, "release").is_some_and(|release| numbers(release) >= numbers(minimum))
}

#[cfg(test)]
mod tests {
    use super::{Choice, Kind, both_ways, choose, field, new_enough};

    fn chosen(wanted: Option<Kind>, there: &[Kind], can_install: bool) -> String {
        let probe = |kind| Ok(there.contains(&kind).then_some(kind));
        match choose(wanted, probe, can_install).unwrap() {
            Choice::Use(kind) => format!("{kind:?}"),
            Choice::InstallPrebuilt => "install".into(),
            Choice::Stop(_) => "stop".into(),
        }
    }

    #[test]
    fn what_is_asked_for_wins() {
        let both = [Kind::Prebuilt, Kind::Nightly];
        assert_eq!(chosen(Some(Kind::Nightly), &both, true), "Nightly");
        assert_eq!(chosen(Some(Kind::Prebuilt), &both, true), "Prebuilt");
    }

    #[test]
    fn what_is_asked_for_and_missing_is_not_replaced_by_the_other() {
        assert_eq!(chosen(Some(Kind::Nightly), &[Kind::Prebuilt], true), "stop");
        assert_eq!(chosen(Some(Kind::Prebuilt), &[Kind::Nightly], true), "install");
        assert_eq!(chosen(Some(Kind::Prebuilt), &[Kind::Nightly], false), "stop");
    }

    #[test]
    fn what_is_there_is_used_before_anything_is_installed() {
        assert_eq!(chosen(None, &[Kind::Prebuilt, Kind::Nightly], true), "Prebuilt");
        assert_eq!(chosen(None, &[Kind::Nightly], true), "Nightly");
        assert_eq!(chosen(None, &[], true), "install");
        assert_eq!(chosen(None, &[], false), "stop");
    }

    #[test]
    fn the_stop_names_both_ways() {
        let message = both_ways(None);
        assert!(message.contains("libstd-rust-web-dev-bpf") && message.contains("rust-src"));
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let version = "rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(field(version, "LLVM version"), Some("22.1.8"));
        assert!(new_enough(version, "1.95"));
        assert!(new_enough(version, "1.96"));
        assert!(!new_enough(version, "1.100"));
        assert!(new_enough("release: 1.97.0-nightly", "1.95"));
        assert!(!new_enough("release: 1.63.0", "1.95"));
    }
}

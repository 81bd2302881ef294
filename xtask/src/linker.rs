//! bpf-linker: found, or built with cargo.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::progress::Step;
use crate::toolchain::Toolchain;
use crate::{child, paths};

/// The version that is installed, and the oldest that is accepted.
pub(crate) const VERSION: &str = "0.13.0";

/// The LLVM versions this bpf-linker can be built with.
const LLVM_MAJORS: std::ops::RangeInclusive<u32> = 21..=23;

/// Names another bpf-linker.
const LINKER_VARIABLE: &str = "KUBE_VIP_BPF_LINKER";

/// A bpf-linker that runs.
#[derive(Clone, Debug)]
pub(crate) struct Linker {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
}

/// Looks for a bpf-linker that runs and is new enough: what the environment names, then `PATH`,
/// then where cargo installs.
pub(crate) fn find() -> Result<Option<Linker>> {
    if let Some(named) = env::var_os(LINKER_VARIABLE).filter(|value| !value.is_empty()) {
        let named = PathBuf::from(named);
        return match working(&named) {
            Some(linker) => Ok(Some(linker)),
            None => bail!(
                "{LINKER_VARIABLE}={} is not a bpf-linker {VERSION} or newer that runs here; name \
                 one that does, or unset the variable",
                named.display()
            ),
        };
    }
    let installed = install_dirs().into_iter().map(|dir| dir.join("bpf-linker"));
    let mut candidates = paths::find_program("bpf-linker").into_iter().chain(installed);
    Ok(candidates.find_map(|path| working(&path)))
}

fn install_dirs() -> Vec<PathBuf> {
    let home = env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    [env::var_os("CARGO_INSTALL_ROOT"), env::var_os("CARGO_HOME")]
        .into_iter()
        .flatten()
        .map(PathBuf::from)
        .chain(home)
        .map(|dir| dir.join("bin"))
        .collect()
}

/// It must be run to know: its LLVM may have been removed.
fn working(path: &Path) -> Option<Linker> {
    let output = child::output(child::foreign(path).arg("--version")).ok()?;
    let version = output.trim().strip_prefix("bpf-linker ")?.to_owned();
    accepted(&version).then(|| Linker { path: path.to_path_buf(), version })
}

fn accepted(version: &str) -> bool {
    let numbers =
        |text: &str| text.split('.').map_while(|part| part.parse().ok()).collect::<Vec<u32>>();
    numbers(version) >= numbers(VERSION)
}

/// Where the LLVM to build bpf-linker with is looked for.
pub(crate) fn llvm_prefix(major: u32) -> PathBuf {
    env::var_os("LLVM_PREFIX").map_or_else(|| format!("/usr/lib/llvm-{major}").into(), Into::into)
}

/// The LLVM major to build bpf-linker with: the compiler's, because the linker reads its bitcode.
pub(crate) fn llvm_major(toolchain: &Toolchain) -> Result<u32> {
    match toolchain.llvm_major() {
        Some(major) if LLVM_MAJORS.contains(&major) => Ok(major),
        other => bail!(
            "bpf-linker {VERSION} can be built with LLVM {} to {}, but {} has LLVM {}; use another \
             toolchain (`--toolchain`), or install a bpf-linker for it from \
             https://github.com/aya-rs/bpf-linker/releases into a directory of PATH",
            LLVM_MAJORS.start(),
            LLVM_MAJORS.end(),
            toolchain.rustc.display(),
            other.map_or_else(|| "of unknown version".into(), |major| major.to_string()),
        ),
    }
}

/// Builds and installs it. The development files of LLVM must be there.
pub(crate) fn install(toolchain: &Toolchain) -> Result<Linker> {
    let major = llvm_major(toolchain)?;
    let prefix = llvm_prefix(major);
    let step = Step::start(
        &format!("building bpf-linker {VERSION} with cargo, about a minute"),
        "it links the kernel programs; no package brings it",
    );
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = child::foreign(Path::new(&cargo));
    let bin = prefix.join("bin");
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(std::iter::once(bin).chain(env::split_paths(&path)))?;
    command
        .args(["install", "bpf-linker", "--locked", "--force", "--no-default-features"])
        .args(["--version", VERSION, "--features", &format!("llvm-{major}")])
        .env("LLVM_PREFIX", &prefix)
        .env("PATH", path)
        .current_dir("/");
    child::hidden(&mut command, "building bpf-linker", "bpf-linker")?;
    let Some(linker) = find()? else {
        bail!(
            "cargo installed bpf-linker {VERSION}, but it does not run; try \
             `bpf-linker --version` to see why (its LLVM was taken from {})",
            prefix.display()
        );
    };
    step.done(&format!("installed {}", linker.path.display()));
    Ok(linker)
}

#[cfg(test)]
mod tests {
    use super::accepted;

    #[test]
    fn older_linkers_are_not_accepted() {
        assert!(accepted("0.13.0"));
        assert!(accepted("0.14.2"));
        assert!(accepted("1.0.0"));
        assert!(!accepted("0.9.15"));
        assert!(!accepted("garbage"));
    }
}

//! Running other programs: their surroundings, and what is shown of them.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::paths;

/// How many lines of a failed program's output are shown.
const TAIL: usize = 80;

/// The cargo that runs us, for the user-space workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::root());
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(describes_our_package) {
            command.env_remove(name);
        }
    }
    clean_library_path(&mut command);
    command
}

/// A program that must not notice that cargo runs us: another toolchain's cargo or rustc.
pub(crate) fn foreign(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(belongs_to_a_toolchain) {
            command.env_remove(name);
        }
    }
    clean_library_path(&mut command);
    command
}

/// Whether cargo set this variable to describe xtask itself to xtask.
fn describes_our_package(name: &str) -> bool {
    name == "CARGO_MANIFEST_DIR"
        || name == "CARGO_MANIFEST_PATH"
        || name == "CARGO_PRIMARY_PACKAGE"
        || name == "CARGO_CRATE_NAME"
        || name.starts_with("CARGO_PKG_")
        || name.starts_with("CARGO_BIN_")
}

/// Whether this variable would change what another toolchain builds, or where. What says how to
/// reach a registry stays: a build behind a proxy or a mirror needs it.
fn belongs_to_a_toolchain(name: &str) -> bool {
    const KEPT: [&str; 7] = [
        "CARGO_HOME",
        "CARGO_INSTALL_ROOT",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
        "CARGO_SOURCE_",
    ];
    if KEPT.iter().any(|kept| name.starts_with(kept)) {
        return false;
    }
    name == "CARGO"
        || name == "RUSTUP_TOOLCHAIN"
        || ["CARGO_", "RUSTC", "RUSTDOC", "RUSTFLAGS", "RUST_RECURSION_COUNT"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// Takes out of `LD_LIBRARY_PATH` what cargo put in front for us; another toolchain's compiler or
/// linker would take its libraries from there.
fn clean_library_path(command: &mut Command) {
    let Some(value) = env::var_os("LD_LIBRARY_PATH") else { return };
    let mut ours = vec![paths::target()];
    ours.extend(env::var_os("CARGO_TARGET_DIR").map(PathBuf::from));
    match without_ours(&value, &ours) {
        Some(rest) => command.env("LD_LIBRARY_PATH", rest),
        None => command.env_remove("LD_LIBRARY_PATH"),
    };
}

fn without_ours(value: &OsString, ours: &[PathBuf]) -> Option<OsString> {
    let rest: Vec<PathBuf> = env::split_paths(value)
        .filter(|dir| !ours.iter().any(|our| dir.starts_with(our)))
        .filter(|dir| !dir.components().any(|part| part.as_os_str() == "toolchains"))
        .filter(|dir| !dir.as_os_str().is_empty())
        .collect();
    if rest.is_empty() { None } else { env::join_paths(rest).ok() }
}

/// Runs a program that shares our terminal.
pub(crate) fn stream(command: &mut Command, what: &str) -> Result<()> {
    let status = command.status().with_context(|| cannot_start(command, what))?;
    if !status.success() {
        bail!("{what} failed ({status}); its messages are above");
    }
    Ok(())
}

/// Runs a program with its output in `target/xtask/<log>.log`: its last line is shown while it
/// runs in a terminal, its last lines if it fails. Returns the whole output.
pub(crate) fn hidden(command: &mut Command, what: &str, log: &str) -> Result<String> {
    let path = paths::target().join("xtask").join(format!("{log}.log"));
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    command.stdin(std::process::Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let mut child = command.spawn().with_context(|| cannot_start(command, what))?;
    let terminal = std::io::stderr().is_terminal();
    let mut polls = 0_u32..;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if terminal && polls.next().is_some_and(|poll| poll % 10 == 9) {
            show_last_line(&path);
        }
        thread::sleep(Duration::from_millis(20));
    };
    if terminal {
        eprint!("\r\x1b[K");
    }
    let output = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
    if !status.success() {
        eprintln!("{}", tail(&output, TAIL));
        bail!(
            "{what} failed ({status}); its last lines are above, all of them in {}",
            paths::shown(&path)
        );
    }
    Ok(output)
}

/// What a program writes to its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let what = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| cannot_start(command, &what))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{what}` failed ({}): {}", output.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn cannot_start(command: &Command, what: &str) -> String {
    format!("{what}: cannot start `{}`", command.get_program().to_string_lossy())
}

fn show_last_line(log: &Path) {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(400)..]);
    if let Some(line) = text.lines().rev().find(|line| !line.trim().is_empty()) {
        let line: String = line.trim().chars().filter(|c| !c.is_control()).take(70).collect();
        eprint!("\r\x1b[K    {line}");
    }
}

/// The last `count` lines of `text`.
fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::{belongs_to_a_toolchain, describes_our_package, tail, without_ours};
    use std::path::PathBuf;

    #[test]
    fn the_outer_cargo_does_not_reach_the_inner_one() {
        for name in [
            "CARGO",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_TARGET_DIR",
            "CARGO_MANIFEST_DIR",
            "CARGO_BUILD_TARGET",
            "CARGO_PROFILE_RELEASE_LTO",
            "RUSTC",
            "RUSTC_WRAPPER",
            "RUSTC_BOOTSTRAP",
            "RUSTFLAGS",
            "RUSTDOCFLAGS",
            "RUSTUP_TOOLCHAIN",
        ] {
            assert!(belongs_to_a_toolchain(name), "{name}");
        }
    }

    #[test]
    fn the_way_to_the_registry_stays() {
        for name in ["CARGO_HOME", "CARGO_HTTP_CAINFO", "CARGO_REGISTRIES_MINE_INDEX", "PATH"] {
            assert!(!belongs_to_a_toolchain(name), "{name}");
        }
    }

    #[test]
    fn our_own_builds_keep_what_the_developer_chose() {
        assert!(describes_our_package("CARGO_PKG_VERSION"));
        assert!(!describes_our_package("CARGO_PROFILE_DEV_DEBUG"));
        assert!(!describes_our_package("RUSTFLAGS"));
    }

    #[test]
    fn the_library_path_loses_what_cargo_added() {
        let ours = [PathBuf::from("/repo/target")];
        let value = "/repo/target/debug/deps:/h/.rustup/toolchains/stable/lib:/opt/lib".into();
        assert_eq!(without_ours(&value, &ours), Some("/opt/lib".into()));
        assert_eq!(without_ours(&"/repo/target/debug".into(), &ours), None);
    }

    #[test]
    fn the_tail_is_the_end() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
    }
}

//! Finds the compiled kernel programs that the agent carries inside.
//!
//! It compiles nothing: `cargo check` must work for somebody without a BPF toolchain. Without the
//! object the agent gets an empty one, which it refuses to load.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

const VARIABLE: &str = "KUBE_VIP_EBPF_OBJECT";

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-env-changed={VARIABLE}");
    println!("cargo:rerun-if-changed=build.rs");
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let workspace = manifest.parent().unwrap_or(&manifest);
    let built = workspace.join("target/bpf/kube-vip-ebpf.o");
    let named = env::var_os(VARIABLE).filter(|value| !value.is_empty());
    let object = named.map_or(built, |named| workspace.join(named));

    let object = if object.is_file() {
        println!("cargo:rerun-if-changed={}", object.display());
        object
    } else {
        watch_for(&object);
        println!(
            "cargo:warning=no kernel programs at {}: this kube-vip can be checked and tested, but \
             not started; `cargo xtask build-ebpf` compiles them",
            object.display()
        );
        let stub = PathBuf::from(variable("OUT_DIR")?).join("no-kernel-programs.o");
        fs::write(&stub, [])?;
        stub
    };
    println!("cargo:rustc-env={VARIABLE}={}", object.display());
    Ok(())
}

/// Has cargo run this again when the object appears. Watching a missing file would run it, and
/// compile the agent, each time; watching the directory waits.
fn watch_for(object: &Path) {
    if let Some(dir) = object.parent() {
        if fs::create_dir_all(dir).is_ok() {
            println!("cargo:rerun-if-changed={}", dir.display());
        } else {
            println!("cargo:rerun-if-changed={}", object.display());
        }
    }
}

fn variable(name: &str) -> io::Result<String> {
    env::var(name).map_err(|error| io::Error::other(format!("{name}: {error}; cargo sets it")))
}

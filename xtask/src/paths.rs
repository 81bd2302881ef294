//! Where things are in the repository. Always the workspace's own `target/`, whatever
//! `CARGO_TARGET_DIR` says: the README and the tests name these paths.

use std::env;
use std::path::{Path, PathBuf};

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let parent = manifest.parent().map(Path::to_path_buf);
    parent.unwrap_or(manifest)
}

/// The target directory of the user-space workspace.
pub(crate) fn target() -> PathBuf {
    root().join("target")
}

/// Where the compiled kernel programs are left.
pub(crate) fn bpf_objects() -> PathBuf {
    target().join("bpf")
}

/// The target directory of the eBPF workspace.
pub(crate) fn bpf_build() -> PathBuf {
    target().join("bpf-build")
}

/// The eBPF workspace.
pub(crate) fn bpf_workspace() -> PathBuf {
    root().join("kube-vip-ebpf")
}

/// `path` as seen from the repository's root, for messages.
pub(crate) fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The file called `program` in a directory of `PATH` or in the directories of system programs,
/// which are not in every user's `PATH`.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

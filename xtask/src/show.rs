//! What `demo` and `bench` share: both build everything for use and become a program of the tests
//! crate.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};

use crate::build::{self, Profile};
use crate::setup::{self, Need};
use crate::toolchain::ToolchainArgs;
use crate::{build_ebpf, child, paths, privilege};

/// Builds the kernel programs, the agent and the program `name`, which needs `needs` besides, then becomes that
/// program: it
/// gets signals and returns exit codes itself.
pub(crate) fn become_program(
    name: &str,
    needs: &[Need],
    toolchain: ToolchainArgs,
    arguments: &[String],
) -> Result<()> {
    let needs = [&[Need::Toolchain, Need::Linker, Need::Lab], needs].concat();
    setup::ensure(&needs, toolchain)?;
    let objects = build_ebpf::ensure(toolchain)?;
    let agent = build::agent(Profile::Release, &["--package", "kube-vip"])?;
    let why = "it makes the lab and runs the agents in it";
    let program = build::program(name, Profile::Release, &["--package", "kube-vip-tests"], why)?;

    let by_hand = format!(
        "KUBE_VIP_BIN={} KUBE_VIP_BPF_DIR={} {} {}",
        agent.display(),
        objects.dir.display(),
        program.display(),
        arguments.join(" ")
    );
    privilege::require_lab(
        &format!("running the {name} (all before it is done)"),
        &format!("Run:\n{}", privilege::with_sudo(by_hand.trim_end())),
    )?;
    let mut command = child::foreign(&program);
    command
        .args(arguments)
        .current_dir(paths::root())
        .env("KUBE_VIP_BIN", &agent)
        .env("KUBE_VIP_BPF_DIR", &objects.dir);
    Err(command.exec()).with_context(|| format!("cannot start {}", program.display()))
}

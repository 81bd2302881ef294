//! The distribution's packages, on systems with apt.

use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::progress::{Step, note};
use crate::{child, paths, privilege};

/// A program the work needs and the Debian package that brings it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
    pub(crate) why: &'static str,
}

/// Whether packages can be installed with apt here.
pub(crate) fn can_install() -> bool {
    paths::find_program("apt-get").is_some()
}

/// Installs packages, or stops with the command to run where that needs somebody else.
pub(crate) fn install(packages: &[String], why: &str) -> Result<()> {
    let list = packages.join(" ");
    if !can_install() {
        bail!(
            "missing, and no apt-get to install it with; install what your distribution calls \
             these Debian packages, then run this again:\n  {list}"
        );
    }
    if !privilege::is_root() {
        bail!(
            "missing: {why}\nInstalling packages needs root. Run this, then run the command \
             again:\n  sudo apt-get install --no-install-recommends {list}"
        );
    }
    note(&format!("missing: {why}"));
    let step = Step::start("refreshing apt's package lists", "packages are missing");
    match retried(&mut || apt(&["update"]), "apt-get update", "apt-update") {
        Ok(()) => step.done("refreshed"),
        // Old lists may do; if they do not, apt's own message follows.
        Err(error) => step.done(&format!("not refreshed: {error:#}")),
    }
    let step = Step::start(&format!("installing {list}"), "with apt-get");
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(packages.iter().map(String::as_str));
    retried(&mut || apt(&arguments), "apt-get install", "apt-install")?;
    step.done("installed");
    Ok(())
}

fn apt(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["-q", "-o", "Acquire::Retries=3", "-o", "DPkg::Lock::Timeout=300"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("NEEDRESTART_SUSPEND", "1")
        .current_dir("/");
    command
}

/// Package servers fail now and then; trying again usually helps.
fn retried(command: &mut dyn FnMut() -> Command, what: &str, log: &str) -> Result<()> {
    for pause in [5, 20] {
        match child::hidden(&mut command(), what, log) {
            Ok(_) => return Ok(()),
            Err(error) => note(&format!("{error:#}; again in {pause} s")),
        }
        thread::sleep(Duration::from_secs(pause));
    }
    child::hidden(&mut command(), what, log).map(drop)
}

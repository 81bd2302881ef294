//! The process that clears a lab away, however its owner ended.
//!
//! It and the holders of all hosts read from one pipe whose other end the owner holds. When the
//! owner drops the lab, or dies of whatever, they see the end of the file.

use std::fs;
use std::io::{PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::{cgroup, sys};

const SCRIPT: &str = r#"
while read -r _; do :; done
cg="$1$$"
[ ! -d "$cg" ] || echo 1 >"$cg/cgroup.kill"
n=0
while [ -d "$cg" ] && [ $n -lt 500 ]; do
    find "$cg" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.01
    n=$((n + 1))
done
rm -rf "$2$$"
"#;

/// The life line of a lab.
#[derive(Debug)]
pub(crate) struct Reaper {
    child: Child,
    reader: PipeReader,
    writer: Option<PipeWriter>,
    /// The cgroup all hosts of the lab are below of.
    pub(crate) cgroup: PathBuf,
    /// Where configuration and logs of the lab are kept.
    pub(crate) directory: PathBuf,
}

impl Reaper {
    pub(crate) fn start() -> Result<Self> {
        let root = cgroup::root()?;
        let temporary = std::env::temp_dir();
        cgroup::sweep(&root, &temporary);
        let (reader, writer) = std::io::pipe().context("making the lab's pipe")?;
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", SCRIPT, "reaper"])
            .arg(root.join(cgroup::PREFIX))
            .arg(temporary.join(cgroup::PREFIX))
            .stdin(reader.try_clone()?)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // A session of its own: Ctrl-C and the end of the terminal must not take it along.
        sys::before_exec(&mut command, || Ok(nix::unistd::setsid().map(drop)?));
        let child = command.spawn().context("starting the lab's reaper (/bin/sh)")?;
        let name = format!("{}{}", cgroup::PREFIX, child.id());
        let reaper = Self {
            reader,
            writer: Some(writer),
            cgroup: root.join(&name),
            directory: temporary.join(&name),
            child,
        };
        make(&reaper.cgroup)?;
        make(&reaper.directory)?;
        Ok(reaper)
    }

    /// An input that ends when the lab does.
    pub(crate) fn life_line(&self) -> Result<Stdio> {
        Ok(self.reader.try_clone().context("copying the lab's pipe")?.into())
    }

    /// Lets the lab outlive this process: it ends with the process whose number is returned.
    pub(crate) fn hand_over(&mut self) -> Result<u32> {
        let writer = self.writer.take().context("the lab was handed over already")?;
        let mut command = Command::new("sleep");
        command.arg("infinity").stdin(Stdio::null()).stderr(Stdio::null());
        command.stdout(OwnedFd::from(writer));
        sys::before_exec(&mut command, || Ok(nix::unistd::setsid().map(drop)?));
        Ok(command.spawn().context("starting the keeper of the lab (sleep infinity)")?.id())
    }
}

impl Reaper {
    /// Ends the lab and waits until it is gone, unless it was handed over; says whether it was.
    pub(crate) fn end(&mut self) -> bool {
        let ours = self.writer.take().is_some();
        if ours {
            let _ = self.child.wait();
        }
        !ours
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.end();
    }
}

fn make(path: &Path) -> Result<()> {
    fs::create_dir(path)
        .with_context(|| format!("making {} (the lab needs to run as root)", path.display()))
}

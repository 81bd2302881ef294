//! A host: network, mounts, host name and cgroup of its own, kept by one holder process.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::frame::Mac;
use crate::process::Process;
use crate::reaper::Reaper;
use crate::sys;

/// Ends with the lab, and takes along what is left in the host if the reaper could not.
const HOLDER: &str = "while read -r _; do :; done; echo 1 >/sys/fs/cgroup/cgroup.kill";

/// Where the agent keeps what outlives it; every host has its own, empty at first. A directory to
/// mount on has to exist: this empty one is all a lab leaves on its machine.
const STATE: &str = "/var/lib/kube-vip";

/// One host of a lab. Clones are the same host.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

struct Inner {
    name: String,
    addresses: Addresses,
    holder: Mutex<Child>,
    pid: u32,
    procs: File,
    namespaces: Namespaces,
    directory: PathBuf,
}

/// What a host's uplink is given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
    pub(crate) mac: Mac,
}

struct Namespaces {
    mount: File,
    net: File,
    uts: File,
    cgroup: File,
}

impl Host {
    /// Makes a host without any link.
    pub(crate) fn start(reaper: &Reaper, name: &str, addresses: Addresses) -> Result<Self> {
        let cgroup = reaper.cgroup.join(name);
        let directory = reaper.directory.join(name);
        for path in [&cgroup, &directory] {
            fs::create_dir(path).with_context(|| format!("making {}", path.display()))?;
        }
        fs::create_dir_all(STATE).with_context(|| format!("making {STATE}"))?;
        let procs = open_for_writing(&cgroup.join("cgroup.procs"))?;
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", HOLDER, &format!("holder of {name}")])
            .stdin(reaper.life_line()?)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let (join, host) = (procs.try_clone()?, name.to_owned());
        sys::before_exec(&mut command, move || {
            (&join).write_all(b"0")?;
            nix::unistd::setsid()?;
            become_host(&host)
        });
        let holder = command.spawn().with_context(|| {
            format!("giving host {name} its namespaces and mounts (root and CONFIG_BPF are needed)")
        })?;
        let pid = holder.id();
        Ok(Self(Arc::new(Inner {
            name: name.to_owned(),
            addresses,
            holder: Mutex::new(holder),
            pid,
            procs,
            namespaces: Namespaces::of(pid)?,
            directory,
        })))
    }

    /// The host's name, which `hostname` inside says too.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The process whose namespaces are the host's: `nsenter -t PID -m -u -n -C`.
    pub fn holder(&self) -> u32 {
        self.0.pid
    }

    /// The IPv4 address of eth0.
    pub fn v4(&self) -> Ipv4Addr {
        self.0.addresses.v4
    }

    /// The IPv6 address of eth0.
    pub fn v6(&self) -> Ipv6Addr {
        self.0.addresses.v6
    }

    /// The address of eth0 in the family of `like`.
    pub fn address_like(&self, like: IpAddr) -> IpAddr {
        if like.is_ipv4() { self.v4().into() } else { self.v6().into() }
    }

    /// The MAC address of eth0.
    pub fn mac(&self) -> Mac {
        self.0.addresses.mac
    }

    /// Where logs and configuration of this host are kept.
    pub fn directory(&self) -> &Path {
        &self.0.directory
    }

    /// A command that will run in this host, in its cgroup and all its namespaces.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        let host = self.clone();
        sys::before_exec(&mut command, move || {
            // The cgroup first: entering its namespace changes the view, not the membership.
            (&host.0.procs).write_all(b"0")?;
            nix::unistd::setsid()?;
            host.0.namespaces.enter_all()
        });
        command
    }

    /// Runs a program in this host and returns what it wrote; an error when it fails.
    pub fn run(&self, line: &[&str]) -> Result<String> {
        let (program, arguments) = line.split_first().context("no program to run")?;
        let output = self
            .command(program)
            .args(arguments)
            .output()
            .with_context(|| format!("running {program} in {}", self.name()))?;
        if !output.status.success() {
            bail!(
                "`{}` in {} ended with {}: {}{}",
                line.join(" "),
                self.name(),
                output.status,
                String::from_utf8_lossy(&output.stderr),
                String::from_utf8_lossy(&output.stdout),
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a line of shell in this host.
    pub fn shell(&self, line: &str) -> Result<String> {
        self.run(&["/bin/sh", "-ec", line])
    }

    /// Feeds a program's standard input and waits for it to succeed (`ip -batch -`, `nft -f -`).
    pub fn feed(&self, line: &[&str], input: &str) -> Result<()> {
        let (program, arguments) = line.split_first().context("no program to run")?;
        let mut command = self.command(program);
        command.args(arguments).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().with_context(|| format!("running {program} in {}", self.name()))?;
        child.stdin.take().context("no standard input")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`{}` in {} failed: {said}\ninput:\n{input}", line.join(" "), self.name());
        }
        Ok(())
    }

    /// Starts a process in this host, its output going to `NAME.out` and `NAME.err`.
    pub fn spawn(&self, name: &str, mut command: Command) -> Result<Process> {
        let out = self.directory().join(format!("{name}.out"));
        let err = self.directory().join(format!("{name}.err"));
        command.stdout(append(&out)?).stderr(append(&err)?);
        let child =
            command.spawn().with_context(|| format!("starting {name} in {}", self.name()))?;
        Ok(Process::new(format!("{name} of {}", self.name()), child, out, err))
    }

    /// Runs `work` on a thread inside this host's network; sockets made there stay there.
    pub fn in_net<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter_net()?;
                    work()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into this host's network.
    pub(crate) fn enter_net(&self) -> Result<()> {
        setns(&self.0.namespaces.net, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("entering the network of {}", self.name()))
    }

    /// The network namespace itself.
    pub fn net(&self) -> BorrowedFd<'_> {
        self.0.namespaces.net.as_fd()
    }

    /// Writes kernel parameters of this host's network (`net.ipv4.ip_forward`).
    pub fn sysctl(&self, values: &[(&str, &str)]) -> Result<()> {
        self.in_net(|| {
            for (name, value) in values {
                let path = format!("/proc/sys/{}", name.replace('.', "/"));
                fs::write(&path, value)
                    .with_context(|| format!("writing {value} to {path} of {}", self.name()))?;
            }
            Ok(())
        })
    }

    /// Waits for the holder, which the end of the lab has killed.
    pub(crate) fn reap(&self) {
        if let Ok(mut holder) = self.0.holder.lock() {
            let _ = holder.wait();
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}({} {})", self.name(), self.v4(), self.v6())
    }
}

impl Namespaces {
    fn of(pid: u32) -> Result<Self> {
        let open = |kind: &str| {
            let path = format!("/proc/{pid}/ns/{kind}");
            File::open(&path).with_context(|| format!("opening {path}"))
        };
        Ok(Self {
            mount: open("mnt")?,
            net: open("net")?,
            uts: open("uts")?,
            cgroup: open("cgroup")?,
        })
    }

    fn enter_all(&self) -> io::Result<()> {
        setns(&self.cgroup, CloneFlags::CLONE_NEWCGROUP)?;
        setns(&self.uts, CloneFlags::CLONE_NEWUTS)?;
        setns(&self.net, CloneFlags::CLONE_NEWNET)?;
        Ok(setns(&self.mount, CloneFlags::CLONE_NEWNS)?)
    }
}

/// Gives the calling process namespaces of its own and mounts what a host has of its own.
fn become_host(name: &str) -> io::Result<()> {
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP,
    )?;
    nix::unistd::sethostname(name)?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    // The machine's own stays readable in /proc/mounts if it is only covered, and programs look
    // there for cgroup2. Where it is no mount of its own there is nothing to take away.
    let _ = umount2("/sys", MntFlags::MNT_DETACH);
    for (kind, target) in [
        ("sysfs", "/sys"),
        ("bpf", "/sys/fs/bpf"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("tmpfs", "/run"),
        ("tmpfs", STATE),
    ] {
        mount(Some(kind), target, Some(kind), MsFlags::empty(), nothing)?;
    }
    Ok(())
}

fn open_for_writing(path: &Path) -> Result<File> {
    File::options().write(true).open(path).with_context(|| format!("opening {}", path.display()))
}

fn append(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))
}

//! A test's own program as a process on a host: a process may have so many open files and no more.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::host::Host;
use crate::server::Server;

/// How such a process is told what to do.
const ROLE: &str = "KUBE_VIP_TEST_ROLE";

/// A process on a host that runs one ignored test, which does what its [`role`](Self::role) says.
/// Lines that begin with "@" are for the one that started it.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// What this process is to do; nothing where it is none of these.
    pub fn role() -> Option<String> {
        std::env::var(ROLE).ok()
    }

    /// Tells the one that started this process.
    pub fn say(line: &str) {
        println!("@{line}");
    }

    /// Waits until the one that started this process says go.
    pub fn wait() -> Result<()> {
        std::io::stdin().read_line(&mut String::new())?;
        Ok(())
    }

    /// What the ignored test `servers` of a suite does: in a process that [`serve`](Self::serve) has
    /// started it serves until it is ended.
    pub fn be_servers() -> Result<()> {
        let Some(role) = Self::role() else { return Ok(()) };
        let mut words = role.split(' ');
        let name = words.next().context("a name")?;
        let addresses = words.map(str::parse).collect::<Result<Vec<SocketAddr>, _>>()?;
        Self::allow_descriptors()?;
        let _server = Server::here(name, &addresses)?;
        Self::say("ready");
        Self::wait()
    }

    /// Servers at these addresses of a host, as a process of their own: both ends of ten thousand
    /// connections in one process would be more than it may open.
    pub fn serve(host: &Host, addresses: &[SocketAddr]) -> Result<Self> {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let role = format!("{} {}", host.name(), addresses.join(" "));
        let mut worker = Self::start(host, "servers", &role)?;
        worker.says("ready")?;
        Ok(worker)
    }

    /// Lets this process open as many files as the system allows.
    pub fn allow_descriptors() -> Result<()> {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, most, most).context("room for descriptors")
    }

    /// Runs `test` of this program on a host, with that role.
    pub fn start(host: &Host, test: &str, role: &str) -> Result<Self> {
        let mut command = host.command(std::env::current_exe()?);
        command.args(["--ignored", "--exact", test, "--nocapture"]).env(ROLE, role);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("its output")?).lines();
        Ok(Self { child, lines })
    }

    /// Lets it go on.
    pub fn go(&mut self) -> Result<()> {
        Ok(self.child.stdin.as_mut().context("its input")?.write_all(b"\n")?)
    }

    /// The next line that is for us; it begins with that word.
    pub fn says(&mut self, word: &str) -> Result<String> {
        for line in &mut self.lines {
            if let Some(said) = line?.strip_prefix('@').map(str::to_owned) {
                ensure!(said.starts_with(word), "{said:?} instead of {word:?}");
                return Ok(said);
            }
        }
        bail!("a process ended before it was {word}")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

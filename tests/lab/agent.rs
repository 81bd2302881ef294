//! A real agent in a host.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::config::{Balancer, Config};
use crate::host::Host;
use crate::process::Process;

/// How long an agent may take to do what it was told.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The program under test: `KUBE_VIP_BIN`, or what a plain build leaves.
pub fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("KUBE_VIP_BIN").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "KUBE_VIP_BIN is {}, and there is no such file", path.display());
        return path.canonicalize().with_context(|| format!("resolving {}", path.display()));
    }
    let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(workspace).join("target"), PathBuf::from);
    let path = target.join("debug/kube-vip");
    path.canonicalize().with_context(|| {
        format!(
            "there is no agent at {}: build it (cargo xtask build), or name one in KUBE_VIP_BIN",
            path.display()
        )
    })
}

/// How an agent is started, where that is not as usual.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    instance: Option<String>,
    through: Vec<String>,
    environment: Vec<(String, String)>,
    flags: Option<Vec<String>>,
}

impl Launch {
    /// The configuration gives it this name: it keeps its files and its log beside the others'.
    pub fn instance(mut self, name: &str) -> Self {
        self.instance = Some(name.to_owned());
        self
    }

    /// Started by a program that becomes the agent (`setpriv`, with its options).
    pub fn through(mut self, words: &[&str]) -> Self {
        self.through = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// With a variable in its environment.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With these flags instead of the configuration file.
    pub fn flags(mut self, words: &[&str]) -> Self {
        self.flags = Some(words.iter().map(|word| (*word).to_owned()).collect());
        self
    }

    /// The command, up to the program's own arguments.
    pub(crate) fn command(&self, host: &Host, program: &Path) -> Command {
        let mut command = match self.through.split_first() {
            Some((first, rest)) => {
                let mut command = host.command(first);
                command.args(rest).arg(program);
                command
            }
            None => host.command(program),
        };
        command.env("NO_COLOR", "1").envs(self.environment.iter().cloned());
        command
    }

    fn file(&self, kind: &str) -> String {
        self.instance.as_ref().map_or_else(|| kind.to_owned(), |name| format!("{kind}-{name}"))
    }
}

/// An agent running in a host; killed when dropped.
#[derive(Debug)]
pub struct Agent {
    host: Host,
    program: PathBuf,
    config: PathBuf,
    launch: Launch,
    process: Process,
}

impl Agent {
    /// Starts an agent and does not wait for anything.
    pub fn start(host: &Host, config: &Config) -> Result<Self> {
        Self::start_with(host, &config.to_string())
    }

    /// Starts an agent with a configuration file of any content.
    pub fn start_with(host: &Host, config: &str) -> Result<Self> {
        Self::start_as(host, config, &Launch::default())
    }

    /// Starts an agent in another way than usual.
    pub fn start_as(host: &Host, config: &str, launch: &Launch) -> Result<Self> {
        let program = program()?;
        let path = host.directory().join(format!("{}.yaml", launch.file("config")));
        replace(&path, config)?;
        let process = start(host, &program, &path, launch)?;
        Ok(Self { host: host.clone(), program, config: path, launch: launch.clone(), process })
    }

    /// The host it runs in.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// What `kube-vip status -o json` says.
    pub fn status(&self) -> Result<Value> {
        let instance = self.launch.instance.as_deref().unwrap_or("default");
        let text = self.cli(&["status", "--instance", instance, "-o", "json"])?;
        serde_json::from_str(&text).with_context(|| format!("status is no JSON: {text}"))
    }

    /// Runs another command of the program in the agent's host.
    pub fn cli(&self, arguments: &[&str]) -> Result<String> {
        let program = self.program.to_str().context("the agent's path is not UTF-8")?;
        self.host.run(&[&[program], arguments].concat())
    }

    /// Waits until its status satisfies `probe`; log and last status when it does not.
    pub fn wait_until(
        &mut self,
        what: &str,
        mut probe: impl FnMut(&Value) -> bool,
    ) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.process.expect_running()?;
            let status = self.status();
            match status {
                Ok(status) if probe(&status) => return Ok(status),
                _ if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                status => {
                    let status = match status {
                        Ok(status) => format!("{status:#}"),
                        Err(error) => format!("{error:#}"),
                    };
                    bail!(
                        "the agent of {}: {what}: not within {PATIENCE:?}\nstatus: {status}\nlog:\n{}",
                        self.host.name(),
                        self.log()
                    );
                }
            }
        }
    }

    /// Waits until it is ready.
    pub fn wait_ready(&mut self) -> Result<Value> {
        self.wait_until("ready", |status| status["ready"] == true)
    }

    /// Waits until it is ready and what it balances is exactly `balancers`, each backend ready.
    pub fn wait_for(&mut self, balancers: &[Balancer]) -> Result<Value> {
        let wanted = balancers
            .iter()
            .flat_map(|balancer| balancer.backends.iter().map(|to| (balancer.name.clone(), *to)))
            .map(|(name, to)| (name, to.ip().to_string(), u64::from(to.port())))
            .collect::<BTreeSet<_>>();
        self.wait_until("all backends ready", |status| {
            let (found, ready) = backends_of(status);
            status["ready"] == true && ready && found == wanted
        })
    }

    /// Replaces its configuration file in one step.
    pub fn rewrite(&self, config: &Config) -> Result<()> {
        self.rewrite_with(&config.to_string())
    }

    /// Replaces its configuration file by one of any content.
    pub fn rewrite_with(&self, config: &str) -> Result<()> {
        replace(&self.config, config)
    }

    /// Asks it to end and waits.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.process.terminate(PATIENCE)
    }

    /// Starts it again, with the file as it is. Log goes on in the same file.
    pub fn restart(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process = start(&self.host, &self.program, &self.config, &self.launch)?;
        Ok(())
    }
}

fn start(host: &Host, program: &Path, config: &Path, launch: &Launch) -> Result<Process> {
    let mut command = launch.command(host, program);
    command.arg("start");
    match &launch.flags {
        Some(flags) => command.args(flags),
        None => command.arg("-c").arg(config),
    };
    host.spawn(&launch.file("kube-vip"), command)
}

fn backends_of(status: &Value) -> (BTreeSet<(String, String, u64)>, bool) {
    let mut found = BTreeSet::new();
    let mut ready = true;
    for frontend in status["frontends"].as_array().into_iter().flatten() {
        for backend in frontend["backends"].as_array().into_iter().flatten() {
            ready &= backend["state"] == "ready";
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let port = backend["port"].as_u64().unwrap_or_default();
            found.insert((text(&frontend["name"]), text(&backend["address"]), port));
        }
    }
    (found, ready)
}

fn replace(path: &Path, content: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, content).with_context(|| format!("writing {}", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("renaming {}", new.display()))
}

//! A start that is to be refused.

use anyhow::{Context, Result, ensure};

use crate::agent::{Launch, PATIENCE, program};
use crate::host::Host;

/// What was said when the program did not start.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Its exit code.
    pub code: Option<i32>,
    /// Standard error.
    pub said: String,
}

impl Refusal {
    /// Runs the program with these arguments and waits until it has given up; an error when it
    /// goes on.
    pub fn of(host: &Host, arguments: &[&str], launch: &Launch) -> Result<Self> {
        let mut command = launch.command(host, &program()?);
        command.args(arguments);
        let log = host.directory().join("refused.err");
        if log.exists() {
            std::fs::remove_file(&log).context("removing an old log")?;
        }
        let mut process = host.spawn("refused", command)?;
        let status = process.wait(PATIENCE)?;
        let status =
            status.with_context(|| format!("{arguments:?} was accepted:\n{}", process.log()))?;
        Ok(Self { code: status.code(), said: process.log() })
    }

    /// An error unless it was one line that names all of these, and exit code 1.
    pub fn expect(&self, named: &[&str]) -> Result<()> {
        let Self { code, said } = self;
        ensure!(*code == Some(1), "exit code {code:?}; {said}");
        ensure!(said.starts_with("error: ") && said.ends_with('\n'), "no error message: {said:?}");
        ensure!(said.lines().count() == 1, "more than one line: {said}");
        for name in named {
            ensure!(said.contains(name), "{name:?} is not named: {said}");
        }
        let causes: Vec<&str> = said.trim_end().split(": ").collect();
        let twice = causes.iter().find(|cause| causes.iter().filter(|it| it == cause).count() > 1);
        ensure!(twice.is_none(), "{twice:?} is said twice: {said}");
        Ok(())
    }
}

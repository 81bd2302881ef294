//! What the verifier says of each program.

use anyhow::{Context, Result, bail};
use aya::programs::{Program, ProgramError};
use aya::{EbpfLoader, VerifierLogLevel};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::kernel::{Hook, Variant, object_bytes, program};

/// How the programs that are one global function each are called.
const ALONE: &str = "only_";

/// The verifier's figures for one program.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub(crate) program: String,
    /// It is a global function, which the verifier proves safe once, for any arguments.
    pub(crate) is_function: bool,
    /// Instructions walked to prove it safe; a million is the limit.
    pub(crate) walked: u32,
    /// Bytes of stack: the program's own …
    pub(crate) stack: u32,
    /// … and those of the function of its that needs most. Together with those between the two at
    /// most 512.
    pub(crate) deepest: u32,
}

/// The figures of what the agent loads, and of each global function in it.
pub(crate) fn figures() -> Result<Vec<Figures>> {
    let bytes = object_bytes()?;
    let mut loader = EbpfLoader::new();
    let mut programs = loader.btf(None).verifier_log_level(VerifierLogLevel::STATS).load(&bytes)?;
    let mut functions: Vec<String> = programs
        .programs()
        .map(|(name, _)| name.to_owned())
        .filter(|n| n.starts_with(ALONE))
        .collect();
    functions.sort();
    let whole = [Hook::Xdp, Hook::Egress].map(|hook| program(hook, Variant::Plain).to_owned());
    let all = whole.into_iter().chain(functions);
    all.map(|name| {
        let log = log_of(programs.program_mut(&name).context("no such program")?)?;
        parse(&name, &log).with_context(|| format!("no figures of {name} in the log:\n{log}"))
    })
    .collect()
}

/// The log is handed out with an error only, so the load is made to fail where nothing is left to do
/// but to number the descriptor.
fn log_of(program: &mut Program) -> Result<String> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, 0, hard)?;
    let result = match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => Ok(()),
    };
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
    match result {
        Err(ProgramError::LoadError { verifier_log, .. }) => Ok(verifier_log.to_string()),
        Err(error) => Err(error.into()),
        Ok(()) => bail!("it was loaded without a descriptor"),
    }
}

/// `stack depth 176+0+24` and `processed 3417 insns (limit 1000000) …`.
fn parse(name: &str, log: &str) -> Option<Figures> {
    let behind = |words: &str| {
        let line = log.lines().find_map(|line| line.trim().strip_prefix(words))?;
        line.split_whitespace().next()
    };
    let walked = behind("processed ")?.parse().ok()?;
    let mut depths = behind("stack depth ")?.split('+').map(str::parse::<u32>);
    let stack = depths.next()?.ok()?;
    let deepest = depths.filter_map(Result::ok).max().unwrap_or(0);
    let function = name.strip_prefix(ALONE);
    let (program, is_function) = (function.unwrap_or(name).to_owned(), function.is_some());
    Some(Figures { program, is_function, walked, stack, deepest })
}

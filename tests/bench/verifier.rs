//! What the verifier says of each program.

use anyhow::{Context, Result, bail};
use aya::programs::{Program, ProgramError};
use aya::{EbpfLoader, VerifierLogLevel};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::kernel::{Hook, Variant, object_bytes, program};

/// The verifier's figures for one program.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub(crate) program: &'static str,
    /// Instructions walked to prove it safe; a million is the limit.
    pub(crate) walked: u32,
    /// Bytes of stack: the program's own …
    pub(crate) stack: u32,
    /// … and those of the function of its that needs most. Together with those between the two at
    /// most 512.
    pub(crate) deepest: u32,
    /// Its global functions: each is proved safe once, for any arguments.
    pub(crate) functions: Vec<Function>,
}

/// A global function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// Instructions walked.
    pub(crate) walked: u32,
    /// Bytes of stack of its own.
    pub(crate) stack: u32,
}

/// The figures of what the agent loads.
pub(crate) fn figures() -> Result<Vec<Figures>> {
    let bytes = object_bytes()?;
    let mut loader = EbpfLoader::new();
    // Each instruction on a line, and the names of functions between them.
    let level = VerifierLogLevel::DEBUG | VerifierLogLevel::STATS;
    let mut programs = loader.btf(None).verifier_log_level(level).load(&bytes)?;
    [Hook::Xdp, Hook::Egress]
        .into_iter()
        .map(|hook| {
            let name = program(hook, Variant::Plain);
            let log = log_of(programs.program_mut(name).context(name)?)?;
            parse(name, &log).with_context(|| format!("no figures in the verifier's log:\n{log}"))
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
fn parse(program: &'static str, log: &str) -> Option<Figures> {
    let behind = |words: &str| {
        let line = log.lines().rev().find_map(|line| line.trim().strip_prefix(words))?;
        line.split_whitespace().next()
    };
    let walked = behind("processed ")?.parse().ok()?;
    let depths = behind("stack depth ")?.split('+').map(str::parse::<u32>);
    let depths: Vec<u32> = depths.collect::<Result<_, _>>().ok()?;
    let (stack, others) = depths.split_first()?;
    let deepest = others.iter().copied().max().unwrap_or(0);
    Some(Figures { program, walked, stack: *stack, deepest, functions: functions(log, &depths) })
}

/// `Validating refuse4() func#7...`, its instructions, and `Func#7 ('refuse4') is safe for any args
/// that match its prototype`; depths of the stack are in the order of these numbers.
fn functions(log: &str, depths: &[u32]) -> Vec<Function> {
    let mut found: Vec<Function> = Vec::new();
    let mut inside = false;
    for line in log.lines() {
        if let Some(rest) = line.strip_prefix("Validating ")
            && let Some((name, rest)) = rest.split_once("() func#")
        {
            let number = rest.trim_end_matches('.').parse::<usize>().ok();
            let stack = number.and_then(|number| depths.get(number)).copied().unwrap_or(0);
            found.push(Function { name: name.to_owned(), walked: 0, stack });
            inside = true;
        } else if line.starts_with("Func#") {
            inside = false;
        } else if let Some(function) = found.last_mut().filter(|_| inside) {
            function.walked += u32::from(is_instruction(line));
        }
    }
    found
}

/// `57: (7b) *(u64 *)(r10 -8) = r1 ; …`
fn is_instruction(line: &str) -> bool {
    let number = line.split_once(": (").map(|(number, _)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
0: R1=ctx() R10=fp0
0: (bf) r6 = r1                       ; R1=ctx() R6_w=ctx()
1: (85) call pc+7
Func#2 ('refuse4') is global and assumed valid.
2: (95) exit
Validating refuse4() func#2...
9: R1=ctx() R2=scalar() R10=fp0
; let x = y; @ file.rs:1
9: (b7) r0 = 1                        ; R0_w=1
10: (95) exit
Func#2 ('refuse4') is safe for any args that match its prototype
verification time 7 usec
stack depth 16+0+24
processed 5 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
";

    #[test]
    fn the_log_says_what_each_function_takes() {
        let figures = parse("program", LOG).expect("figures");
        assert_eq!((figures.walked, figures.stack, figures.deepest), (5, 16, 24));
        let name = "refuse4".to_owned();
        assert_eq!(figures.functions, [Function { name, walked: 2, stack: 24 }]);
    }
}

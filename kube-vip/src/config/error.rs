//! Why a configuration was refused.

use std::fmt;

/// A configuration was refused as a whole; it holds every reason that was found, in file order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    source: String,
    problems: Vec<Problem>,
}

/// One thing that is wrong, and the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The flag or variable that says it, where that is not the file.
    pub origin: Option<String>,
    /// Line in the file, where it has one.
    pub line: Option<u64>,
    /// The key it is about, like `loadBalancers[1].port`; empty when it is about the whole file.
    pub path: String,
    /// What is wrong with which value, and what to do.
    pub message: String,
}

impl ConfigError {
    pub(super) fn new(source: &str, mut problems: Vec<Problem>) -> Self {
        debug_assert!(!problems.is_empty(), "an error without a reason");
        problems.sort_by_key(|problem| problem.line.unwrap_or(u64::MAX));
        Self { source: source.to_owned(), problems }
    }

    pub(super) fn whole(source: &str, line: Option<u64>, message: impl Into<String>) -> Self {
        let problem = Problem { origin: None, line, path: String::new(), message: message.into() };
        Self::new(source, vec![problem])
    }

    /// All reasons, first the one that [`fmt::Display`] prints.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((first, more)) = self.problems.split_first() else {
            return f.write_str(&self.source);
        };
        if !self.source.is_empty() && first.origin.is_none() {
            f.write_str(&self.source)?;
            if let Some(line) = first.line {
                write!(f, ", line {line}")?;
            }
            f.write_str(": ")?;
        }
        write!(f, "{first}")?;
        if !more.is_empty() {
            write!(f, " (and {} more)", more.len())?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

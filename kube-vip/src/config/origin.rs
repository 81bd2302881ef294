//! Where a configuration comes from: a file, the command line, the environment.

use std::path::{Path, PathBuf};

use super::given::Given;
use super::{Config, ConfigError, host_name, read_file, unreadable};

/// Where a configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The file. Without one everything is in words of the command line and the environment.
    pub file: Option<PathBuf>,
    /// What counts besides.
    pub given: Given,
}

impl Origin {
    /// A file and nothing else.
    pub fn file(path: &Path) -> Self {
        Self { file: Some(path.to_owned()), given: Given::default() }
    }

    /// Its name, for people.
    pub fn name(&self) -> String {
        match &self.file {
            Some(path) => path.display().to_string(),
            None => "the command line".to_owned(),
        }
    }

    /// Reads and checks everything.
    ///
    /// # Errors
    /// Everything that is wrong, in one error, or that the file cannot be read.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let bytes = match &self.file {
            Some(path) => read_file(path).map_err(|error| unreadable(&self.name(), &error))?,
            None => Vec::new(),
        };
        self.parse(&bytes)
    }

    /// As [`Origin::load`], with the file's content.
    ///
    /// # Errors
    /// Everything that is wrong, in one error.
    pub fn parse(&self, bytes: &[u8]) -> Result<Config, ConfigError> {
        Config::parse_given(bytes, &self.name(), &host_name(), &self.given)
    }
}

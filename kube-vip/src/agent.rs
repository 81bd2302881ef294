//! The agent's main loop.

use std::path::Path;

use crate::config::Config;

/// Runs until it is told to stop.
///
/// # Errors
/// The agent cannot start or go on.
pub async fn run(config_path: &Path, config: Config) -> anyhow::Result<()> {
    for notice in &config.notices {
        tracing::warn!("{notice}");
    }
    anyhow::bail!("{} is in order, but nothing runs on it yet", config_path.display())
}

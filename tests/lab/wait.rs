//! Waiting for something to become true, no longer than needed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Tries again every 20 ms until `probe` succeeds; its last error when `patience` ends.
pub fn eventually<T>(
    patience: Duration,
    what: &str,
    mut probe: impl FnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        match probe() {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() >= deadline => {
                return Err(error).with_context(|| format!("{what}: not within {patience:?}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

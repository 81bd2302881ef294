//! The log: lines for people or JSON for collectors, on standard error.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::util::SubscriberInitExt;

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object per line.
    Json,
}

/// Sets up the log of this process; records of the `log` crate (the kernel programs') come along.
///
/// `level` wins over the variable `RUST_LOG`; without either it is `info`.
///
/// # Errors
/// The level is none, or a log has been set up before.
pub fn init(format: Format, level: Option<&str>) -> anyhow::Result<()> {
    let from_environment = std::env::var("RUST_LOG").ok().filter(|level| !level.is_empty());
    let filter = match (level, from_environment) {
        (Some(level), _) => filter(level)?,
        (None, Some(level)) => filter(&level).context("RUST_LOG")?,
        (None, None) => filter("info")?,
    };
    let log = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let result = match format {
        Format::Text => {
            log.compact().with_ansi(std::io::stderr().is_terminal()).finish().try_init()
        }
        Format::Json => log.json().flatten_event(true).finish().try_init(),
    };
    result.context("the log cannot be set up")
}

/// A level, or directives like `info,kube_vip::announce=debug`.
fn filter(text: &str) -> anyhow::Result<EnvFilter> {
    // By itself an unknown word would be read as the name of a module, and silence all others.
    for directive in text.split(',').filter(|directive| !directive.contains(['=', '['])) {
        let level = directive.trim();
        if level.is_empty() || level.parse::<LevelFilter>().is_err() {
            anyhow::bail!(
                "{directive:?} is not a log level; write error, warn, info, debug or trace"
            );
        }
    }
    // What the consensus log does in detail is for who asks for it: `info,openraft=debug`.
    let quiet = if text == "off" { "" } else { "openraft=off," };
    EnvFilter::builder()
        .parse(format!("{quiet}{text}"))
        .with_context(|| format!("log level {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_level_does_not_silence_the_log() {
        for good in ["info", "DEBUG", "warn,kube_vip::config=trace", "off"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["inof", "info,kube_vip", "kube_vip=loud", ""] {
            assert!(filter(bad).is_err(), "{bad}");
        }
        let error = filter("inof").unwrap_err().to_string();
        assert_eq!(error, "\"inof\" is not a log level; write error, warn, info, debug or trace");
    }
}

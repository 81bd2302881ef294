//! What the developer sees of a long step: what, why, how long.

use std::time::Instant;

/// A step under way; say [`Step::done`] at its end.
pub(crate) struct Step {
    started: Instant,
}

impl Step {
    /// Announces a step and the reason for it.
    pub(crate) fn start(what: &str, why: &str) -> Self {
        eprintln!("==> {what} ({why})");
        Self { started: Instant::now() }
    }

    /// Closes the step with what came of it and the time it took.
    pub(crate) fn done(self, result: &str) {
        eprintln!("    {result}, {:.1} s", self.started.elapsed().as_secs_f64());
    }
}

/// One line about something that took no time.
pub(crate) fn note(line: &str) {
    eprintln!("    {line}");
}

/// A size for people: `812 B`, `14.2 KiB`, `8.1 MiB`.
#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_change_unit_at_powers_of_1024() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1024), "1.0 KiB");
        assert_eq!(size(1_048_576 * 5 / 2), "2.5 MiB");
    }
}

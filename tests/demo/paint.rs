//! Colours and bars, where there is somebody to see them.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

/// How many characters the longest bar has.
const WIDTH: usize = 44;
const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
/// Green, blue, magenta, cyan: one per host, in turn.
const COLOURS: [u8; 4] = [32, 34, 35, 36];

/// Where the demo writes.
pub(crate) struct Paint {
    terminal: bool,
    colours: bool,
    began: Instant,
}

impl Paint {
    pub(crate) fn new() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { terminal, colours: terminal && wanted, began: Instant::now() }
    }

    /// Begins a chapter.
    pub(crate) fn title(&self, text: &str) {
        let at = self.dim(&format!("{:4.1} s", self.began.elapsed().as_secs_f64()));
        println!("\n{at}  {}", self.paint(1, text));
    }

    /// A line of a chapter.
    pub(crate) fn line(&self, text: &str) {
        println!("        {text}");
    }

    pub(crate) fn good(&self, text: &str) -> String {
        self.paint(32, text)
    }

    pub(crate) fn bad(&self, text: &str) -> String {
        self.paint(31, text)
    }

    pub(crate) fn dim(&self, text: &str) -> String {
        self.paint(2, text)
    }

    /// In the colour of that host's bar.
    pub(crate) fn host(&self, name: &str, text: &str) -> String {
        let number: usize =
            name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0);
        self.paint(COLOURS[(number + COLOURS.len() - 1) % COLOURS.len()], text)
    }

    pub(crate) fn bold(&self, text: &str) -> String {
        self.paint(1, text)
    }

    fn paint(&self, code: u8, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Whether bars may be drawn over again.
    pub(crate) fn moves(&self) -> bool {
        self.terminal
    }

    /// One bar per host; `whole` is what a bar of full width stands for.
    pub(crate) fn bars(&self, hosts: &[&str], counts: &BTreeMap<String, usize>, whole: usize) {
        let total = counts.values().sum::<usize>().max(1);
        for (host, colour) in hosts.iter().zip(COLOURS.iter().cycle()) {
            let count = counts.get(*host).copied().unwrap_or_default();
            let bar = self.paint(*colour, &format!("{:WIDTH$}", bar(count, whole)));
            let share = count as f64 / total as f64 * 100.0;
            self.line(&format!(
                "{host:>4} {bar} {count:5}  {}",
                self.dim(&format!("{share:4.1}%"))
            ));
        }
        if let Some(failed) = counts.get("failed") {
            self.line(&self.bad(&format!("{failed} failed")));
        }
        let _ = std::io::stdout().flush();
    }

    /// Goes back over `lines` lines, to draw them again.
    pub(crate) fn back(&self, lines: usize) {
        if self.terminal {
            print!("\x1b[{lines}A\x1b[J");
        }
    }
}

fn bar(count: usize, whole: usize) -> String {
    let eighths = (count * WIDTH * 8 / whole.max(1)).min(WIDTH * 8);
    format!("{}{}", "█".repeat(eighths / 8), PARTS[eighths % 8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_grow_and_stay_within_their_width() {
        assert_eq!(bar(0, 100), "");
        assert_eq!(bar(100, 100), "█".repeat(WIDTH));
        assert_eq!(bar(300, 100), "█".repeat(WIDTH));
        assert_eq!(bar(1, 88), "▌");
        assert_eq!(bar(5, 0), "█".repeat(WIDTH));
    }
}

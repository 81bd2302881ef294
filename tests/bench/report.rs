//! What was measured, for people and for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::agent::AtRest;
use crate::measure::Samples;
use crate::updates::Latency;
use crate::verifier::Figures;

/// A figure with what it should be.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// As a multiple of the floor of the same hook; this is what a target is for, where there is one.
    pub(crate) ratio: Option<f64>,
    /// The same without what the wrapper costs beyond the floor.
    pub(crate) alone: Option<f64>,
    /// What the ratio should be, or the median where there is no ratio.
    pub(crate) target: Option<Target>,
}

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }

    fn parts(self) -> (&'static str, f64) {
        match self {
            Self::AtMost(most) => ("≤", most),
            Self::AtLeast(least) => ("≥", least),
        }
    }
}

impl Row {
    pub(crate) fn of(what: impl Into<String>, unit: &'static str, samples: &Samples) -> Self {
        let (median, low, high) = (samples.median(), samples.min(), samples.max());
        let (ratio, alone, target) = (None, None, None);
        Self { what: what.into(), unit, median, low, high, ratio, alone, target }
    }

    pub(crate) fn single(what: impl Into<String>, unit: &'static str, value: f64) -> Self {
        let mut samples = Samples::default();
        samples.add(value);
        Self::of(what, unit, &samples)
    }

    pub(crate) fn at_most(mut self, target: f64) -> Self {
        self.target = Some(Target::AtMost(target));
        self
    }

    pub(crate) fn at_least(mut self, target: f64) -> Self {
        self.target = Some(Target::AtLeast(target));
        self
    }

    fn meets(&self) -> Option<bool> {
        Some(self.target?.is_met(self.ratio.unwrap_or(self.median)))
    }

    fn verdict(&self) -> &'static str {
        match self.meets() {
            None => "",
            Some(true) => "ok",
            Some(false) => "MISS",
        }
    }

    fn line(&self) -> String {
        let ratio = |value: Option<f64>| value.map_or_else(String::new, |it| format!("{it:.2}"));
        // Counts have no fractions.
        let digits = match self.unit {
            "" | "B" => 0,
            "×" | "Mpps" => 2,
            _ => 1,
        };
        let spread = if self.low < self.high {
            format!("{:.digits$}–{:.digits$}", self.low, self.high)
        } else {
            String::new()
        };
        let target = self.target.map(Target::parts);
        let target = target.map_or_else(String::new, |(sign, value)| format!("{sign} {value}"));
        let line = format!(
            "{:>7}  {:>6}  {target:<10}{:<6}{:<50}{:>9.digits$} {:<3}{spread:>16}",
            ratio(self.ratio),
            ratio(self.alone),
            self.verdict(),
            self.what,
            self.median,
            self.unit,
        );
        line.trim_end().to_owned()
    }

    fn json(&self) -> Value {
        json!({
            "what": self.what,
            "unit": self.unit,
            "median": self.median,
            "min": self.low,
            "max": self.high,
            "ratio": self.ratio,
            "ratioWithoutWrapper": self.alone,
            "target": self.target.map(|target| target.parts().1),
            "targetIs": self.target.map(|target| target.parts().0),
            "ok": self.meets(),
        })
    }
}

/// Rows under a heading, or why there are none.
pub(crate) struct Section {
    pub(crate) key: &'static str,
    pub(crate) title: String,
    pub(crate) rows: Result<Vec<Row>, String>,
}

/// Everything.
#[derive(Default)]
pub(crate) struct Report(Vec<Section>);

impl Report {
    /// Adds a section and returns it as text.
    pub(crate) fn add(&mut self, section: Section) -> String {
        let mut text = format!("\n{}\n", section.title);
        match &section.rows {
            Ok(rows) => {
                if rows.iter().any(|row| row.ratio.is_some()) {
                    let _ = writeln!(
                        text,
                        "{:>7}  {:>6}  {:<16}{:<50}{:>9}    {:>16}",
                        "÷ floor", "alone", "target", "what", "median", "spread"
                    );
                }
                for row in rows {
                    let _ = writeln!(text, "{}", row.line());
                }
            }
            Err(reason) => {
                let _ = writeln!(text, "  not measured: {reason}");
            }
        }
        self.0.push(section);
        text
    }

    /// Sections that could not be measured.
    pub(crate) fn missing(&self) -> Vec<&str> {
        self.0
            .iter()
            .filter(|section| section.rows.is_err())
            .map(|one| one.title.as_str())
            .collect()
    }

    pub(crate) fn misses(&self) -> Vec<&Row> {
        let rows = self.0.iter().filter_map(|section| section.rows.as_ref().ok()).flatten();
        rows.filter(|row| row.meets() == Some(false)).collect()
    }

    pub(crate) fn json(&self) -> Value {
        let section = |section: &Section| {
            let value = match &section.rows {
                Ok(rows) => json!(rows.iter().map(Row::json).collect::<Vec<_>>()),
                Err(reason) => json!({ "notMeasured": reason }),
            };
            (section.key.to_owned(), value)
        };
        Value::Object(self.0.iter().map(section).collect())
    }
}

/// What the verifier says. Of a function: its own part of the program's figures.
pub(crate) fn verifier(figures: &[Figures]) -> Vec<Row> {
    let rows = figures.iter().flat_map(|figures| {
        let Figures { program, is_function, walked, stack, deepest } = figures;
        let indent = if *is_function { "  " } else { "" };
        let stack = f64::from(stack + deepest);
        let walked = Row::single(
            format!("{indent}{program}: instructions verified"),
            "",
            f64::from(*walked),
        );
        let stack =
            Row::single(format!("{indent}{program}: stack, with its deepest function"), "B", stack);
        if *is_function { [walked, stack] } else { [walked.at_most(1e6), stack.at_most(512.0)] }
    });
    rows.collect()
}

/// How soon packets follow a change.
pub(crate) fn latency(latency: &Latency) -> Vec<Row> {
    let at = |what: &str, samples: &Samples, part| {
        let mut row = Row::of(what, "ms", samples);
        row.median = samples.quantile(part);
        row
    };
    vec![
        at("a backend changes: visible to packets, p50", &latency.visible, 0.5),
        at("a backend changes: visible to packets, p99", &latency.visible, 0.99).at_most(5.0),
        Row::single("… not counted, as nobody looked at the moment", "", latency.unseen.into()),
        at("a backend changes: call returns, p50", &latency.returned, 0.5),
        at("a backend changes: call returns, p99", &latency.returned, 0.99),
    ]
}

/// What an agent needs.
pub(crate) fn at_rest(used: &AtRest) -> Vec<Row> {
    vec![
        Row::single("resident memory", "MiB", used.resident).at_most(12.0),
        Row::single("of a core", "%", used.cpu).at_most(0.5),
    ]
}

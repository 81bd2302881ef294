//! The README's table of figures, out of what `cargo xtask bench --json` wrote.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Where the table begins and ends in the README.
const BEGIN: &str =
    "<!-- figures: written by `cargo xtask bench --figures docs/figures.json` -->\n";
const END: &str = "<!-- end of figures -->\n";

/// The text with the table in it made anew.
pub(crate) fn with_table(readme: &str, figures: &Value) -> Result<String> {
    let lacks = || format!("the README has no line {:?}", BEGIN.trim_end());
    let (before, rest) = readme.split_once(BEGIN).with_context(lacks)?;
    let (_, after) = rest.split_once(END).context("the README's table of figures has no end")?;
    Ok(format!("{before}{BEGIN}\n{}\n{END}{after}", table(figures)))
}

/// Two tables: ways of a packet as multiples of the floor, and what was measured otherwise.
fn table(figures: &Value) -> String {
    const OTHERS: [&str; 5] = ["live", "tcp", "swaps", "updates", "atRest"];
    let rows = |key: &str| figures[key].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut text = String::from(
        "| one packet, as a multiple of a program that does nothing | IPv4 | IPv6 | target |\n\
         |---|---|---|---|\n",
    );
    let mut order = Vec::new();
    let mut ways = BTreeMap::<_, [Option<&Value>; 2]>::new();
    for row in rows("packets").iter().filter(|row| row["ratio"].is_number()) {
        let what = row["what"].as_str().unwrap_or_default();
        let (family, name) = what.split_once(' ').unwrap_or((what, ""));
        let name = if family.starts_with("IPv") { name } else { what };
        if !ways.contains_key(name) {
            order.push(name);
        }
        ways.entry(name).or_default()[usize::from(family == "IPv6")] = Some(row);
    }
    for name in order {
        let pair = ways[name];
        let [v4, v6] = pair.map(|row| {
            let ratio = row.and_then(|row| Some((row["ratio"].as_f64()?, missed(row))));
            ratio.map_or_else(String::new, |(ratio, missed)| format!("{ratio:.2}{missed}"))
        });
        let target = pair.into_iter().flatten().next().map(target).unwrap_or_default();
        let _ = writeln!(text, "| {name} | {v4} | {v6} | {target} |");
    }
    text += "\n| otherwise | median | target |\n|---|---|---|\n";
    for row in OTHERS.into_iter().flat_map(rows) {
        let (what, unit) = (row["what"].as_str(), row["unit"].as_str());
        let median = row["median"].as_f64().unwrap_or(f64::NAN);
        let digits = if unit == Some("") || median >= 1000.0 { 0 } else { 2 };
        let value = format!("{median:.digits$} {}", unit.unwrap_or_default());
        let (what, value) = (what.unwrap_or_default(), value.trim_end());
        let _ = writeln!(text, "| {what} | {value}{} | {} |", missed(row), target(row));
    }
    let gone: Vec<_> = OTHERS.into_iter().filter(|key| !figures[*key].is_array()).collect();
    if !gone.is_empty() {
        let _ = writeln!(text, "\nNot measured that time: {}.", gone.join(", "));
    }
    text
}

/// What a figure should be.
fn target(row: &Value) -> String {
    let Some(target) = row["target"].as_f64() else { return String::new() };
    format!("{} {target}", row["targetIs"].as_str().unwrap_or_default())
}

/// Says so where it is not what it should be.
fn missed(row: &Value) -> &'static str {
    if row["ok"] == Value::Bool(false) { " (missed)" } else { "" }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn readme_shows_the_figures_of_the_last_measurement() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let read = |name: &str| fs::read_to_string(root.join(name)).expect(name);
        let figures = serde_json::from_str(&read("docs/figures.json")).expect("JSON");
        let readme = read("README.md");
        let written = with_table(&readme, &figures).expect("a table");
        assert!(written == readme, "run `cargo xtask bench --figures docs/figures.json`");
    }
}

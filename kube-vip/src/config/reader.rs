//! Typed access to a map of the file: each getter names what it does not like and goes on.

use std::cell::RefCell;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::Problem;
use super::nearest::nearest;
use super::yaml::{Entry, Node, Value};

/// Collects what is wrong, and what is understood without having an effect.
#[derive(Default)]
pub(super) struct Findings {
    problems: RefCell<Vec<Problem>>,
    notices: RefCell<Vec<String>>,
}

impl Findings {
    pub(super) fn problem(&self, line: u64, path: &str, message: impl Into<String>) {
        let line = Some(line).filter(|line| *line > 0);
        let problem =
            Problem { origin: None, line, path: path.to_owned(), message: message.into() };
        self.problems.borrow_mut().push(problem);
    }

    pub(super) fn notice(&self, path: &str, message: &str) {
        self.notices.borrow_mut().push(format!("{path}: {message}"));
    }

    pub(super) fn into_parts(self) -> (Vec<Problem>, Vec<String>) {
        (self.problems.into_inner(), self.notices.into_inner())
    }
}

/// A value of the file with the place to name when it is wrong.
#[derive(Clone, Debug)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) line: u64,
    pub(super) path: String,
}

/// A map of the file.
pub(super) struct Section<'a> {
    entries: &'a [Entry],
    pub(super) line: u64,
    pub(super) path: String,
    pub(super) findings: &'a Findings,
    /// Known keys that an unknown one was meant to be.
    mistyped: Vec<String>,
}

impl<'a> Section<'a> {
    /// Reads a map and names each key that is not known.
    pub(super) fn new(
        node: &'a Node,
        path: String,
        known: &[&str],
        findings: &'a Findings,
    ) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            let found = describe(&node.value);
            let like = known.first().copied().unwrap_or("key");
            let message = format!("{found} stands where keys belong, like `{like}: …`");
            findings.problem(node.line, &path, message);
            return None;
        };
        let mut section = Self { entries, line: node.line, path, findings, mistyped: Vec::new() };
        for entry in entries {
            if !known.contains(&entry.key.as_str()) {
                let way_out = match nearest(&entry.key, known) {
                    Some(near) => {
                        section.mistyped.push(near.to_owned());
                        format!("did you mean {near:?}?")
                    }
                    None => format!("known here: {}", known.join(", ")),
                };
                let key = shorten(&entry.key);
                let message = format!("unknown key {}; {way_out}", quote(&entry.key));
                findings.problem(entry.line, &section.path_of(&key), message);
            }
        }
        Some(section)
    }

    /// The path of one of its keys.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// A value that is not null.
    pub(super) fn get(&self, key: &str) -> Option<&'a Node> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(&entry.value).filter(|node| !matches!(node.value, Value::Null))
    }

    /// Nothing is written there.
    pub(super) fn is_blank(&self, key: &str) -> bool {
        self.get(key).is_none_or(|node| match &node.value {
            Value::Text(text) => text.trim().is_empty(),
            Value::List(list) => list.is_empty(),
            _ => false,
        })
    }

    /// A text that must be there; `missing` says what to write.
    pub(super) fn required_text(&self, key: &str, missing: &str) -> Option<Located<String>> {
        if self.is_blank(key) {
            self.missing(key, &format!("missing; {missing}"));
            return None;
        }
        self.text(key)
    }

    /// The line a key stands on, else the section's.
    pub(super) fn line_of(&self, key: &str) -> u64 {
        self.entries.iter().find(|entry| entry.key == key).map_or(self.line, |entry| entry.line)
    }

    pub(super) fn problem(&self, key: &str, message: impl Into<String>) {
        self.findings.problem(self.line_of(key), &self.path_of(key), message);
    }

    /// A key that must be there is not; said unless it is there with a slip of the pen.
    pub(super) fn missing(&self, key: &str, message: &str) {
        if !self.mistyped.iter().any(|meant| meant == key) {
            // The top of the file has no line of its own.
            let line = if self.path.is_empty() { 0 } else { self.line_of(key) };
            self.findings.problem(line, &self.path_of(key), message);
        }
    }

    fn wrong<T>(&self, key: &str, node: &Node, wanted: &str) -> Option<T> {
        let found = describe(&node.value);
        self.findings.problem(node.line, &self.path_of(key), format!("{found} is not {wanted}"));
        None
    }

    pub(super) fn boolean(&self, key: &str) -> Option<bool> {
        let node = self.get(key)?;
        match &node.value {
            Value::Bool(value) => Some(*value),
            // YAML 1.1, which the Go program reads.
            Value::Text(text) => match text.to_ascii_lowercase().as_str() {
                "yes" | "on" => Some(true),
                "no" | "off" => Some(false),
                _ => self.wrong(key, node, "true or false"),
            },
            _ => self.wrong(key, node, "true or false"),
        }
    }

    pub(super) fn text(&self, key: &str) -> Option<Located<String>> {
        let node = self.get(key)?;
        let value = match &node.value {
            Value::Text(text) => text.trim().to_owned(),
            Value::Int(number) => number.to_string(),
            Value::Bool(_) | Value::Float(_) => {
                return self.wrong(key, node, "read as text; put it in quotes");
            }
            _ => return self.wrong(key, node, "a text"),
        };
        Some(Located { value, line: node.line, path: self.path_of(key) })
            .filter(|text| !text.value.is_empty())
    }

    /// A whole number within bounds.
    pub(super) fn number(&self, key: &str, least: u32, most: u32) -> Option<u32> {
        let node = self.get(key)?;
        let number = match &node.value {
            Value::Int(number) => u32::try_from(*number).ok(),
            Value::Text(text) => text.trim().parse().ok(),
            _ => None,
        };
        match number {
            Some(number) if (least..=most).contains(&number) => Some(number),
            _ => self.wrong(key, node, &format!("a whole number from {least} to {most}")),
        }
    }

    /// A time like `3s` or `500ms`, within bounds.
    pub(super) fn duration(&self, key: &str, bounds: RangeInclusive<Duration>) -> Option<Duration> {
        let text = self.text(key)?;
        let found = duration(&text.value).filter(|duration| bounds.contains(duration));
        if found.is_none() {
            let (shown, least, most) = (quote(&text.value), bounds.start(), bounds.end());
            let message = format!(
                "{shown} is not a time from {} to {}; write one like 3s or 500ms",
                in_words(*least),
                in_words(*most)
            );
            self.problem(key, message);
        }
        found
    }

    pub(super) fn port(&self, key: &str) -> Option<u16> {
        let node = self.get(key)?;
        let number = match &node.value {
            Value::Int(number) => u16::try_from(*number).ok(),
            Value::Text(text) => text.trim().parse().ok(),
            _ => None,
        };
        match number {
            Some(number) if number > 0 => Some(number),
            _ => self.wrong(key, node, "a port; ports are 1 to 65535"),
        }
    }

    /// The number 0, which the old program writes for "not set".
    pub(super) fn number_is_zero(&self, key: &str) -> bool {
        self.get(key).is_some_and(|node| matches!(node.value, Value::Int(0)))
    }

    /// A list's elements with their paths.
    pub(super) fn list(&self, key: &str) -> Vec<(&'a Node, String)> {
        let Some(node) = self.get(key) else { return Vec::new() };
        let path = self.path_of(key);
        match &node.value {
            Value::List(list) => {
                list.iter().enumerate().map(|(i, node)| (node, format!("{path}[{i}]"))).collect()
            }
            _ => {
                let _: Option<()> = self.wrong(key, node, "a list; begin each element with \"- \"");
                Vec::new()
            }
        }
    }

    /// Words from a list, or from one text with commas between them.
    pub(super) fn words(&self, key: &str) -> Vec<Located<String>> {
        let Some(node) = self.get(key) else { return Vec::new() };
        if !matches!(node.value, Value::List(_)) {
            return self.text(key).map(|text| split(&text)).unwrap_or_default();
        }
        let mut words = Vec::new();
        for (node, path) in self.list(key) {
            match &node.value {
                Value::Text(text) => {
                    words.extend(split(&Located { value: text.clone(), line: node.line, path }));
                }
                other => {
                    let message = format!("{} is not a text; put it in quotes", describe(other));
                    self.findings.problem(node.line, &path, message);
                }
            }
        }
        words
    }
}

/// `1m30s`, `500ms`: whole numbers, each with its unit.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u32 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let millis = match &rest[..unit] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        total = total.checked_add(Duration::from_millis(u64::from(number) * millis))?;
        rest = &rest[unit..];
    }
    Some(total).filter(|_| !text.is_empty())
}

/// In the unit that needs the fewest digits.
fn in_words(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let unit = units.into_iter().find(|(size, _)| millis >= *size && millis.is_multiple_of(*size));
    let (size, name) = unit.unwrap_or((1, "ms"));
    format!("{}{name}", millis / size)
}

fn split(text: &Located<String>) -> Vec<Located<String>> {
    let words = text.value.split(',').map(str::trim).filter(|word| !word.is_empty());
    words
        .map(|word| Located { value: word.to_owned(), line: text.line, path: text.path.clone() })
        .collect()
}

/// Reads an address and says what is wrong with it as an address of anything.
pub(super) fn address(text: &Located<String>, findings: &Findings) -> Option<Located<IpAddr>> {
    let refuse = |message: String| {
        findings.problem(text.line, &text.path, message);
        None
    };
    let shown = quote(&text.value);
    let address: IpAddr = match text.value.parse() {
        Ok(address) => address,
        Err(_) => {
            let bare = text.value.split(['/', '%']).next().unwrap_or_default();
            if bare != text.value && bare.parse::<IpAddr>().is_ok() {
                return refuse(format!("{shown} is more than an address; write {bare}"));
            }
            return refuse(format!(
                "{shown} is not an IP address; write one like 192.168.0.10 or fd00::10"
            ));
        }
    };
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        return refuse(format!("{shown} is an IPv4 address in IPv6 clothes; write {v4}"));
    }
    if address.is_unspecified() || address.is_multicast() || is_broadcast(address) {
        let kind = if address.is_unspecified() {
            "the unspecified address"
        } else if address.is_multicast() {
            "a multicast address"
        } else {
            "the broadcast address"
        };
        return refuse(format!("{shown} is {kind}; write the address of one host"));
    }
    Some(Located { value: address, line: text.line, path: text.path.clone() })
}

fn is_broadcast(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.is_broadcast())
}

/// A value as it is shown in a message.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Text(text) => quote(text),
        Value::List(_) => "a list".into(),
        Value::Map(_) => "a map".into(),
    }
}

/// Text in quotes, on one line, of bounded length.
pub(super) fn quote(text: &str) -> String {
    format!("{:?}", shorten(text))
}

fn shorten(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut short: String = text.chars().take(LONGEST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

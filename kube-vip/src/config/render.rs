//! A file made from flags, for `kube-vip sample config`.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::given::Given;
use super::yaml::{Entry, Node, Value};
use super::{ConfigError, file, host_name};

const HEAD: &str = "\
# Start it with: kube-vip start -c /etc/kube-vip/config.yaml
# What every key means: `kube-vip sample config` without flags.
";

/// The secret is nothing to be printed into a file that is shown around.
const SECRET: &str = "\
# The same on all hosts: `kube-vip secret > /etc/kube-vip/secret` on one, then copy it.
secretFile: /etc/kube-vip/secret
";

impl Given {
    /// A file that says what the flags do.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn render(&self) -> Result<String, ConfigError> {
        let config = file::read("", "the command line", &host_name(), self)?;
        let mut root = Node { line: 0, value: Value::Map(Vec::new()) };
        self.write_over(&mut root);
        let mut text = HEAD.to_owned();
        if let Value::Map(entries) = &root.value {
            keys(&mut text, entries, 0);
        }
        if !config.remote_peers.is_empty() {
            text.push_str(SECRET);
        }
        Ok(text)
    }
}

fn keys(text: &mut String, entries: &[Entry], depth: usize) {
    for (index, Entry { key, value, .. }) in entries.iter().enumerate() {
        // The first one of a list's element stands behind its dash.
        let dashed = text.ends_with("- ");
        let indent = if index == 0 && dashed { 0 } else { depth };
        let _ = write!(text, "{:indent$}{key}:", "", indent = 2 * indent);
        match &value.value {
            Value::Map(entries) => {
                text.push('\n');
                keys(text, entries, depth + 1);
            }
            Value::List(list) => {
                text.push('\n');
                for node in list {
                    let _ = write!(text, "{:indent$}- ", "", indent = 2 * depth);
                    match &node.value {
                        Value::Map(entries) => keys(text, entries, depth + 1),
                        other => drop(writeln!(text, "{}", scalar(other))),
                    }
                }
            }
            other => drop(writeln!(text, " {}", scalar(other))),
        }
    }
}

/// Plain where YAML reads it as it is meant, else in quotes; JSON's are YAML's too.
fn scalar(value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Text(text) if is_plain(text) => text.clone(),
        Value::Text(text) => serde_json::to_string(text).unwrap_or_default(),
        Value::Null | Value::List(_) | Value::Map(_) => "null".to_owned(),
    }
}

fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let word = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ' ' | '.'))
        && !text.ends_with(' ')
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    let number = !text.starts_with('0') && text.parse::<u32>().is_ok();
    word || number || text.parse::<Ipv4Addr>().is_ok()
}

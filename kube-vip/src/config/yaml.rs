//! YAML text to a tree that remembers where everything stood.
//!
//! Typed deserialization stops at the first mistake and words it for programmers; the tree lets the
//! readers name the key, the value and the way out, and go on to the next mistake.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Spanned, budget, options};

use super::reader::quote;

/// A value and the line it stands on.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) line: u64,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: u64,
    pub(super) value: Node,
}

/// What is wrong with the text as YAML.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) line: Option<u64>,
    pub(super) message: String,
}

/// Reads one document.
pub(super) fn parse(text: &str) -> Result<Node, SyntaxError> {
    let options = options! {
        // Room for ten thousand load balancers of ten backends, and an end for everything else:
        // aliases that multiply, nesting that eats the stack.
        budget: budget! {
            max_events: 4_000_000,
            max_nodes: 2_000_000,
            max_aliases: 10_000,
            max_anchors: 10_000,
            max_depth: 32,
            max_documents: 1,
            max_merge_keys: 10_000,
            max_total_scalar_bytes: super::MAX_FILE_BYTES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 200_000,
            max_replay_stack_depth: 16,
        },
        // An id like 007 stays what was written; the words of YAML 1.1 are read where a bool is due.
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let error = error.without_snippet();
        let line = error.location().map(|at| at.line()).filter(|line| *line > 0);
        SyntaxError { line, message: reword(&error.to_string()) }
    })
}

/// What the library says, in the words of somebody who writes a file and knows none of its options.
fn reword(message: &str) -> String {
    let has = |part: &str| message.contains(part);
    if let Some(rest) = message.strip_prefix("duplicate mapping key: ") {
        let key = rest.split(',').next().unwrap_or(rest);
        return format!("the key {} appears twice here; keep one of the two", quote(key));
    }
    let words = if has("Documents {") || has("multiple documents") {
        "there is a second document (---); keep one"
    } else if has("Depth {") || has("recursion limit") {
        "lists and maps are nested too deep"
    } else if has("budget breached") || has("alias replay") || has("Anchor") {
        "too many values, or aliases that repeat each other; write it without aliases"
    } else if has("null into string") || has("expected string scalar") {
        "a key must be plain text, like `port: 80`"
    } else if has("mapping values are not allowed") {
        "a second colon makes this a key; put a text that contains \": \" or ends in \":\" in quotes"
    } else if has("tabs disallowed") {
        "indent with spaces, not with tabs"
    } else if has("alias references unknown anchor") {
        "an alias (*name) names no anchor (&name) above; put text that begins with * in quotes"
    } else if has("non-finite float") {
        "a number must be finite"
    } else {
        let message = message.split(" at line ").next().unwrap_or(message);
        return format!(
            "not valid YAML: {}",
            message.split_whitespace().collect::<Vec<_>>().join(" ")
        );
    };
    words.to_owned()
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { line: spanned.referenced.line(), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(i128::try_from(value).map_or(Value::Text(value.to_string()), Value::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = access.next_element()? {
            list.push(node);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            let line = key.referenced.line();
            map.push(Entry { key: key.value, line, value: access.next_value()? });
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> (Option<u64>, String) {
        let error = parse(text).expect_err(text);
        (error.line, error.message)
    }

    #[test]
    fn mistakes_of_form_are_named_with_their_line() {
        for (text, line, part) in [
            ("a: 1\na: 2\n", 2, "the key \"a\" appears twice"),
            ("a:\n\tb: 1\n", 2, "indent with spaces"),
            ("a: 1\n---\nb: 2\n", 2, "second document"),
            ("a: fd00::\n", 1, "in quotes"),
            ("a: *nope\n", 1, "names no anchor"),
            ("~: 1\n", 1, "a key must be plain text"),
            ("? {a: b}\n: c\n", 1, "a key must be plain text"),
            ("a: .nan\n", 1, "must be finite"),
            ("a: [1, 2\n", 1, "unclosed bracket"),
            ("a: 'x\n", 1, "unclosed quote"),
            ("a: \0\n", 1, "unexpected character"),
        ] {
            let (at, message) = refusal(text);
            assert_eq!(at, Some(line), "{text:?}: {message}");
            assert!(message.contains(part), "{text:?}: {message}");
        }
    }

    #[test]
    fn absent_content_is_null() {
        for text in ["", "---\n", "# only a comment\n", "\u{feff}"] {
            assert!(matches!(parse(text).map(|node| node.value), Ok(Value::Null)), "{text:?}");
        }
    }

    #[test]
    fn what_looks_like_a_number_stays_text_where_digits_would_be_lost() {
        for text in ["007", "1_000", "1:20", "yes", "fd00::1", "'12'"] {
            let node = parse(text).expect("valid");
            assert!(matches!(node.value, Value::Text(_)), "{text}: {:?}", node.value);
        }
    }

    #[test]
    fn nesting_and_aliases_that_multiply_are_refused_early() {
        assert!(refusal(&"[".repeat(100_000)).1.contains("nested too deep"));
        let steps: String = (0..5000).map(|depth| " ".repeat(depth) + "a:\n").collect();
        assert!(refusal(&steps).1.contains("nested too deep"));

        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..12 {
            let list = vec![format!("*a{}", i - 1); 10].join(",");
            bomb += &format!("a{i}: &a{i} [{list}]\n");
        }
        assert!(refusal(&bomb).1.contains("without aliases"), "{:?}", refusal(&bomb));
    }
}

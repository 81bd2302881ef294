//! The interfaces: where VIPs are and packets arrive, and where replies leave besides.

use super::reader::{Located, Section, quote};
use super::{ReplyDevices, XdpMode};

/// The word of `replyDevices` that stands for the usual kinds.
const BY_KIND: &str = "auto";
/// A pattern that is longer would take all the rest of its line.
const LONGEST_PATTERN: usize = 64;

/// `interface`, then `uplinks`: the first is the one VIPs are on.
pub(super) fn read(section: &Section<'_>) -> Option<(String, Vec<String>)> {
    let first = section.words("interface");
    if first.is_empty() {
        let way_out = "write the name of the network interface for the virtual IP, like eth0";
        section.missing("interface", &format!("missing; {way_out}"));
        return None;
    }
    let words = [first, section.words("uplinks")].concat();
    let mut names: Vec<String> = Vec::new();
    for word in &words {
        if let Some(message) = unfit(&word.value) {
            section.findings.problem(word.line, &word.path, message);
        } else if names.contains(&word.value) {
            let message = format!("{} is there twice; write it once", word.value);
            section.findings.problem(word.line, &word.path, message);
        } else {
            names.push(word.value.clone());
        }
    }
    let whole = names.len() == words.len() && !names.is_empty();
    whole.then(|| (names.remove(0), names))
}

fn unfit(name: &str) -> Option<String> {
    if name.len() > 15 {
        let length = name.len();
        return Some(format!(
            "{} has {length} bytes; interface names have at most 15",
            quote(name)
        ));
    }
    let refused = name.contains(is_bad) || name == "." || name == "..";
    let message =
        || format!("{} is not the name of an interface; `ip link` lists them", quote(name));
    refused.then(message)
}

fn is_bad(c: char) -> bool {
    c.is_whitespace() || c.is_control() || matches!(c, '/' | ':')
}

/// `replyDevices`: names with `*` for any characters, and `auto`.
pub(super) fn reply_devices(section: &Section<'_>) -> ReplyDevices {
    if !section.has("replyDevices") {
        return ReplyDevices::default();
    }
    let mut devices = ReplyDevices { by_kind: false, names: Vec::new() };
    for Located { value, line, path } in section.words("replyDevices") {
        if value == BY_KIND {
            devices.by_kind = true;
        } else if value.len() > LONGEST_PATTERN || value.contains(is_bad) {
            let message = format!(
                "{} is neither the name of an interface nor a pattern like vxlan*, nor {BY_KIND}",
                quote(&value)
            );
            section.findings.problem(line, &path, message);
        } else {
            devices.names.push(value);
        }
    }
    devices
}

pub(super) fn xdp_mode(section: &Section<'_>) -> XdpMode {
    let Some(text) = section.text("xdpMode") else { return XdpMode::default() };
    match text.value.as_str() {
        "auto" => XdpMode::Auto,
        "native" => XdpMode::Native,
        "generic" => XdpMode::Generic,
        "none" => XdpMode::None,
        other => {
            let message =
                format!("{} is not known; write auto, native, generic or none", quote(other));
            section.problem("xdpMode", message);
            XdpMode::default()
        }
    }
}

/// Whether a name fits a pattern, in which each `*` stands for any characters.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let tail = parts.pop().unwrap_or_default();
    for part in parts {
        // The first place will do: it leaves most for the others.
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    left.ends_with(tail)
}

impl ReplyDevices {
    /// Whether an interface is named.
    pub fn name(&self, interface: &str) -> bool {
        self.names.iter().any(|pattern| fits(pattern, interface))
    }
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name, expected) in [
            ("flannel.1", "flannel.1", true),
            ("flannel.1", "flannel.10", false),
            ("vxlan*", "vxlan", true),
            ("vxlan*", "vxlan100", true),
            ("vxlan*", "my-vxlan", false),
            ("*", "anything", true),
            ("*vxlan", "cilium_vxlan", true),
            ("c*_*lan", "cilium_vxlan", true),
            ("c*_*lan", "cilium", false),
            ("a*a", "a", false),
            ("a*b*b", "ab", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }
}

//! The lint tables of the two workspaces, which must be one.

use std::collections::BTreeMap;

/// Says how the lint tables of the user-space workspace (`[workspace.lints.*]`) and of the eBPF
/// package (`[lints.*]`) differ; nothing if they do not.
pub(crate) fn differences(user_space: &str, kernel: &str) -> Vec<String> {
    let user_space = lints(user_space, "workspace.lints");
    let kernel = lints(kernel, "lints");
    let mut names: Vec<&String> = user_space.keys().chain(kernel.keys()).collect();
    names.sort();
    names.dedup();
    let shown = |level: Option<&String>| level.map_or("nothing", String::as_str).to_owned();
    names
        .into_iter()
        .filter(|name| user_space.get(*name) != kernel.get(*name))
        .map(|name| {
            format!(
                "{name}: {} in Cargo.toml, {} in kube-vip-ebpf/Cargo.toml",
                shown(user_space.get(name)),
                shown(kernel.get(name))
            )
        })
        .collect()
}

/// The entries of the tables below `prefix`, named `tool::lint`.
fn lints(manifest: &str, prefix: &str) -> BTreeMap<String, String> {
    let mut tool = None;
    let mut found = BTreeMap::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            let header = header.split(']').next().unwrap_or_default();
            tool = header.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.'));
        } else if let (Some(tool), false, Some((lint, level))) =
            (tool, line.starts_with('#'), line.split_once('='))
        {
            let level = level.split('#').next().unwrap_or_default();
            found.insert(format!("{tool}::{}", lint.trim()), level.trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::differences;

    const USER_SPACE: &str = r#"
[workspace]
members = ["a"]

# The same as over there.
[workspace.lints.rust]
missing_docs = "warn" # a reason
unreachable_pub = "warn"

[workspace.lints.clippy]
todo = "warn"
"#;

    #[test]
    fn order_comments_and_other_tables_do_not_matter() {
        let kernel = "[lints.clippy]\ntodo=\"warn\"\n[lints.rust]\nunreachable_pub = \"warn\"\n\
                      missing_docs = \"warn\"\n[profile.release]\nlto = true\n";
        assert!(differences(USER_SPACE, kernel).is_empty());
    }

    #[test]
    fn a_missing_an_added_and_a_changed_lint_are_named() {
        let kernel = "[lints.rust]\nmissing_docs = \"deny\"\nunreachable_pub = \"warn\"\n\
                      dead_code = \"warn\"\n";
        assert_eq!(
            differences(USER_SPACE, kernel),
            [
                "clippy::todo: \"warn\" in Cargo.toml, nothing in kube-vip-ebpf/Cargo.toml",
                "rust::dead_code: nothing in Cargo.toml, \"warn\" in kube-vip-ebpf/Cargo.toml",
                "rust::missing_docs: \"warn\" in Cargo.toml, \"deny\" in kube-vip-ebpf/Cargo.toml",
            ]
        );
    }

    #[test]
    fn ours_are_equal() {
        let user_space = include_str!("../../Cargo.toml");
        let kernel = include_str!("../../kube-vip-ebpf/Cargo.toml");
        assert_eq!(differences(user_space, kernel), Vec::<String>::new());
        assert!(user_space.contains("[workspace.lints.rust]"));
    }
}

//! What the documentation lists is what there is.

use std::fs;
use std::path::{Path, PathBuf};

use kube_vip::config::{Config, MANIFEST, SAMPLE};
use kube_vip_common::stats::Reason;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The text between the first `from` and the next `to`.
fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let (_, rest) = text.split_once(from).unwrap_or_else(|| panic!("no {from:?}"));
    rest.split_once(to).map_or(rest, |(inside, _)| inside)
}

#[test]
fn operations_lists_each_counter_with_its_meaning() {
    let text = read("docs/operations.md");
    let table = between(&text, "## Counters", "## ");
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<String> = Reason::ALL
        .iter()
        .map(|reason| format!("| `{}` | {} |", reason.name(), reason.meaning().trim()))
        .collect();
    assert_eq!(rows, expected);
}

#[test]
fn architecture_lists_each_map() {
    let programs = read("kube-vip-ebpf/src/maps.rs");
    let text = read("docs/architecture.md");
    let table = between(&text, "## Maps", "## ");
    let maps: Vec<&str> = programs
        .lines()
        .filter_map(|line| line.strip_prefix("pub static "))
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name)
        .collect();
    assert!(maps.len() > 10, "{maps:?}");
    for map in maps {
        assert!(table.contains(&format!("`{map}`")), "{map}");
    }
}

#[test]
fn architecture_names_files_that_exist() {
    let text = read("docs/architecture.md");
    // What is yet to come has files that are yet to come.
    let (present, _) = text.split_once("## Where the next things go").expect("that section");
    let homes = ["", "kube-vip-ebpf/src", "kube-vip/src"];
    for name in present.split('`').filter(|word| word.ends_with(".rs") && !word.contains(' ')) {
        let found = homes.iter().any(|home| root().join(home).join(name).is_file());
        assert!(found, "{name}");
    }
}

#[test]
fn configuration_lists_each_key() {
    let text = read("docs/configuration.md");
    // A key that is like no other is answered with all that are known.
    for file in [
        "qqqqqqqqqqqq: 1\n",
        "localPeer: {qqqqqqqqqqqq: 1}\n",
        "limits: {qqqqqqqqqqqq: 1}\n",
        "quorum: {qqqqqqqqqqqq: 1}\n",
        "loadBalancers: [{qqqqqqqqqqqq: 1}]\n",
        "loadBalancers: [{healthCheck: {qqqqqqqqqqqq: 1}}]\n",
        "loadBalancers: [{backends: [{qqqqqqqqqqqq: 1}]}]\n",
    ] {
        let error = Config::parse(file, "test", "host").expect_err("an unknown key");
        let lists: Vec<&str> = error
            .problems()
            .iter()
            .filter_map(|problem| problem.message.split_once("known here: "))
            .map(|(_, known)| known)
            .collect();
        let [known] = lists[..] else { panic!("{file:?}: {lists:?}") };
        for key in known.split(", ") {
            let written =
                ["`", ".", "]."].iter().any(|before| text.contains(&format!("{before}{key}`")));
            assert!(written, "{key} of {file:?}");
        }
    }
}

#[test]
fn examples_are_configurations() {
    Config::parse(SAMPLE, "the sample", "host").expect("the sample");
    for name in ["README.md", "docs/configuration.md"] {
        let text = read(name);
        for example in text.split("```yaml\n").skip(1) {
            let example = between(example, "", "\n```");
            Config::parse(example, name, "host").unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

#[test]
fn the_manifest_is_of_this_version_and_starts_what_there_is() {
    assert_eq!(MANIFEST, read("manifests/static-pod.yaml"));
    assert!(MANIFEST.contains(concat!("image: kube-vip:", env!("CARGO_PKG_VERSION"), "\n")));
    let words = MANIFEST.lines().skip_while(|line| line.trim() != "args:").skip(1);
    let words = words.map(str::trim).filter(|line| !line.starts_with('#'));
    let words: Vec<_> = words.map_while(|line| line.strip_prefix("- ")).collect();
    assert_eq!(words, ["start", "-c", "/etc/kube-vip/config.yaml", "--keep-on-exit"]);
}

#[test]
fn links_lead_to_files() {
    for name in [
        "README.md",
        "docs/architecture.md",
        "docs/configuration.md",
        "docs/decisions.md",
        "docs/operations.md",
        "manifests/README.md",
    ] {
        let here = root().join(name);
        let here = here.parent().expect("a directory");
        for link in read(name).split("](").skip(1) {
            let target = link.split([')', '#']).next().expect("the first part");
            let outside = target.is_empty() || target.contains("://");
            assert!(outside || here.join(target).exists(), "{name}: {target}");
        }
    }
}

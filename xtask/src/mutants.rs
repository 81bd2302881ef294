//! `cargo xtask mutants`: whether the differential test finds what is broken on purpose.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::progress::Step;
use crate::setup::{self, Need};
use crate::toolchain::{BPF_TARGET, ToolchainArgs};
use crate::{build, build_ebpf, child, paths, privilege};

/// Breaks the kernel programs on purpose and looks whether the model finds it
///
/// Each file in tests/model/mutations/ names a line of the programs and what to put in its place.
/// For each, a copy of the sources is changed, compiled, and compared with the reference model as
/// `cargo xtask test` does. First the programs as they are, which must agree.
///
/// The exit code is 0 only if every mutation was found. Loading programs needs root. Each mutation
/// takes about a minute.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask mutants
  cargo xtask mutants checksum               those with `checksum` in their name
  cargo xtask mutants --packets 5000000")]
pub(crate) struct Args {
    #[command(flatten)]
    toolchain: ToolchainArgs,
    /// Most packets that are spent on one mutation
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    packets: u64,
    /// Only mutations with one of these in their name
    names: Vec<String>,
}

/// A line and what to put in its place.
#[derive(Debug, PartialEq, Eq)]
struct Mutation {
    name: String,
    what: String,
    file: PathBuf,
    old: Vec<String>,
    new: Vec<String>,
}

impl Mutation {
    fn parse(name: &str, text: &str) -> Result<Self> {
        let (mut what, mut file) = (Vec::new(), None);
        let (mut old, mut new) = (Vec::new(), Vec::new());
        for line in text.lines().filter(|line| !line.is_empty()) {
            match line.split_once(' ') {
                Some(("#", words)) => what.push(words),
                Some(("file", path)) => file = Some(PathBuf::from(path)),
                Some(("-", line)) => old.push(line.trim().to_owned()),
                Some(("+", line)) => new.push(line.to_owned()),
                _ => bail!("{name}: `{line}` begins with none of `#`, `file`, `-`, `+`"),
            }
        }
        let file = file.with_context(|| format!("{name} names no file"))?;
        ensure!(!old.is_empty(), "{name} takes no line away");
        Ok(Self { name: name.to_owned(), what: what.join(" "), file, old, new })
    }

    /// The source with the lines exchanged, which must be there once.
    fn apply(&self, source: &str) -> Result<String> {
        let lines: Vec<&str> = source.lines().collect();
        let is_here = |at: &usize| {
            let here = lines.get(*at..at + self.old.len());
            here.is_some_and(|here| here.iter().zip(&self.old).all(|(a, b)| a.trim() == b))
        };
        let places: Vec<usize> = (0..lines.len()).filter(is_here).collect();
        let [at] = places[..] else {
            bail!(
                "{}: `{}` is {} times in {}; the mutation must follow the source",
                self.name,
                self.old.join(" "),
                places.len(),
                self.file.display()
            );
        };
        let new = self.new.iter().map(String::as_str);
        let rest = lines[at + self.old.len()..].iter().copied();
        let all: Vec<&str> = lines[..at].iter().copied().chain(new).chain(rest).collect();
        Ok(all.join("\n") + "\n")
    }
}

/// All of them, by name.
fn mutations() -> Result<Vec<Mutation>> {
    let dir = paths::root().join("tests/model/mutations");
    let mut all = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        all.push(Mutation::parse(&name, &text)?);
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// What the differential test says of an object.
enum Found {
    /// A difference, after so many packets.
    After(u64),
    /// None.
    Nothing,
    /// It was never compared: it does not compile, or the verifier refuses it. What was said.
    Unjudged(String),
}

pub(crate) fn run(args: &Args) -> Result<bool> {
    privilege::require_lab(
        "comparing the kernel programs with the model",
        &format!("Run it with root:\n{}", privilege::with_sudo("cargo xtask mutants")),
    )?;
    let tools = setup::ensure(&[Need::Toolchain, Need::Linker], args.toolchain)?;
    let objects = build_ebpf::ensure(args.toolchain)?;
    let all = mutations()?;
    let named = |mutation: &&Mutation| {
        args.names.is_empty() || args.names.iter().any(|name| mutation.name.contains(name))
    };
    let chosen: Vec<&Mutation> = all.iter().filter(named).collect();
    ensure!(!chosen.is_empty(), "no mutation has a name like {:?}", args.names);
    let step = Step::start("comparing", "the programs as they are must agree with the model");
    match compare(&objects.dir, args.packets.min(100_000))? {
        Found::Nothing => step.done("they do"),
        Found::After(packets) => {
            bail!("the programs as they are differ from the model after {packets} packets")
        }
        Found::Unjudged(said) => bail!("the test ended without a comparison:\n{said}"),
    }

    let (mut missed, mut unjudged) = (0, Vec::new());
    let mut table = Vec::new();
    for mutation in chosen {
        let step = Step::start(&mutation.name, &mutation.what);
        let object = compile(&tools, mutation)?;
        let result = match compare(&object, args.packets)? {
            Found::After(packets) => format!("found after {packets} packets"),
            Found::Nothing => {
                missed += 1;
                format!("NOT FOUND in {} packets", args.packets)
            }
            Found::Unjudged(said) => {
                unjudged.push(format!("{}: {said}", mutation.name));
                "NOT JUDGED: no comparison".to_owned()
            }
        };
        step.done(&result);
        table.push(format!("{:<24} {result:<32} {}", mutation.name, mutation.what));
    }
    table.iter().for_each(|line| println!("{line}"));
    unjudged.iter().for_each(|said| println!("{said}"));
    let unjudged = unjudged.len();
    let found = table.len() - missed - unjudged;
    println!("{found} found, {missed} not found, {unjudged} not judged");
    Ok(missed + unjudged == 0)
}

/// Compiles the programs with the mutation in them; the directory of the object.
fn compile(tools: &setup::Tools, mutation: &Mutation) -> Result<PathBuf> {
    let (root, tree) = (paths::root(), paths::target().join("mutants/tree"));
    for dir in ["kube-vip-ebpf", "kube-vip-common"] {
        copy(&root.join(dir), &tree.join(dir), mutation, Path::new(dir))?;
    }
    // What kube-vip-common inherits stands in the workspace's manifest.
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let members = manifest.lines().filter(|line| !line.starts_with("members ="));
    let alone: Vec<&str> = members.filter(|line| !line.starts_with("default-members =")).collect();
    write(&tree.join("Cargo.toml"), (alone.join("\n") + "\n").as_bytes())?;

    let build = paths::target().join("mutants/build");
    let mut cargo = build_ebpf::bpf_cargo_in(tools, "build", &tree.join("kube-vip-ebpf"), &build)?;
    cargo.args(["--release", "--bin", "kube-vip-ebpf"]);
    child::hidden(&mut cargo, &format!("compiling {}", mutation.name), "mutants")?;
    let objects = paths::target().join("mutants/bpf");
    let object = build.join(BPF_TARGET).join("release/kube-vip-ebpf");
    write(&objects.join("kube-vip-ebpf.o"), &fs::read(object)?)?;
    Ok(objects)
}

/// Copies a directory, with the mutation applied; files that stay the same keep their times.
fn copy(from: &Path, to: &Path, mutation: &Mutation, name: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let name = name.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "target" {
                copy(&path, &target, mutation, &name)?;
            }
        } else if name == mutation.file {
            write(&target, mutation.apply(&fs::read_to_string(&path)?)?.as_bytes())?;
        } else {
            write(&target, &fs::read(&path)?)?;
        }
    }
    Ok(())
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    if fs::read(path).ok().as_deref() == Some(content) {
        return Ok(());
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

fn compare(objects: &Path, packets: u64) -> Result<Found> {
    let mut cargo: Command = build::cargo("test");
    cargo
        .args(["--package", "kube-vip-model", "--test", "differential", "programs_do"])
        .env("KUBE_VIP_BPF_DIR", objects)
        .env("KUBE_VIP_MODEL_PACKETS", packets.to_string())
        .env("KUBE_VIP_MODEL_SHRINK", "0");
    let output = cargo.output().context("cannot start cargo test")?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    if output.status.success() {
        return Ok(Found::Nothing);
    }
    let after = text.split("model and programs differ in sequence ").nth(1);
    let after = after.and_then(|text| text.split(", after ").nth(1)?.split(' ').next());
    match after.and_then(|number| number.parse().ok()) {
        Some(packets) => Ok(Found::After(packets)),
        None => Ok(Found::Unjudged(text.into_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Mutation, mutations};
    use crate::paths;

    #[test]
    fn lines_are_exchanged_where_they_are() {
        let text = "# Why.\nfile a/b.rs\n- let a = 1;\n+ let a = 2;\n";
        let mutation = Mutation::parse("m", text).unwrap();
        assert_eq!(mutation.what, "Why.");
        let mutated = mutation.apply("fn f() {\n    let a = 1;\n}\n").unwrap();
        assert_eq!(mutated, "fn f() {\nlet a = 2;\n}\n");
        assert!(mutation.apply("fn f() {}\n").is_err());
        assert!(mutation.apply("let a = 1;\nlet a = 1;\n").is_err());
        assert!(Mutation::parse("m", "file a\n+ b\n").is_err());
    }

    #[test]
    fn mutations_follow_the_source() {
        let all = mutations().unwrap();
        assert!(all.len() >= 10);
        for mutation in all {
            let source = fs::read_to_string(paths::root().join(&mutation.file)).unwrap();
            mutation.apply(&source).unwrap();
        }
    }
}

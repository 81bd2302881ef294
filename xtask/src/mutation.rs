//! The sources with something broken in them on purpose.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::toolchain::BPF_TARGET;
use crate::{build_ebpf, child, paths, setup};

/// A line and what to put in its place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mutation {
    pub(crate) name: String,
    pub(crate) what: String,
    pub(crate) file: PathBuf,
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

    /// Compiles the kernel programs with the mutation in them; the directory of the object.
    pub(crate) fn compile(&self, tools: &setup::Tools) -> Result<PathBuf> {
        let (root, tree) = (paths::root(), paths::target().join("mutants/tree"));
        for dir in ["kube-vip-ebpf", "kube-vip-common"] {
            copy(&root.join(dir), &tree.join(dir), self, Path::new(dir))?;
        }
        // What kube-vip-common inherits stands in the workspace's manifest.
        let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
        let members = manifest.lines().filter(|line| !line.starts_with("members ="));
        let alone: Vec<&str> =
            members.filter(|line| !line.starts_with("default-members =")).collect();
        write(&tree.join("Cargo.toml"), (alone.join("\n") + "\n").as_bytes())?;

        let build = paths::target().join("mutants/build");
        let mut cargo =
            build_ebpf::bpf_cargo_in(tools, "build", &tree.join("kube-vip-ebpf"), &build)?;
        cargo.args(["--release", "--bin", "kube-vip-ebpf"]);
        child::hidden(&mut cargo, &format!("compiling {}", self.name), "mutants")?;
        let objects = paths::target().join("mutants/bpf");
        let object = build.join(BPF_TARGET).join("release/kube-vip-ebpf");
        write(&objects.join("kube-vip-ebpf.o"), &fs::read(object)?)?;
        Ok(objects)
    }

    /// Builds the agent with the mutation in it, in a tree of its own; its path.
    pub(crate) fn build_agent(&self, tools: &setup::Tools) -> Result<PathBuf> {
        let (root, tree) = (paths::root(), paths::target().join("sabotage/tree"));
        for part in ["Cargo.toml", "Cargo.lock", "clippy.toml", ".cargo"] {
            let path = root.join(part);
            if path.is_dir() {
                copy(&path, &tree.join(part), self, Path::new(part))?;
            } else if path.exists() {
                write(&tree.join(part), &fs::read(path)?)?;
            }
        }
        for dir in [
            "kube-vip",
            "kube-vip-common",
            "kube-vip-quorum",
            "manifests",
            "tests",
            "xtask",
            "fuzz",
        ] {
            copy(&root.join(dir), &tree.join(dir), self, Path::new(dir))?;
        }
        let object = match self.file.starts_with("kube-vip-ebpf") {
            true => self.compile(tools)?,
            false => paths::target().join("bpf"),
        };
        let build = paths::target().join("sabotage/build");
        let mut cargo = child::cargo();
        cargo
            .args(["build", "--package", "kube-vip", "--target-dir"])
            .arg(&build)
            .current_dir(&tree)
            .env_remove("CARGO_BUILD_TARGET")
            .env("KUBE_VIP_EBPF_OBJECT", object.join("kube-vip-ebpf.o"));
        child::stream(&mut cargo, &format!("building kube-vip with {}", self.name))?;
        Ok(build.join("debug/kube-vip"))
    }
}

/// All in a directory, by name.
pub(crate) fn all(dir: &str) -> Result<Vec<Mutation>> {
    let dir = paths::root().join(dir);
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Mutation, all};
    use crate::{chaos, mutants, paths};

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
        let (model, chaos) = (all(mutants::MUTATIONS).unwrap(), all(chaos::SABOTAGE).unwrap());
        assert!(model.len() >= 10 && chaos.len() >= 2);
        for mutation in model.into_iter().chain(chaos) {
            let source = fs::read_to_string(paths::root().join(&mutation.file)).unwrap();
            mutation.apply(&source).unwrap();
        }
    }
}

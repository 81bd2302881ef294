//! `cargo xtask`: what a developer types.

mod bench;
mod build;
mod build_ebpf;
mod chaos;
mod child;
mod demo;
mod fingerprint;
mod linker;
mod lint;
mod lint_tables;
mod mutants;
mod mutation;
mod packages;
mod paths;
mod privilege;
mod progress;
mod setup;
mod show;
mod test;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, tests and shows kube-vip. Each command has a --help that teaches.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Setup(setup::Args),
    BuildEbpf(build_ebpf::Args),
    Build(build::Args),
    Demo(demo::Args),
    Test(test::Args),
    Mutants(mutants::Args),
    Chaos(chaos::Args),
    Bench(bench::Args),
    Lint(lint::Args),
}

fn main() -> ExitCode {
    let passed = match Cli::parse().command {
        Command::Setup(args) => setup::run(&args).map(|()| true),
        Command::BuildEbpf(args) => build_ebpf::run(&args).map(|_| true),
        Command::Build(args) => build::run(&args).map(|()| true),
        Command::Demo(args) => demo::run(args).map(|()| true),
        Command::Test(args) => test::run(&args),
        Command::Mutants(args) => mutants::run(&args),
        Command::Chaos(args) => chaos::run(&args),
        Command::Bench(args) => bench::run(args).map(|()| true),
        Command::Lint(args) => lint::run(&args).map(|()| true),
    };
    match passed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! What `cargo xtask bench` measures: how fast, as ratios against a floor of the same run.

mod agent;
mod failover;
mod figures;
mod frames;
mod kernel;
mod live;
mod measure;
mod report;
mod setup;
mod swaps;
mod tcp;
mod updates;
mod verifier;
mod ways;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use clap::Parser;
use report::{Report, Row, Section};

/// Measures the kernel programs and the agent
///
/// Programs run over and over on one frame (`BPF_PROG_TEST_RUN`), and a program that does nothing
/// runs in between: its time is the floor. A program that changes its frame runs inside a wrapper
/// that makes the frame what it was; `÷ floor` is the time of both, and what targets are for,
/// `alone` is without what the wrapper costs. Ratios are medians like the times, each against the
/// floor measured around its sample.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask bench")]
struct Arguments {
    /// Machine-readable output on standard output
    #[arg(long)]
    json: bool,
    /// Fewer and shorter samples
    #[arg(long)]
    quick: bool,
    /// Only this section; failover takes a quarter of an hour and is left out unless it is named
    #[arg(value_name = "SECTION", value_parser = SECTIONS)]
    section: Option<String>,
    /// Only the ways whose name contains this, and nothing else
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Nothing is measured: the figures that `--json` wrote into this file become the README's
    #[arg(long, value_name = "FILE")]
    figures: Option<PathBuf>,
}

/// Their names, in the order in which they are measured.
const SECTIONS: [&str; 8] =
    ["packets", "verifier", "live", "tcp", "swaps", "updates", "atRest", "failover"];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(file) = &arguments.figures {
        return match show_in_readme(file) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let mut report = Report::default();
    let mut add = |section: Section| {
        let text = report.add(section);
        if !arguments.json {
            print!("{text}");
        }
    };
    let quick = arguments.quick;
    let sections: [(&str, &dyn Fn() -> Section); 8] = [
        ("packets", &|| ways(&ways::Plan::new(quick), arguments.only.as_deref())),
        ("verifier", &verifier),
        ("live", &|| live(quick)),
        ("tcp", &|| tcp(quick)),
        ("swaps", &|| swaps(quick)),
        ("updates", &|| updates(quick)),
        ("atRest", &|| at_rest(quick)),
        ("failover", &|| failover(quick)),
    ];
    let wanted = arguments.section.as_deref().or(arguments.only.as_ref().map(|_| "packets"));
    let is_wanted = |key: &str| wanted.map_or(key != "failover", |only| only == key);
    for (_, section) in sections.iter().filter(|(key, _)| is_wanted(key)) {
        add(section());
    }
    if arguments.json {
        println!("{:#}", report.json());
        return ExitCode::SUCCESS;
    }
    for title in report.missing() {
        println!("\nnot measured: {title}");
    }
    let misses: Vec<_> = report.misses().iter().map(|row| format!("  {}", row.what)).collect();
    if misses.is_empty() {
        println!("\nall targets that were measured are met");
    } else {
        println!("\ntargets missed:\n{}", misses.join("\n"));
    }
    ExitCode::SUCCESS
}

/// Writes the figures of an earlier measurement into the README of the directory it is called in.
fn show_in_readme(file: &Path) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let figures = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
    let readme = fs::read_to_string("README.md").context("reading README.md")?;
    fs::write("README.md", figures::with_table(&readme, &figures)?).context("writing README.md")
}

fn ways(plan: &ways::Plan, only: Option<&str>) -> Section {
    // A thread of its own, because what it is pinned to its children would be pinned to as well.
    let measured = thread::scope(|scope| scope.spawn(|| ways::measure(plan, only)).join());
    let measured = measured.unwrap_or_else(|_| Err(anyhow!("a panic, see above")));
    Section {
        key: "packets",
        title: format!(
            "Packets of 64 bytes through the programs: {} samples of {} runs each",
            plan.samples, plan.repeat
        ),
        rows: reason(measured),
    }
}

fn verifier() -> Section {
    Section {
        key: "verifier",
        title: "The programs in the verifier".to_owned(),
        rows: reason(verifier::figures().map(|figures| report::verifier(&figures))),
    }
}

fn live(quick: bool) -> Section {
    let plan = live::Plan::new(quick);
    Section {
        key: "live",
        title: format!(
            "Live frames of 64 bytes on one core: {} samples of {} ms each",
            plan.samples,
            plan.each.as_millis()
        ),
        rows: reason(live::measure(&plan)),
    }
}

fn tcp(quick: bool) -> Section {
    let plan = tcp::Plan::new(quick);
    Section {
        key: "tcp",
        title: format!(
            "Real TCP, hosts as namespaces on one bridge: {} samples of {} ms each",
            plan.samples,
            plan.each.as_millis()
        ),
        rows: reason(tcp::measure(&plan)),
    }
}

fn swaps(quick: bool) -> Section {
    Section {
        key: "swaps",
        title: "No wrong packet while tables change".to_owned(),
        rows: reason(swaps::rows(if quick { 50 } else { 200 })),
    }
}

fn updates(quick: bool) -> Section {
    let changes = if quick { 50 } else { 200 };
    let (frontends, backends) = (10_000, 10);
    let rows = || {
        progress(&format!("{changes} changes of a backend"));
        let mut rows = report::latency(&updates::latency(changes)?);
        progress(&format!("{frontends} frontends at once"));
        let seconds = updates::bulk(frontends, backends)?.as_secs_f64();
        let what = format!("{frontends} frontends × {backends} backends from nothing");
        rows.push(Row::single(what, "s", seconds).at_most(3.0));
        Ok(rows)
    };
    Section { key: "updates", title: "Changes".to_owned(), rows: reason(rows()) }
}

fn at_rest(quick: bool) -> Section {
    let watched = Duration::from_secs(if quick { 3 } else { 10 });
    progress(&format!("three agents at rest for {} s", watched.as_secs()));
    Section {
        key: "atRest",
        title: format!("The agent at rest, the dearest of three over {} s", watched.as_secs()),
        rows: reason(agent::at_rest(watched).map(|used| report::at_rest(&used))),
    }
}

fn failover(quick: bool) -> Section {
    let plan = failover::Plan::new(quick);
    Section {
        key: "failover",
        title: format!(
            "How long nobody answers for a VIP, asked every 10 ms: {} losses, {} handovers",
            plan.losses,
            2 * plan.handovers
        ),
        rows: reason(failover::measure(&plan)),
    }
}

fn reason<T>(result: Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{error:#}"))
}

/// Tells somebody who waits what for.
fn progress(what: &str) {
    eprintln!("    {what} …");
}

//! What keeping history costs, and how fast the past comes back.
//!
//! Two workspaces stand side by side, on a fresh filesystem each: one keeps history, the other does not. Whatever both can
//! do is done in turn by both, so that a ratio compares one round with the same round. Nothing is asserted about time, but
//! that the past comes back as it was is.

mod bulk;
mod creation;
mod first_touch;
mod recovery;
mod site;
mod table;
mod untouched;

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Result, ensure};
use clap::Parser;
use harness::FsKind;

use self::table::Measured;

/// Measure what history costs
///
/// Example: `cargo bench --bench snapshots -- --only creation`
#[derive(Debug, Parser)]
#[command(name = "snapshots", bin_name = "cargo bench --bench snapshots --")]
struct Args {
    /// Run only these parts: untouched, first-touch, creation, bulk, recovery
    #[arg(long, num_args = 1.., value_name = "PART")]
    only: Vec<String>,

    /// Move little data, to try out the benchmark itself; its numbers mean little
    #[arg(long)]
    quick: bool,

    /// Write the numbers there as JSON
    #[arg(long, value_name = "FILE", default_value = "benches/results/snapshots.json")]
    out: PathBuf,

    /// Put the table into this file, between its marks
    #[arg(long, value_name = "FILE")]
    readme: Option<PathBuf>,

    /// What `cargo bench` says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// A part: its name and what measures it.
type Part = (&'static str, fn(bool) -> Result<Vec<Measured>>);

const PARTS: [Part; 5] = [
    ("untouched", untouched::measure),
    ("first-touch", first_touch_everywhere),
    ("creation", creation::measure),
    ("bulk", bulk::measure),
    ("recovery", recovery::measure),
];

fn main() -> ExitCode {
    match bench(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if stderr is gone.
            writeln!(std::io::stderr(), "error: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "mounting needs root; run it with sudo");
    for name in &args.only {
        ensure!(PARTS.iter().any(|(part, _)| part == name), "there is no part {name:?}; --help lists them");
    }
    let mut all = Vec::new();
    for (name, measure) in PARTS {
        if args.only.is_empty() || args.only.iter().any(|wanted| wanted == name) {
            writeln!(std::io::stderr(), "{name} …")?;
            all.extend(measure(args.quick)?);
        }
    }
    std::io::stdout().write_all(table::render(&all, table::Style::Terminal).as_bytes())?;
    table::write_json(&all, &args.out)?;
    if let Some(readme) = &args.readme {
        table::update(readme, &table::render(&all, table::Style::Markdown))?;
    }
    Ok(())
}

fn first_touch_everywhere(quick: bool) -> Result<Vec<Measured>> {
    let kinds = [FsKind::Ext4, FsKind::Xfs, FsKind::Btrfs];
    let measured: Result<Vec<_>> = kinds.into_iter().map(|kind| first_touch::measure(kind, quick)).collect();
    Ok(measured?.concat())
}

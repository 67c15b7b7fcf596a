//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Measure native, wsguard and installed peers side by side in one run
///
/// Example: `cargo bench --bench side_by_side -- --rounds 5 --name results`
#[derive(Debug, Parser)]
#[command(name = "side_by_side", bin_name = "cargo bench --bench side_by_side --")]
pub(crate) struct Args {
    /// Run every row this many times for each variant
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,

    /// Move little data, to try out the benchmark itself; its numbers mean little
    #[arg(long)]
    pub(crate) quick: bool,

    /// Run only rows whose name starts with one of these
    #[arg(long, num_args = 1.., value_name = "ROW")]
    pub(crate) only: Vec<String>,

    /// Measure only these variants; native is always among them
    #[arg(long, num_args = 1.., value_name = "NAME")]
    pub(crate) variants: Vec<String>,

    /// Also measure a filesystem that is mounted already
    #[arg(long, value_name = "NAME=PATH", value_parser = parse_mount)]
    pub(crate) mount: Vec<(String, PathBuf)>,

    /// The program to measure instead of the release build
    #[arg(long, value_name = "PATH")]
    pub(crate) wsguard: Option<PathBuf>,

    /// Put all variants below this directory instead of a fresh ext4 image
    #[arg(long, value_name = "DIR")]
    pub(crate) base: Option<PathBuf>,

    /// Write the results here
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/results"), hide_default_value = true)]
    pub(crate) out: PathBuf,

    /// The results' file name, without an ending
    #[arg(long, default_value = "latest")]
    pub(crate) name: String,

    /// Do not touch memory once before the first row
    #[arg(long)]
    pub(crate) no_pretouch: bool,

    /// Put the table into this Markdown file, between its two result marks
    #[arg(long, value_name = "FILE")]
    pub(crate) readme: Option<PathBuf>,

    /// Measure nothing; print and draw the results in this file again
    #[arg(long, value_name = "FILE")]
    pub(crate) render: Option<PathBuf>,

    /// List the rows and their goals
    #[arg(long)]
    pub(crate) list: bool,

    /// Given by `cargo bench`; changes nothing
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

fn parse_mount(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok((name.to_owned(), PathBuf::from(path)))
        }
        _ => Err("it is not of the form NAME=PATH".to_owned()),
    }
}

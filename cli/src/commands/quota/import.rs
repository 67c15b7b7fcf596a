//! `wsguard quota import`: DS01's storage keys as a policy file.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::STATUSES;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Format, Printer, printable};
use crate::policy_file::{self, Ds01Import, Ds01Sources, PolicyFile};

/// Turn DS01's resource-limits.yaml into a policy file on standard output
///
/// `storage_workspace` becomes a soft limit for each user, with the hard one 10 % above it and an inode for each
/// 100 KiB; null is unlimited. Nothing is changed: look at the file, then `wsguard quota apply` it.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard quota import resource-limits.yaml --members groups > policy.toml", "With the lists of members"),
        ("sudo wsguard quota apply policy.toml --dry-run", "Then see what it would do"),
    ],
    &STATUSES,
))]
pub struct ImportArgs {
    /// resource-limits.yaml
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Where the files it goes with are.
    #[command(flatten)]
    pub beside: BesideArgs,
}

/// Files beside a `resource-limits.yaml`.
#[derive(Clone, Debug, Default, Args)]
pub struct BesideArgs {
    /// Directory with DS01's GROUP.members files
    #[arg(long, value_name = "DIR")]
    pub members: Option<PathBuf>,
    /// DS01's user-overrides.yaml
    #[arg(long, value_name = "FILE")]
    pub overrides: Option<PathBuf>,
}

/// Prints the policy.
///
/// # Errors
/// Fails if a file cannot be read or is not what DS01 has there.
pub(super) fn run(args: &ImportArgs, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let file = read_ds01(&args.file, &args.beside, printer)?;
    match printer.format() {
        Format::Json => printer.json(&file)?,
        Format::Text => {
            let text = file.text()?;
            printer.data(&text)?;
        }
    }
    Ok(ExitStatus::Success)
}

/// Reads DS01's files and says what was left out.
pub(super) fn read_ds01(
    path: &Path,
    beside: &BesideArgs,
    printer: &mut Printer,
) -> Result<PolicyFile, CliError> {
    let limits = read(path)?;
    let overrides = match &beside.overrides {
        Some(path) => Some((read(path)?, path)),
        None => None,
    };
    let members = beside.members.as_deref().map(read_members).transpose()?.unwrap_or_default();
    let sources = Ds01Sources {
        limits: (&limits, path),
        overrides: overrides.as_ref().map(|(text, path)| (text.as_str(), path.as_path())),
        members: &members,
    };
    let Ds01Import { file, notes } = policy_file::import(sources)?;
    for note in notes {
        printer.note(&format!("note: {}", printable(&note)));
    }
    Ok(file)
}

/// Reads a whole file.
pub(super) fn read(path: &Path) -> Result<String, CliError> {
    fs::read_to_string(path).map_err(|source| {
        CliError::io(format!("cannot read {}", path.display()), &source).with_hint("correct the path")
    })
}

fn read_members(dir: &Path) -> Result<Vec<(String, String)>, CliError> {
    let failed = |source: std::io::Error| {
        CliError::io(format!("cannot list {}", dir.display()), &source).with_hint("correct the path")
    };
    let mut members = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let group = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".members"));
        if let Some(group) = group.map(str::to_owned) {
            members.push((group, read(&path)?));
        }
    }
    members.sort();
    Ok(members)
}

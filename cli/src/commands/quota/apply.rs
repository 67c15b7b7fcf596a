//! `wsguard quota apply`: the policy is what a file says.

use std::path::{Path, PathBuf};

use clap::Args;
use wsguard_api::QuotaEdit;

use super::STATUSES;
use super::change::{self, ChangeArgs};
use super::import::{BesideArgs, read, read_ds01};
use super::subject::Directory;
use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Printer, printable};
use crate::policy_file::PolicyFile;
use crate::settings::Settings;

/// Make the limits what a file says, by difference
///
/// The file is TOML: tables [default], [group.NAME], [user.NAME], [project.NAME] and [pool."DIR"]. Limits are
/// { hard = "500G", soft = "450G", inodes = "1M", inodes-soft = "900k", grace = "7d", mode = "enforce",
/// errno = "edquot", headroom = "64M" }; [default] has each-user and each-project, a group also total and members. A
/// file that ends in .yaml or .yml is read as DS01's resource-limits.yaml, as `wsguard quota import` does.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("sudo wsguard quota apply policy.toml --dry-run", "See what would change and who would be over"),
        ("sudo wsguard quota apply policy.toml --prune", "Also remove what the file does not mention"),
        ("sudo wsguard quota apply resource-limits.yaml --members groups", "DS01's limits"),
    ],
    &STATUSES,
))]
pub struct ApplyArgs {
    /// Policy file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Remove limits and memberships that the file does not mention
    #[arg(long)]
    pub prune: bool,
    /// Leave out users that this machine does not know
    #[arg(long)]
    pub skip_unknown_users: bool,
    /// Files beside DS01's.
    #[command(flatten)]
    pub beside: BesideArgs,
    /// Options of every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Applies it.
///
/// # Errors
/// Fails if the file is wrong, names somebody unknown, or somebody would be over. Nothing is changed then.
pub(super) fn run(
    args: &ApplyArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    let mut file = if is_yaml(&args.file) {
        read_ds01(&args.file, &args.beside, printer)?
    } else {
        PolicyFile::parse(&read(&args.file)?, &args.file)?
    };
    let client = Client::new(settings.socket()?)?;
    let directory = Directory::read(&client)?;
    if args.skip_unknown_users {
        for name in file.remove_unknown_users(&directory) {
            printer.note(&format!("note: no user is named {}, left out", printable(&name)));
        }
    }
    let document = file.document(&directory)?;
    change::make(QuotaEdit::Apply { document, prune: args.prune }, &args.change, &directory, printer)
}

fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

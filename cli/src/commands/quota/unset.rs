//! `wsguard quota unset`: a limit is taken away, and what it would inherit counts again.

use clap::{Args, ValueEnum};
use wsguard_api::{QuotaEdit, QuotaField};

use super::STATUSES;
use super::change::{self, ChangeArgs};
use super::set::each;
use super::subject::Directory;
use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::Printer;
use crate::settings::Settings;

/// A part of the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FieldArg {
    /// Size and soft size
    Bytes,
    /// Inodes and soft inodes
    Inodes,
    /// The grace period
    Grace,
    /// Enforced or not
    Mode,
    /// The error
    Errno,
    /// The room for small files
    Headroom,
}

/// Take a limit away; what the target inherits counts again
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("sudo wsguard quota unset alice", "Everything that was set for a user"),
        ("sudo wsguard quota unset alice --only grace,mode", "Parts of it"),
        ("sudo wsguard quota set alice unlimited", "No limit, whatever the default is"),
    ],
    &STATUSES,
))]
pub struct UnsetArgs {
    /// User, workspace, directory, group:NAME, template:GROUP, pool:DIR or default
    #[arg(value_name = "TARGET")]
    pub target: String,
    /// Take away only these parts
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    pub only: Vec<FieldArg>,
    /// With a template: each workspace, not each user
    #[arg(long)]
    pub each_project: bool,
    /// Options of every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Takes it away.
///
/// # Errors
/// Fails if nothing of it is set.
pub(super) fn run(
    args: &UnsetArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    let client = Client::new(settings.socket()?)?;
    let directory = Directory::read(&client)?;
    let target = directory.target(&args.target, each(args.each_project))?;
    let fields = args
        .only
        .iter()
        .map(|field| match field {
            FieldArg::Bytes => QuotaField::Bytes,
            FieldArg::Inodes => QuotaField::Inodes,
            FieldArg::Grace => QuotaField::Grace,
            FieldArg::Mode => QuotaField::Mode,
            FieldArg::Errno => QuotaField::Errno,
            FieldArg::Headroom => QuotaField::Headroom,
        })
        .collect();
    change::make(QuotaEdit::Unset { target, fields }, &args.change, &directory, printer)
}

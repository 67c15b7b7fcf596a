//! `wsguard quota unset`: a limit is taken away, and what it would inherit counts again.

use clap::{Args, ValueEnum};
use wsguard_api::{KernelEdit, PolicyTarget, QuotaEdit, QuotaField};

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
    /// The enforcement by the filesystem below
    Kernel,
}

/// Take a limit away; what the target inherits counts again
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("sudo wsguard quota unset alice", "Everything that was set for a user"),
        ("sudo wsguard quota unset alice --only grace,mode", "Parts of it"),
        ("sudo wsguard quota unset bert --only kernel", "The worker enforces again; the limit stays"),
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
    let fields: Vec<QuotaField> = args.only.iter().filter_map(|field| field.of_policy()).collect();
    let kernel = args.only.contains(&FieldArg::Kernel).then_some(KernelEdit::Off);
    let edit = if kernel.is_some() && fields.is_empty() {
        nothing(target)
    } else {
        QuotaEdit::Unset { target, fields }
    };
    change::make_with(edit, kernel, &args.change, &directory, printer)
}

impl FieldArg {
    /// Returns the part of the policy, if it is one.
    fn of_policy(self) -> Option<QuotaField> {
        match self {
            Self::Bytes => Some(QuotaField::Bytes),
            Self::Inodes => Some(QuotaField::Inodes),
            Self::Grace => Some(QuotaField::Grace),
            Self::Mode => Some(QuotaField::Mode),
            Self::Errno => Some(QuotaField::Errno),
            Self::Headroom => Some(QuotaField::Headroom),
            Self::Kernel => None,
        }
    }
}

/// Names a target and changes nothing of its limits.
fn nothing(target: PolicyTarget) -> QuotaEdit {
    QuotaEdit::Set {
        target,
        bytes_soft: None,
        bytes_hard: None,
        inodes_soft: None,
        inodes_hard: None,
        grace_seconds: None,
        mode: None,
        errno: None,
        headroom_bytes: None,
    }
}

//! `wsguard quota set`: a limit for a target.

use clap::{Args, ValueEnum};
use wsguard_api::{Bound, ErrorCode, KernelEdit, PolicyTarget, QuotaEdit, QuotaErrno, QuotaMode};

use super::STATUSES;
use super::change::{self, ChangeArgs};
use super::subject::{Directory, Each};
use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::Printer;
use crate::quantity;
use crate::settings::Settings;

/// How a limit is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    /// Nothing is limited or reported
    Off,
    /// Reported, never refused
    Track,
    /// Refused at the limit
    Enforce,
}

/// What a program gets at the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ErrnoArg {
    /// Disk quota exceeded
    Edquot,
    /// No space left on device, for programs that know nothing else
    Enospc,
}

/// The limits that can be set.
#[derive(Clone, Debug, Default, Args)]
pub struct LimitArgs {
    /// Most bytes: 500G, 1.5T, 200GB (1000s), 0, unlimited
    #[arg(value_name = "SIZE", value_parser = quantity::size_bound, allow_hyphen_values = true)]
    pub size: Option<Bound>,
    /// From here on the grace period runs: a size or unlimited
    #[arg(long, value_name = "SIZE", value_parser = quantity::size_bound, allow_hyphen_values = true)]
    pub soft: Option<Bound>,
    /// Most files, directories and links: 100000, 1M, unlimited
    #[arg(long, value_name = "NUMBER", value_parser = quantity::count_bound, allow_hyphen_values = true)]
    pub inodes: Option<Bound>,
    /// From here on the grace period for inodes runs
    #[arg(long, value_name = "NUMBER", value_parser = quantity::count_bound, allow_hyphen_values = true)]
    pub inodes_soft: Option<Bound>,
    /// How long a soft limit may be passed: 7d, 12h
    #[arg(long, value_name = "TIME", value_parser = quantity::seconds, allow_hyphen_values = true)]
    pub grace: Option<u64>,
    /// What is done with the limits
    #[arg(long, value_name = "MODE")]
    pub mode: Option<ModeArg>,
    /// What a program gets at the limit
    #[arg(long, value_name = "ERRNO")]
    pub errno: Option<ErrnoArg>,
    /// Keep this much below the limit for files of at most 1 MiB, so that a full user can still work
    #[arg(long, value_name = "SIZE", value_parser = quantity::size, allow_hyphen_values = true)]
    pub headroom: Option<u64>,
}

impl LimitArgs {
    /// Whether nothing is to be set.
    pub(super) fn is_empty(&self) -> bool {
        [self.size, self.soft, self.inodes, self.inodes_soft].iter().all(Option::is_none)
            && self.grace.is_none()
            && self.mode.is_none()
            && self.errno.is_none()
            && self.headroom.is_none()
    }

    pub(super) fn edit(&self, target: PolicyTarget) -> QuotaEdit {
        QuotaEdit::Set {
            target,
            bytes_soft: self.soft,
            bytes_hard: self.size,
            inodes_soft: self.inodes_soft,
            inodes_hard: self.inodes,
            grace_seconds: self.grace,
            mode: self.mode.map(|mode| match mode {
                ModeArg::Off => QuotaMode::Off,
                ModeArg::Track => QuotaMode::Track,
                ModeArg::Enforce => QuotaMode::Enforce,
            }),
            errno: self.errno.map(|errno| match errno {
                ErrnoArg::Edquot => QuotaErrno::Edquot,
                ErrnoArg::Enospc => QuotaErrno::Enospc,
            }),
            headroom_bytes: self.headroom,
        }
    }
}

/// Set a limit
///
/// What is not given stays as it is. Each part (size, inodes, grace, mode, errno, headroom) that nobody sets for a
/// target itself comes from its group's template, else from the default; see `wsguard quota explain`.
///
/// With --kernel the filesystem of a workspace enforces its size: files that are opened from then on are written at the
/// filesystem's own speed. In return there is no headroom, writes are known per open only, and limits above the
/// workspace (user, group, pool) hold back new writers, not those at work. `wsguard quota unset TARGET --only kernel`
/// goes back.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("sudo wsguard quota set alice 500G", "All workspaces of a user together"),
        ("sudo wsguard quota set default 100G --soft 90G --inodes 1M", "Each user who has no limit of their own"),
        ("sudo wsguard quota set template:students 50G --each-project", "Each workspace of a group's members"),
        ("sudo wsguard quota set group:students 10T", "All members of a group together"),
        ("sudo wsguard quota set ~alice/workspace/bert 200G --dry-run", "See first who would be over"),
        ("sudo wsguard quota set bert 200G --kernel", "Let a btrfs subvolume limit itself"),
    ],
    &STATUSES,
))]
pub struct SetArgs {
    /// User, workspace, directory, group:NAME, template:GROUP, pool:DIR or default
    #[arg(value_name = "TARGET")]
    pub target: String,
    /// What to set.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// With a template: each workspace, not each user
    #[arg(long)]
    pub each_project: bool,
    /// Let the filesystem below enforce the size, so that writes run in the kernel (btrfs subvolumes)
    #[arg(long)]
    pub kernel: bool,
    /// With --kernel: turn quotas of the whole filesystem on where they are off
    #[arg(long, requires = "kernel")]
    pub enable: bool,
    /// Options of every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Sets the limit.
///
/// # Errors
/// Fails if the target is not known, the limits contradict each other, or somebody would be over.
pub(super) fn run(
    args: &SetArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    if args.limits.is_empty() && !args.kernel {
        let message = format!("nothing to set for \"{}\": no size, no --inodes, no other limit", args.target);
        let hint = format!("give a size, such as `wsguard quota set {} 500G`", args.target);
        return Err(CliError::new(ErrorCode::InvalidRequest, message).with_hint(hint));
    }
    let client = Client::new(settings.socket()?)?;
    let directory = Directory::read(&client)?;
    let target = directory.target(&args.target, each(args.each_project))?;
    let kernel = args.kernel.then_some(KernelEdit::On { enable_quotas: args.enable });
    change::make_with(args.limits.edit(target), kernel, &args.change, &directory, printer)
}

/// What `--each-project` stands for.
pub(super) fn each(each_project: bool) -> Each {
    if each_project { Each::Project } else { Each::User }
}

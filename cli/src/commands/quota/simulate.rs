//! `wsguard quota simulate`: who would be over.

use std::collections::BTreeSet;

use clap::Args;
use wsguard_api::{ErrorCode, QuotaEdit, QuotaRow, ScopeRef};

use super::STATUSES;
use super::change::{self, ChangeArgs};
use super::subject::Directory;
use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::Printer;
use crate::settings::Settings;

/// Tell who would be over if users got what a group's members get
///
/// Nothing is changed. Other changes are tried with their own --dry-run.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("sudo wsguard quota simulate --template students", "If everybody was a student"),
        ("sudo wsguard quota simulate --template students alice bob", "If these two were"),
        ("sudo wsguard quota set default 100G --dry-run", "With another default"),
    ],
    &STATUSES,
))]
pub struct SimulateArgs {
    /// Group
    #[arg(long, value_name = "GROUP")]
    pub template: String,
    /// Users, by name or number; all owners of workspaces if none is named
    #[arg(value_name = "USER")]
    pub users: Vec<String>,
}

/// Asks for the plan.
///
/// # Errors
/// Fails if there is no such group or user.
pub(super) fn run(
    args: &SimulateArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    let client = Client::new(settings.socket()?)?;
    let policy = client.quota_policy()?;
    let directory = Directory::read(&client)?;
    let is_known = policy.members.iter().any(|members| members.group == args.template)
        || policy.records.iter().any(|record| {
            let subject = super::subject::target_text(&record.target, &directory.users, None);
            subject.split(' ').next() == Some(&format!("template:{}", args.template))
        });
    if !is_known {
        return Err(CliError::new(ErrorCode::NotFound, format!("no group is called {}", args.template))
            .with_hint("see `wsguard quota template ls`"));
    }
    let uids: Vec<u32> = if args.users.is_empty() {
        owners(&directory.report.items)
    } else {
        args.users.iter().map(|user| directory.user(user)).collect::<Result<_, _>>()?
    };
    let edit = QuotaEdit::Assign { group: args.template.clone(), uids };
    let dry = ChangeArgs { dry_run: true, ..ChangeArgs::default() };
    change::make(edit, &dry, &directory, printer)
}

fn owners(rows: &[QuotaRow]) -> Vec<u32> {
    let projects = rows.iter().filter(|row| matches!(row.scope, ScopeRef::Project { .. }));
    projects.filter_map(|row| row.owner_uid).collect::<BTreeSet<u32>>().into_iter().collect()
}

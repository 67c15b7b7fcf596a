//! `wsguard quota template`: groups, who is in them, and what each member gets.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use wsguard_api::{PolicyDocument, PolicyTarget, QuotaEdit};

use super::STATUSES;
use super::change::{self, ChangeArgs};
use super::set::LimitArgs;
use super::subject::{DEFAULT_GROUP, Directory};
use crate::client::Client;
use crate::commands::Versioned;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Cell, Column, Format, Printer, Table, Tone, View};
use crate::settings::Settings;

/// Manage groups: what each member gets, and who is a member
#[derive(Debug, Args)]
#[command(arg_required_else_help = true, after_help = help::sections(
    &[
        ("wsguard quota template ls", "All groups"),
        ("sudo wsguard quota template set students 500G --soft 450G", "What each student gets"),
        ("sudo wsguard quota template assign students alice bob", "Who is a student"),
        ("sudo wsguard quota simulate --template students", "Who would be over if all were"),
    ],
    &STATUSES,
))]
pub struct TemplateArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: TemplateCommand,
}

/// The commands of templates.
#[derive(Debug, Subcommand)]
pub enum TemplateCommand {
    /// List the groups, what their members get and how many there are
    #[command(after_help = help::sections(&[("sudo wsguard quota template ls", "All groups")], &STATUSES))]
    Ls,
    /// Set what each member of a group gets
    #[command(after_help = help::sections(
        &[
            ("sudo wsguard quota template set students 500G", "Each student"),
            ("sudo wsguard quota template set students 100G --each-project", "Each workspace of each student"),
        ],
        &STATUSES,
    ))]
    Set(TemplateSetArgs),
    /// Make users members of a group, and of no other
    #[command(after_help = help::sections(
        &[("sudo wsguard quota template assign students alice bob", "Two students")],
        &STATUSES,
    ))]
    Assign(AssignArgs),
    /// Take users out of their group
    #[command(after_help = help::sections(
        &[("sudo wsguard quota template unassign alice", "What the default gives counts again")],
        &STATUSES,
    ))]
    Unassign(UnassignArgs),
    /// Remove a group with its limits and memberships
    #[command(after_help = help::sections(
        &[("sudo wsguard quota template rm students --dry-run", "See first who would be over")],
        &STATUSES,
    ))]
    Rm(RemoveArgs),
}

/// Options of `template set`.
#[derive(Debug, Args)]
pub struct TemplateSetArgs {
    /// Group
    #[arg(value_name = "GROUP")]
    pub group: String,
    /// What to set.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Each workspace, not each user
    #[arg(long)]
    pub each_project: bool,
    /// Options of every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Options of `template assign`.
#[derive(Debug, Args)]
pub struct AssignArgs {
    /// Group
    #[arg(value_name = "GROUP")]
    pub group: String,
    /// Users, by name or number
    #[arg(value_name = "USER", required = true)]
    pub users: Vec<String>,
    /// Options of every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Options of `template unassign`.
#[derive(Debug, Args)]
pub struct UnassignArgs {
    /// Users, by name or number
    #[arg(value_name = "USER", required = true)]
    pub users: Vec<String>,
    /// Options of every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Options of `template rm`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Group
    #[arg(value_name = "GROUP")]
    pub group: String,
    /// Options of every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Runs one of them.
///
/// # Errors
/// Whatever keeps the command from doing what was asked.
pub(super) fn run(
    args: &TemplateArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    let client = Client::new(settings.socket()?)?;
    if let TemplateCommand::Ls = &args.command {
        return list(&client.quota_policy()?, printer);
    }
    let directory = Directory::read(&client)?;
    let uids =
        |users: &[String]| users.iter().map(|user| directory.user(user)).collect::<Result<Vec<_>, _>>();
    let (edit, change) = match &args.command {
        TemplateCommand::Ls => return list(&client.quota_policy()?, printer),
        TemplateCommand::Set(args) => {
            let group = args.group.clone();
            let target = if args.each_project {
                PolicyTarget::EachProject { group }
            } else {
                PolicyTarget::EachUser { group }
            };
            (args.limits.edit(target), &args.change)
        }
        TemplateCommand::Assign(args) => {
            let edit = QuotaEdit::Assign { group: args.group.clone(), uids: uids(&args.users)? };
            (edit, &args.change)
        }
        TemplateCommand::Unassign(args) => (QuotaEdit::Unassign { uids: uids(&args.users)? }, &args.change),
        TemplateCommand::Rm(args) => (QuotaEdit::RemoveGroup { group: args.group.clone() }, &args.change),
    };
    change::make(edit, change, &directory, printer)
}

fn list(policy: &PolicyDocument, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    if printer.format() == Format::Json {
        printer.json(&Versioned::new(policy))?;
        return Ok(ExitStatus::Success);
    }
    let view = printer.view();
    printer.data(&groups_table(policy, &view))?;
    Ok(ExitStatus::Success)
}

/// What the table shows of one group.
#[derive(Default)]
struct GroupRow {
    each_user: Option<String>,
    each_project: Option<String>,
    total: Option<String>,
    members: Vec<String>,
}

fn groups_table(policy: &PolicyDocument, view: &View) -> String {
    let mut groups: BTreeMap<String, GroupRow> =
        BTreeMap::from([(DEFAULT_GROUP.to_owned(), GroupRow::default())]);
    for record in &policy.records {
        let hard = record.spec.bytes.map(|bounds| super::rows::bytes_or_unlimited(bounds.hard.number()));
        // A record that says nothing of bytes says something else.
        let text = Some(hard.unwrap_or_else(|| "set".to_owned()));
        match &record.target {
            PolicyTarget::EachUser { group } => groups.entry(group.clone()).or_default().each_user = text,
            PolicyTarget::EachProject { group } => {
                groups.entry(group.clone()).or_default().each_project = text;
            }
            PolicyTarget::Group { name } => groups.entry(name.clone()).or_default().total = text,
            PolicyTarget::Pool { .. } | PolicyTarget::User { .. } | PolicyTarget::Project { .. } => {}
        }
    }
    for members in &policy.members {
        let names = members.uids.iter().map(|uid| view.users.name(*uid));
        groups.entry(members.group.clone()).or_default().members.extend(names);
    }
    let mut table = Table::new([
        Column::Fixed("GROUP"),
        Column::Number("EACH USER"),
        Column::Number("EACH PROJECT"),
        Column::Number("TOTAL"),
        Column::Wrapping("MEMBERS"),
    ]);
    for (name, group) in groups {
        let cell = |text: &Option<String>| match text {
            Some(text) => Cell::new(text),
            None => Cell::toned("–", Tone::Faint),
        };
        let members = if name == DEFAULT_GROUP {
            "everybody who is in no other".to_owned()
        } else {
            group.members.join(" ")
        };
        table.row([
            Cell::new(&name),
            cell(&group.each_user),
            cell(&group.each_project),
            cell(&group.total),
            Cell::new(members),
        ]);
    }
    table.render(view.width)
}

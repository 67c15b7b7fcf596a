//! `wsguard quota requests`: what users ask for from inside their workspaces.

use clap::Args;
use wsguard_api::{BoostRequest, BoostRequestList, RequestState};

use super::STATUSES;
use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Cell, Column, Format, Printer, Table, Tone, View, ago, bytes, count};
use crate::quantity;
use crate::settings::Settings;

/// List requests for more room that wait for an answer, newest first
///
/// A user writes one line to the file .wsguard/request of a workspace, in a container as well: boost 200G for 7d because
/// paper deadline. Everybody sees their own; `approve` and `deny` answer them.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard quota requests", "What waits"),
        ("wsguard quota requests --all", "And what was decided; the latest 1,000 are kept"),
        ("echo 'boost 200G for 7d because paper' > /workspace/.wsguard/request", "Ask, as a user"),
    ],
    &STATUSES,
))]
pub struct RequestsArgs {
    /// List those as well that were decided
    #[arg(long)]
    pub all: bool,
}

/// Prints the list.
///
/// # Errors
/// Fails if no daemon answers.
pub(super) fn run(
    args: &RequestsArgs,
    settings: &Settings,
    printer: &mut Printer,
) -> Result<ExitStatus, CliError> {
    let list = Client::new(settings.socket()?)?.boost_requests(args.all)?;
    if printer.format() == Format::Json {
        printer.json(&list)?;
        return Ok(ExitStatus::Success);
    }
    if list.items.is_empty() {
        printer.note(if args.all { "nobody has asked for anything" } else { "nothing waits" });
        return Ok(ExitStatus::Success);
    }
    let view = printer.view();
    printer.data(&table(&list, &view))?;
    Ok(ExitStatus::Success)
}

fn table(list: &BoostRequestList, view: &View) -> String {
    let mut table = Table::new([
        Column::Number("ID"),
        Column::Fixed("WHEN"),
        Column::Wrapping("WORKSPACE"),
        Column::Fixed("USER"),
        Column::Fixed("ASKS FOR"),
        Column::Fixed("STATE"),
        Column::Wrapping("WHY"),
        Column::Wrapping("ANSWER"),
    ]);
    for request in &list.items {
        table.row([
            Cell::new(request.id.to_string()),
            Cell::new(ago(&request.at, view.now)),
            Cell::new(&request.name),
            Cell::new(view.users.name(request.owner_uid)),
            Cell::new(asks_for(request)),
            state(request.state),
            Cell::new(&request.reason),
            Cell::new(request.answer.as_deref().unwrap_or_default()),
        ]);
    }
    table.render(view.width)
}

/// Returns what is asked for in a few words.
pub(super) fn asks_for(request: &BoostRequest) -> String {
    let amount = if request.bytes > 0 { bytes(request.bytes) } else { count(request.inodes, "inode") };
    format!("{amount} for {}", quantity::seconds_text(request.seconds))
}

fn state(state: RequestState) -> Cell {
    match state {
        RequestState::Pending => Cell::toned("waits", Tone::Warning),
        RequestState::Approved => Cell::toned("approved", Tone::Good),
        RequestState::Denied => Cell::toned("denied", Tone::Bad),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::samples::{plain, view};

    #[test]
    fn what_users_wrote_cannot_steer_the_terminal() {
        let request = BoostRequest {
            id: 3,
            workspace: "w1".into(),
            name: "bert".into(),
            owner_uid: 0,
            by_uid: 0,
            command: String::new(),
            bytes: 200 << 30,
            inodes: 0,
            seconds: 604_800,
            reason: "paper\u{1b}[2J".into(),
            at: "2030-01-01T11:00:00Z".into(),
            state: RequestState::Pending,
            decided_at: None,
            decided_by: None,
            answer: None,
        };
        let text = table(&BoostRequestList { schema: 1, items: vec![request] }, &view(None));
        let text = plain(&text);
        assert!(text.contains("200 GiB for 7d") && text.contains("waits"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}

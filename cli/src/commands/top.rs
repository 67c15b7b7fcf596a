//! `wsguard top`: who writes at this moment.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use wsguard_api::{TopFile, TopReport, TopWorkspace, TopWriter};

use crate::client::Client;
use crate::commands::log::{container, process};
use crate::error::{CliError, ExitStatus};
use crate::help;
use crate::output::{Cell, Column, Format, Printer, Table, View, bytes, count, duration, printable};
use crate::settings::Settings;

/// Lines of the terminal that the headings take.
const HEADING_LINES: usize = 8;

/// Rows of each table where the height is not known or not limited.
const MOST_ROWS: usize = 50;

/// Moves to the corner and clears the screen.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Show who is writing right now
///
/// Processes that change files in workspaces, with their containers and how fast they write, and the files that are
/// open for writing. In a terminal it is renewed until you press Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = help::sections(
    &[
        ("wsguard top", "Watch who writes"),
        ("wsguard top --once", "Look once"),
        ("wsguard top --json", "For programs; one object, then it ends"),
    ],
    &[
        ExitStatus::Success,
        ExitStatus::Failure,
        ExitStatus::Usage,
        ExitStatus::Unavailable,
        ExitStatus::TimedOut,
        ExitStatus::Permission,
        ExitStatus::Interrupted,
    ],
))]
pub struct TopArgs {
    /// Print once and end, as it does where the output is no terminal
    #[arg(long)]
    pub once: bool,
    /// Renew it so often
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub interval: u64,
}

/// Prints the tables, once or until it is interrupted.
///
/// # Errors
/// Fails if no daemon answers.
pub fn run(args: &TopArgs, settings: &Settings, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    let client = Client::new(settings.socket()?)?;
    if printer.format() == Format::Json {
        printer.json(&client.top()?)?;
        return Ok(ExitStatus::Success);
    }
    if args.once || !std::io::stdout().is_terminal() {
        printer.data(&screen(&client.top()?, &printer.view(), MOST_ROWS))?;
        return Ok(ExitStatus::Success);
    }
    loop {
        let rows = terminal_rows().saturating_sub(HEADING_LINES).max(4) / 2;
        let text = screen(&client.top()?, &printer.view(), rows);
        printer.data(&format!("{CLEAR}{text}"))?;
        printer.finish()?;
        std::thread::sleep(Duration::from_secs(args.interval));
    }
}

fn terminal_rows() -> usize {
    rustix::termios::tcgetwinsize(std::io::stdout()).map_or(24, |size| usize::from(size.ws_row).max(24))
}

fn screen(report: &TopReport, view: &View, rows: usize) -> String {
    let mut writers: Vec<(&TopWorkspace, &TopWriter)> = Vec::new();
    let mut files: Vec<(&TopWorkspace, &TopFile)> = Vec::new();
    for workspace in &report.workspaces {
        writers.extend(workspace.writers.iter().map(|writer| (workspace, writer)));
        files.extend(workspace.open_files.iter().map(|file| (workspace, file)));
    }
    writers.sort_by(|a, b| b.1.bytes_per_second.total_cmp(&a.1.bytes_per_second));
    files.sort_by(|a, b| b.1.bytes_per_second.total_cmp(&a.1.bytes_per_second));
    let speed: f64 = writers.iter().map(|(_, writer)| writer.bytes_per_second).sum();
    let open: u64 = report.workspaces.iter().map(|workspace| workspace.open_file_count).sum();
    let mut text = format!(
        "{} writing {}; {} open for writing\n",
        count(writers.len() as u64, "process"),
        rate(speed),
        count(open, "file")
    );
    if !writers.is_empty() {
        text.push('\n');
        text.push_str(&writers_table(&writers, view, rows));
    }
    if !files.is_empty() {
        text.push('\n');
        text.push_str(&files_table(&files, view, rows));
    }
    text
}

fn writers_table(writers: &[(&TopWorkspace, &TopWriter)], view: &View, rows: usize) -> String {
    let mut table = Table::new([
        Column::Fixed("PROCESS"),
        Column::Fixed("CONTAINER"),
        Column::Fixed("USER"),
        Column::Fixed("WORKSPACE"),
        Column::Number("WRITES"),
        Column::Number("CHANGES/S"),
        Column::Number("TOTAL"),
        Column::Number("OPEN"),
        Column::Wrapping("COMMAND LINE"),
    ]);
    for (workspace, writer) in writers.iter().take(rows) {
        table.row([
            Cell::new(process(&writer.command, writer.pid)),
            Cell::new(container(writer.container.as_deref())),
            Cell::new(view.users.name(writer.uid)),
            Cell::new(&workspace.name),
            Cell::new(rate(writer.bytes_per_second)),
            Cell::new(format!("{:.1}", writer.changes_per_second)),
            Cell::new(bytes(writer.bytes)),
            Cell::new(writer.open_files.to_string()),
            Cell::new(shortened(&writer.command_line)),
        ]);
    }
    table.render(view.width)
}

fn files_table(files: &[(&TopWorkspace, &TopFile)], view: &View, rows: usize) -> String {
    let mut table = Table::new([
        Column::Wrapping("OPEN FOR WRITING"),
        Column::Fixed("PROCESS"),
        Column::Fixed("CONTAINER"),
        Column::Number("WRITES"),
        Column::Number("WRITTEN"),
        Column::Number("SINCE"),
    ]);
    for (_, file) in files.iter().take(rows) {
        table.row([
            Cell::new(file.path.as_deref().unwrap_or("(no name)")),
            Cell::new(process(&file.command, file.pid)),
            Cell::new(container(file.container.as_deref())),
            Cell::new(rate(file.bytes_per_second)),
            Cell::new(bytes(file.bytes)),
            Cell::new(duration(Duration::from_secs(file.open_seconds))),
        ]);
    }
    table.render(view.width)
}

fn rate(bytes_per_second: f64) -> String {
    // Rates are far below 2^53; a negative one cannot come, and would become 0.
    format!("{}/s", bytes(bytes_per_second.round() as u64))
}

/// A command line must not push everything else out of sight.
fn shortened(command_line: &str) -> String {
    const LONGEST: usize = 48;
    let line = printable(command_line);
    if line.chars().count() <= LONGEST {
        return line.into_owned();
    }
    line.chars().take(LONGEST - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::samples::{plain, view};

    fn report(processes: u32) -> TopReport {
        let writer = |pid| TopWriter {
            uid: 1000,
            pid,
            command: "python".to_owned(),
            command_line: "python train.py --epochs 3 ".to_owned() + &"x".repeat(200),
            container: Some("3f2a9c".repeat(10)),
            bytes_per_second: 1_048_576.0 * f64::from(pid),
            changes_per_second: 2.04,
            bytes: 5 << 30,
            open_files: 1,
        };
        let file = TopFile {
            path: Some("/home/alice/workspace/bert/models/step-9000.pt".to_owned()),
            uid: 1000,
            pid: 1,
            command: "python".to_owned(),
            container: None,
            bytes: 3 << 30,
            bytes_per_second: 1000.0,
            open_seconds: 125,
        };
        TopReport {
            schema: 1,
            generated_at: "2030-01-01T12:00:00Z".to_owned(),
            workspaces: vec![TopWorkspace {
                id: "bert-7f3a".to_owned(),
                name: "bert".to_owned(),
                writers: (1..=processes).map(writer).collect(),
                open_files: vec![file],
                open_file_count: 7,
            }],
        }
    }

    #[test]
    fn screen_shows_processes_containers_speeds_and_open_files() {
        let text = plain(&screen(&report(2), &view(None), MOST_ROWS));
        assert!(text.starts_with("2 processes writing 3.0 MiB/s; 7 files open for writing\n"), "{text}");
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert!(
            lines[3].starts_with("python[2] 3f2a9c3f2a9c alice bert 2.0 MiB/s 2.0 5.0 GiB 1 python train.py"),
            "the fastest is first:\n{text}"
        );
        assert!(lines.last().unwrap().ends_with("step-9000.pt python[1] - 1000 B/s 3.0 GiB 2 min"), "{text}");
    }

    #[test]
    fn rows_are_limited_and_nothing_is_an_answer() {
        let text = plain(&screen(&report(30), &view(None), 5));
        assert_eq!(text.lines().filter(|line| line.contains("train.py")).count(), 5, "{text}");
        let nothing = TopReport { workspaces: Vec::new(), ..report(0) };
        assert_eq!(screen(&nothing, &view(None), 5), "0 processes writing 0 B/s; 0 files open for writing\n");
    }
}

//! The file `top`: who writes at this moment, and what is large and grows.

use wsguard_api::{EntryType, UsageReport};

use super::{change, printable, size, write_to};
use crate::tracker::{Activity, Process};

/// Lines of each part at most.
const MOST: usize = 10;

/// Longest command line that is shown, characters.
const LONGEST_COMMAND: usize = 60;

pub(super) fn page(activity: Option<&Activity>, usage: Option<&UsageReport>) -> String {
    let mut text = activity.map_or_else(|| "nobody writes now\n".to_owned(), writers);
    text.push('\n');
    match usage {
        Some(usage) => text.push_str(&directories(usage)),
        None => text.push_str("what is large is not counted yet; look again in a moment\n"),
    }
    text
}

fn writers(activity: &Activity) -> String {
    let mut text = format!(
        "processes that write: {}, files open for writing: {}\n",
        activity.writers.len(),
        activity.open_file_count
    );
    for writer in activity.writers.iter().take(MOST) {
        let rate = format!("{}/s", whole(writer.bytes_per_second));
        let who = name_of(writer.process.as_deref());
        write_to(&mut text, format_args!("{rate:>14}  {who} (pid {}", writer.pid));
        if let Some(container) = writer.process.as_ref().and_then(|process| process.container.as_ref()) {
            let short: String = container.chars().take(12).collect();
            write_to(&mut text, format_args!(", container {}", printable(&short)));
        }
        text.push_str(")\n");
    }
    for file in activity.open_files.iter().take(MOST) {
        let path = file.path.as_ref().map_or_else(|| "(no name)".into(), |path| path.to_string_lossy());
        write_to(
            &mut text,
            format_args!("{:>14}  {} (pid {})\n", size(file.bytes), printable(&path), file.pid),
        );
    }
    text
}

fn name_of(process: Option<&Process>) -> String {
    let Some(process) = process else { return "unknown".to_owned() };
    let line = Some(&process.command_line).filter(|line| !line.is_empty()).unwrap_or(&process.command);
    printable(&line.chars().take(LONGEST_COMMAND).collect::<String>())
}

fn directories(usage: &UsageReport) -> String {
    let mut text = format!("largest, {} in all, as of {}\n", size(usage.bytes), usage.generated_at);
    for entry in usage.entries.iter().take(MOST) {
        let slash = if entry.entry == EntryType::Directory { "/" } else { "" };
        write_to(&mut text, format_args!("{:>14}  {}{slash}\n", size(entry.bytes), printable(&entry.path)));
    }
    if let Some(since) = &usage.growth_since {
        write_to(&mut text, format_args!("\ngrown most since {since}\n"));
        for growth in usage.growing.iter().filter(|growth| growth.bytes > 0).take(MOST) {
            let path = if growth.path.is_empty() { "." } else { &growth.path };
            write_to(&mut text, format_args!("{:>14}  {}\n", change(growth.bytes), printable(path)));
        }
    }
    text
}

fn whole(bytes_per_second: f64) -> String {
    // Rates are far below 2^53; a negative one cannot come, and would become 0.
    size(bytes_per_second.round() as u64)
}

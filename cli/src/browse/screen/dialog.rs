//! What lies over the panes: help, the confirmation of a restore, and how far it is.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Gauge, Paragraph, Wrap};
use wsguard_api::{RestoreJob, RestorePlan, RestoreRequest, RestoreWhen};

use super::Surroundings;
use crate::browse::state::{CONFLICTS, Dialog, HELP, State, is_destructive};
use crate::browse::text::shown_name;
use crate::commands::restore::shown::{counts, ended, note};
use crate::output::{bytes, count, printable};

/// Paths and notes that a confirmation names.
const MOST_NAMED: usize = 3;

pub(super) fn draw(frame: &mut Frame<'_>, state: &State, surroundings: &Surroundings) {
    let Some(dialog) = &state.dialog else { return };
    match dialog {
        Dialog::Help(line) => help(frame, *line),
        Dialog::Planning(request) => {
            let mut lines = asked(request, state, surroundings);
            lines.push(Line::raw("finding out what would be done ..."));
            lines.push(Line::raw(""));
            lines.extend(choices(request));
            lines.extend([Line::raw(""), keys("Esc leave")]);
            window(frame, " restore ", lines);
        }
        Dialog::Confirm(request, plan) => {
            let mut lines = asked(request, state, surroundings);
            lines.extend(planned(plan));
            lines.push(Line::raw(""));
            lines.extend(choices(request));
            let yes = if is_destructive(plan) { "y begin" } else { "y or Enter begin" };
            lines.extend([Line::raw(""), keys(&format!("{yes}   up down choose   n or Esc leave"))]);
            window(frame, " restore ", lines);
        }
        Dialog::Running => progress(frame, state.job.as_ref()),
        Dialog::Ended => {
            let mut lines = Vec::new();
            if let Some(job) = &state.job {
                lines.push(Line::raw(printable(ended(job).trim_end()).into_owned()));
                let error = job.error.iter().map(|error| printable(error).into_owned());
                let told = job.notes.iter().chain(&job.failures).map(note);
                lines.extend(error.chain(told).take(8).map(Line::raw));
                if let Some(snapshot) = job.snapshot {
                    let text = format!(
                        "how it was before is snapshot {snapshot}; take it back with `wsguard restore --undo`"
                    );
                    lines.extend([Line::raw(""), Line::raw(text)]);
                }
            }
            lines.extend([Line::raw(""), keys("any key goes on")]);
            window(frame, " restore ", lines);
        }
        Dialog::Failure(reason) => {
            let reason = Line::styled(printable(reason).into_owned(), Style::new().fg(Color::Red));
            window(frame, " this did not work ", vec![reason, Line::raw(""), keys("any key goes on")]);
        }
    }
}

fn help(frame: &mut Frame<'_>, first: usize) {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let lines: Vec<Line<'_>> = HELP
        .iter()
        .map(|(key, what)| match *key {
            "" => Line::styled(*what, bold),
            key => Line::from(vec![Span::raw(format!("  {key:<16}")), Span::raw(*what)]),
        })
        .collect();
    let area = frame.area();
    let rows = u16::try_from(HELP.len()).unwrap_or(u16::MAX).saturating_add(2).min(area.height);
    let window = centred(area, 74, rows);
    // Nothing is scrolled away that there is room for.
    let first = first.min(HELP.len().saturating_sub(usize::from(window.height.saturating_sub(2))));
    frame.render_widget(Clear, window);
    let shown: Vec<Line<'_>> = lines.into_iter().skip(first).collect();
    frame.render_widget(Paragraph::new(shown).block(Block::bordered().title(" keys ")), window);
}

/// Says what is to be restored, and as of when.
fn asked(request: &RestoreRequest, state: &State, surroundings: &Surroundings) -> Vec<Line<'static>> {
    let moment = state.moments.iter().find(|moment| moment.key.when().as_ref() == Some(&request.when));
    let what = match &request.when {
        RestoreWhen::Snapshot(id) => format!("snapshot {id}"),
        RestoreWhen::BeforeBurst(_) => "just before the deletion".to_owned(),
        RestoreWhen::At(at) => printable(at).into_owned(),
        RestoreWhen::BeforeDelete => "before it was deleted".to_owned(),
    };
    let at = moment.and_then(|moment| moment.at);
    let at = at.map_or_else(String::new, |at| format!(", {}", surroundings.local(at)));
    let number = count(request.paths.len() as u64, "path");
    let mut lines = vec![Line::raw(format!("{number} as of {what}{at}:"))];
    for path in request.paths.iter().take(MOST_NAMED) {
        let relative = state.relative_to_workspace(path);
        lines.push(Line::raw(format!("  {}", shown_name(relative.as_os_str().as_encoded_bytes()))));
    }
    let more = request.paths.len().saturating_sub(MOST_NAMED);
    if more > 0 {
        lines.push(Line::raw(format!("  and {more} more")));
    }
    lines.push(Line::raw(""));
    lines
}

fn planned(plan: &RestorePlan) -> Vec<Line<'static>> {
    let mut lines = vec![Line::raw(counts(&plan.counts, "would be"))];
    let left = plan.available_bytes.map_or_else(String::new, |left| format!(" of {} free", bytes(left)));
    lines.push(Line::raw(format!("takes {}{left}", bytes(plan.needed_bytes))));
    for line in plan.notes.iter().take(MOST_NAMED) {
        lines.push(Line::styled(format!("  {}", note(line)), Style::new().fg(Color::Yellow)));
    }
    lines
}

fn choices(request: &RestoreRequest) -> Vec<Line<'static>> {
    let mut lines = vec![Line::raw("where something else exists now:")];
    for (conflict, words) in CONFLICTS {
        let is_chosen = conflict == request.conflict;
        let style = if is_chosen { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        let sign = if is_chosen { ">" } else { " " };
        lines.push(Line::styled(format!(" {sign} {words}"), style));
    }
    lines
}

fn progress(frame: &mut Frame<'_>, job: Option<&RestoreJob>) {
    let window = centred(frame.area(), 66, 8);
    frame.render_widget(Clear, window);
    let block = Block::bordered().title(" restore ");
    let mut rows = block.inner(window).rows();
    frame.render_widget(block, window);
    let (done, total, told) = match job {
        None => (0, 0, "beginning ...".to_owned()),
        Some(job) => {
            let eta = job.eta_seconds.map_or_else(String::new, |seconds| format!(", {seconds} s left"));
            let rate = bytes(job.bytes_per_second.max(0.0) as u64);
            let told = format!("{} of {}, {rate}/s{eta}", bytes(job.done_bytes), bytes(job.total_bytes));
            (job.done, job.total, told)
        }
    };
    let ratio = if total == 0 { 0.0 } else { (done as f64 / total as f64).clamp(0.0, 1.0) };
    if let Some(area) = rows.next() {
        let number = job.map_or_else(String::new, |job| format!("restore {}: ", job.id));
        frame.render_widget(Line::raw(format!("{number}{done} of {} done", count(total, "path"))), area);
    }
    if let Some(area) = rows.next() {
        let gauge = Gauge::default().ratio(ratio).gauge_style(Style::new().fg(Color::Cyan));
        frame.render_widget(gauge, area);
    }
    if let Some(area) = rows.next() {
        frame.render_widget(Line::raw(told), area);
    }
    if let Some(area) = rows.nth(1) {
        frame.render_widget(keys("c break off   Esc leave it running"), area);
    }
}

fn keys(text: &str) -> Line<'static> {
    Line::styled(text.to_owned(), Style::new().fg(Color::Cyan))
}

/// Shows lines in the middle; those that are too long are wrapped.
fn window(frame: &mut Frame<'_>, title: &'static str, lines: Vec<Line<'static>>) {
    let area = frame.area();
    let width = 66.min(area.width);
    let room = usize::from(width.saturating_sub(2)).max(1);
    // Wrapping at words takes a row more at most.
    let rows: usize = lines.iter().map(|line| line.width().div_ceil(room).max(1) + line.width() / room).sum();
    let rows = u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(2);
    let window = centred(area, width, rows);
    frame.render_widget(Clear, window);
    let text = Paragraph::new(lines).wrap(Wrap { trim: false }).block(Block::bordered().title(title));
    frame.render_widget(text, window);
}

fn centred(area: Rect, width: u16, height: u16) -> Rect {
    let (width, height) = (width.min(area.width), height.min(area.height));
    Rect::new(area.x + (area.width - width) / 2, area.y + (area.height - height) / 2, width, height)
}

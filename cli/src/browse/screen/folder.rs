//! The pane of the directory.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};
use wsguard_api::{PastChange, PastKind, VersionCertainty};

use super::{Surroundings, block, cursor_style, first_shown, is_focused, say};
use crate::browse::folder::{Row, change_mark, kind_mark, path_of};
use crate::browse::panes::Focus;
use crate::browse::state::State;
use crate::browse::text::shown_name;
use crate::output::{bytes, count};

/// Columns from which on the time is shown, and in full.
const WITH_AGE: u16 = 36;
const WITH_TIME: u16 = 60;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, state: &State, surroundings: &Surroundings) {
    let focused = is_focused(state, Focus::Folder);
    let mut name = shown_name(state.relative().as_os_str().as_encoded_bytes());
    name.insert(0, '/');
    let mut title = format!(" {} ", name.replacen("//", "/", 1));
    if let Some(folder) = state.folder() {
        let shown = if folder.len() == folder.total() {
            count(folder.total() as u64, "name")
        } else {
            format!("{} of {}", folder.len(), count(folder.total() as u64, "name"))
        };
        title.push_str(&format!("({shown}) "));
        if !folder.existed {
            title.push_str("not there then ");
        }
        if folder.left_out > 0 {
            title.push_str(&format!("{} more not shown ", folder.left_out));
        }
    }
    let block = block(title, focused);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let folder = match &state.folder {
        None if state.moments.is_empty() => return,
        None => return say(frame, inner, "looking at the directory ..."),
        Some(Err(reason)) => return say(frame, inner, reason),
        Some(Ok(folder)) => folder,
    };
    if folder.len() == 0 {
        let text = if folder.total() == 0 { "empty" } else { "no name passes the filter" };
        return say(frame, inner, text);
    }
    let first = first_shown(folder.cursor(), folder.len(), inner.height);
    for (place, area) in (first..folder.len()).zip(inner.rows()) {
        let Some(row) = folder.row(place) else { continue };
        let moment = state.moment().map(|moment| &moment.key);
        let is_marked = moment.is_some_and(|moment| state.marks.contains(moment, &path_of(&state.dir, row)));
        draw_row(frame, area, row, is_marked, surroundings);
        if place == folder.cursor() {
            frame.buffer_mut().set_style(area, cursor_style(focused));
        }
    }
}

fn draw_row(frame: &mut Frame<'_>, area: Rect, row: &Row, is_marked: bool, surroundings: &Surroundings) {
    let entry = &row.entry;
    let time_columns = match area.width {
        WITH_TIME.. => 20,
        WITH_AGE.. => 9,
        _ => 0,
    };
    let widths =
        [Constraint::Length(4), Constraint::Min(6), Constraint::Length(10), Constraint::Length(time_columns)];
    let [marks, name, size, time] = Layout::horizontal(widths).areas(area);
    let tone = tone(entry.change);
    let doubt = match entry.certainty {
        Some(VersionCertainty::Fuzzy) => '~',
        Some(VersionCertainty::ChangedOutside) => '?',
        Some(VersionCertainty::Damaged) => '!',
        Some(VersionCertainty::Exact) | None => ' ',
    };
    let shown = vec![
        Span::raw(if is_marked { "+" } else { " " }),
        Span::styled(change_mark(entry.change).to_string(), tone),
        Span::styled(doubt.to_string(), Style::new().fg(Color::Red)),
    ];
    frame.render_widget(Line::from(shown), marks);
    frame.render_widget(
        Line::from(Span::styled(format!("{}{}", row.name, kind_mark(entry.kind)), tone)),
        name,
    );
    let shown_size = match (entry.kind, entry.size) {
        (PastKind::File, Some(size)) => bytes(size),
        (PastKind::File, None) => "lost".to_owned(),
        (PastKind::Directory | PastKind::Symlink | PastKind::Other, _) => String::new(),
    };
    frame.render_widget(Line::from(shown_size).right_aligned(), size);
    let modified = entry.modified.as_deref().and_then(|at| at.parse().ok());
    let shown_time = modified.map_or_else(String::new, |at| match area.width {
        WITH_TIME.. => surroundings.local(at),
        _ => surroundings.age(at),
    });
    frame.render_widget(Line::from(shown_time).right_aligned(), time);
}

fn tone(change: PastChange) -> Style {
    match change {
        PastChange::Same => Style::new(),
        PastChange::Changed => Style::new().fg(Color::Yellow),
        PastChange::Attributes => Style::new().fg(Color::Blue),
        PastChange::Deleted => Style::new().fg(Color::Red),
        PastChange::New => Style::new().fg(Color::Green),
    }
}

//! The pane of a file: its beginning, or how it differs from now.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};

use super::{block, is_focused, mode_title, say};
use crate::browse::content::{Body, Content, Side};
use crate::browse::folder::{Folder, change_words};
use crate::browse::panes::{Focus, hex_width};
use crate::browse::state::State;
use crate::browse::text::hex_row;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let row = state.folder().and_then(Folder::selected);
    let name = row.map_or_else(String::new, |row| format!("{}: ", row.name));
    let block = block(format!(" {name}{} ", mode_title(state.mode)), is_focused(state, Focus::Content));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let (Some(content), Some(row)) = (&state.content, row) else {
        if row.is_some() {
            say(frame, inner, "looking ...");
        }
        return;
    };
    let mut rows = inner.rows();
    if let Some(area) = rows.next() {
        frame.render_widget(facts(content, change_words(row.entry.change)), area);
    }
    let body = Rect { y: inner.y.saturating_add(1), height: inner.height.saturating_sub(1), ..inner };
    let width = hex_width(area.width);
    let last = content.rows(width).saturating_sub(1);
    let first = state.scroll.min(last);
    match &content.body {
        Body::Nothing(reason) => say(frame, body, reason),
        Body::Lines(lines) => {
            for (line, area) in lines.iter().skip(first).zip(rows) {
                frame.render_widget(Line::raw(line.as_str()), area);
            }
        }
        Body::Bytes(bytes) => {
            for (row, area) in (first..content.rows(width)).zip(rows) {
                frame.render_widget(Line::raw(hex_row(bytes, row, width)), area);
            }
        }
        Body::Comparison(lines) => {
            for ((side, line), area) in lines.iter().skip(first).zip(rows) {
                let style = match side {
                    Side::Both => Style::new(),
                    Side::Then => Style::new().fg(Color::Red),
                    Side::Now => Style::new().fg(Color::Green),
                    Side::Place => Style::new().fg(Color::Cyan),
                };
                frame.render_widget(Line::styled(line.as_str(), style), area);
            }
        }
    }
}

fn facts(content: &Content, change: &'static str) -> Line<'static> {
    let mut spans = Vec::new();
    if let Some(doubt) = content.doubt {
        spans.push(Span::styled(format!("{doubt}; "), Style::new().fg(Color::Red)));
    }
    let facts =
        if content.facts.is_empty() { change.to_owned() } else { format!("{change}; {}", content.facts) };
    spans.push(Span::styled(facts, Style::new().fg(Color::DarkGray)));
    Line::from(spans)
}

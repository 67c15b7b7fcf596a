//! The pane of the time line.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};

use super::{Surroundings, block, cursor_style, first_shown, is_focused, say};
use crate::browse::moment::Moment;
use crate::browse::panes::Focus;
use crate::browse::state::State;

/// Columns from which on there is room for more than the label.
const ROOMY: u16 = 40;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, state: &State, surroundings: &Surroundings) {
    let focused = is_focused(state, Focus::TimeLine);
    let block = block(" time line ".to_owned(), focused);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    match (&state.failure, state.moments.is_empty()) {
        (Some(reason), true) => return say(frame, inner, reason),
        (None, true) => return say(frame, inner, "looking for snapshots and deletions ..."),
        (_, false) => {}
    }
    let first = first_shown(state.moment, state.moments.len(), inner.height);
    let shown = state.moments.iter().enumerate().skip(first).take(usize::from(inner.height));
    for ((place, moment), row) in shown.zip(inner.rows()) {
        let mut line = line(moment, surroundings, area.width >= ROOMY);
        if place == state.moment {
            line = line.patch_style(cursor_style(focused));
            frame.buffer_mut().set_style(row, cursor_style(focused));
        }
        frame.render_widget(line, row);
    }
}

fn line(moment: &Moment, surroundings: &Surroundings, is_roomy: bool) -> Line<'static> {
    let age = moment.at.map_or_else(String::new, |at| surroundings.age(at));
    let tone = match moment.mark {
        '!' => Style::new().fg(Color::Red),
        'x' => Style::new().fg(Color::Yellow),
        '*' => Style::new().fg(Color::Green),
        _ => Style::new(),
    };
    let more = match (moment.more.is_empty(), is_roomy) {
        (false, true) => format!(", {}", moment.more),
        _ => String::new(),
    };
    Line::from(vec![
        Span::raw(format!("{age:>8} ")),
        Span::styled(format!("{} ", moment.mark), tone),
        Span::raw(moment.label.clone()),
        Span::styled(more, Style::new().fg(Color::DarkGray)),
    ])
}

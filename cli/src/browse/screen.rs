//! What the terminal shows: the same state always looks the same. All text in it is harmless already.

mod content;
mod dialog;
mod folder;
mod time_line;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph};

use super::panes::Focus;
use super::question::Mode;
use super::state::State;
use super::text::shown_name;
use crate::output::{ago, count};

/// What the screen depends on besides the state.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    /// "3 min ago" counts from here.
    pub(crate) now: Timestamp,
    /// In which times are shown.
    pub(crate) zone: TimeZone,
    /// Colours are wanted.
    pub(crate) is_coloured: bool,
}

impl Surroundings {
    /// Returns how long ago something was, without the word.
    fn age(&self, at: Timestamp) -> String {
        let shown = ago(&at.to_string(), self.now);
        shown.strip_suffix(" ago").unwrap_or(&shown).to_owned()
    }

    /// Returns a time of the clock on the wall.
    fn local(&self, at: Timestamp) -> String {
        at.to_zoned_datetime(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
    }
}

/// Draws everything.
pub(crate) fn draw(frame: &mut Frame<'_>, state: &State, surroundings: &Surroundings) {
    let panes = state.panes();
    if let Some(area) = panes.title {
        frame.render_widget(title(state, surroundings), area);
    }
    if let Some(area) = panes.time_line {
        time_line::draw(frame, area, state, surroundings);
    }
    if let Some(area) = panes.folder {
        folder::draw(frame, area, state, surroundings);
    }
    if let Some(area) = panes.content {
        content::draw(frame, area, state);
    }
    if let Some(area) = panes.footer {
        frame.render_widget(footer(state, area.width), area);
    }
    dialog::draw(frame, state, surroundings);
    if !surroundings.is_coloured {
        for cell in &mut frame.buffer_mut().content {
            (cell.fg, cell.bg) = (Color::Reset, Color::Reset);
        }
    }
}

fn title(state: &State, surroundings: &Surroundings) -> Line<'static> {
    let mut text = format!(" {}", crate::output::printable(&state.workspace));
    let relative = shown_name(state.relative().as_os_str().as_encoded_bytes());
    text.push_str(&format!(":/{}", relative.trim_start_matches('/')));
    if let Some(moment) = state.moment() {
        match moment.at {
            None => text.push_str(" now"),
            Some(at) => {
                text.push_str(&format!(" as of {}, {}", surroundings.local(at), moment.label));
            }
        }
    }
    Line::from(Span::styled(text, Style::new().add_modifier(Modifier::BOLD)))
}

fn footer(state: &State, width: u16) -> Line<'static> {
    if state.is_filtering {
        return Line::from(format!(" /{}_", crate::output::printable(&state.filter)));
    }
    if let Some(notice) = &state.notice {
        let text = format!(" {}", crate::output::printable(notice));
        return Line::from(Span::styled(text, Style::new().fg(Color::Yellow)));
    }
    let mut text = String::new();
    if state.marks.len() > 0 {
        text.push_str(&format!(" {} marked |", count(state.marks.len() as u64, "path")));
    }
    if !state.filter.is_empty() {
        text.push_str(&format!(" /{} |", crate::output::printable(&state.filter)));
    }
    let keys = if width >= 76 {
        " ? help  q end  Tab pane  Enter open  p preview  d diff  m mark  r restore"
    } else {
        " ? help  q end"
    };
    text.push_str(keys);
    Line::from(Span::styled(text, Style::new().fg(Color::DarkGray)))
}

/// Returns the frame of a pane.
fn block(title: String, is_focused: bool) -> Block<'static> {
    let style = if is_focused { Style::new().fg(Color::Cyan) } else { Style::new().fg(Color::DarkGray) };
    let title = if is_focused {
        Span::styled(title, Style::new().add_modifier(Modifier::BOLD))
    } else {
        Span::raw(title)
    };
    Block::bordered().border_style(style).title(Line::from(title))
}

/// Returns the style of the line under the cursor.
fn cursor_style(is_focused: bool) -> Style {
    if is_focused {
        Style::new().add_modifier(Modifier::REVERSED)
    } else {
        Style::new().add_modifier(Modifier::BOLD)
    }
}

/// Returns the first line that is shown, so that the cursor is in the middle where possible.
fn first_shown(cursor: usize, length: usize, height: u16) -> usize {
    let height = usize::from(height);
    cursor.saturating_sub(height / 2).min(length.saturating_sub(height))
}

/// Says something in the middle of a pane that has nothing else to show.
fn say(frame: &mut Frame<'_>, area: Rect, text: &str) {
    let text = crate::output::printable(text).into_owned();
    frame.render_widget(Paragraph::new(text).wrap(ratatui::widgets::Wrap { trim: true }), area);
}

fn is_focused(state: &State, focus: Focus) -> bool {
    state.focus == focus && state.dialog.is_none()
}

fn mode_title(mode: Mode) -> &'static str {
    match mode {
        Mode::Preview => "preview",
        Mode::Difference => "then and now",
    }
}

#[cfg(test)]
mod tests;

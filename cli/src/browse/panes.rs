//! Which panes a terminal of a size shows, and where. Small ones show fewer.

use ratatui::layout::{Constraint, Layout, Rect};

/// Columns from which on all panes are side by side.
const WIDE: u16 = 120;
/// Columns below which there is one pane.
const NARROW: u16 = 60;
/// Rows below which content takes the place of the directory.
const LOW: u16 = 14;

/// Where the keys go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Focus {
    /// The time line.
    TimeLine,
    /// The directory.
    #[default]
    Folder,
    /// Preview or comparison.
    Content,
}

/// Where each part is; a part that is absent is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Panes {
    /// What is looked at.
    pub(crate) title: Option<Rect>,
    /// The time line.
    pub(crate) time_line: Option<Rect>,
    /// The directory.
    pub(crate) folder: Option<Rect>,
    /// Preview or comparison.
    pub(crate) content: Option<Rect>,
    /// Notices and keys.
    pub(crate) footer: Option<Rect>,
}

/// Divides a terminal.
pub(crate) fn panes(area: Rect, focus: Focus, is_content_wanted: bool) -> Panes {
    let title_rows = u16::from(area.height >= 6);
    let footer_rows = u16::from(area.height >= 3);
    let [title, body, footer] = Layout::vertical([
        Constraint::Length(title_rows),
        Constraint::Min(0),
        Constraint::Length(footer_rows),
    ])
    .areas(area);
    let mut found = Panes {
        title: (title_rows > 0).then_some(title),
        time_line: None,
        folder: None,
        content: None,
        footer: (footer_rows > 0).then_some(footer),
    };
    if area.width >= WIDE {
        let columns = [Constraint::Length(44), Constraint::Fill(2), Constraint::Fill(3)];
        let [time_line, folder, content] = Layout::horizontal(columns).areas(body);
        found.time_line = Some(time_line);
        (found.folder, found.content) = (Some(folder), Some(content));
        return found;
    }
    let right = if area.width >= NARROW {
        let [time_line, right] = Layout::horizontal([Constraint::Length(30), Constraint::Min(0)]).areas(body);
        found.time_line = Some(time_line);
        right
    } else {
        body
    };
    match (area.width >= NARROW, focus, is_content_wanted) {
        (false, Focus::TimeLine, _) => found.time_line = Some(right),
        (false, Focus::Content, true) => found.content = Some(right),
        (false, Focus::Folder | Focus::Content, _) | (true, _, false) => found.folder = Some(right),
        (true, focus, true) if right.height < LOW => match focus {
            Focus::Content => found.content = Some(right),
            Focus::TimeLine | Focus::Folder => found.folder = Some(right),
        },
        (true, _, true) => {
            let [folder, content] = Layout::vertical([Constraint::Fill(2), Constraint::Fill(3)]).areas(right);
            (found.folder, found.content) = (Some(folder), Some(content));
        }
    }
    found
}

/// Returns how many bytes a row of a dump has in a pane of so many columns, borders included.
pub(crate) fn hex_width(columns: u16) -> usize {
    // Place and gaps take nine columns, a byte four.
    let fits = usize::from(columns.saturating_sub(2)).saturating_sub(9) / 4;
    if fits >= 8 { (fits / 8 * 8).min(32) } else { fits.max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(width: u16, height: u16, focus: Focus, is_content_wanted: bool) -> (bool, bool, bool) {
        let panes = panes(Rect::new(0, 0, width, height), focus, is_content_wanted);
        (panes.time_line.is_some(), panes.folder.is_some(), panes.content.is_some())
    }

    #[test]
    fn small_terminals_show_fewer_panes() {
        assert_eq!(shown(200, 60, Focus::Folder, false), (true, true, true));
        assert_eq!(shown(80, 24, Focus::Folder, false), (true, true, false));
        assert_eq!(shown(80, 24, Focus::Folder, true), (true, true, true));
        assert_eq!(shown(80, 12, Focus::Folder, true), (true, true, false));
        assert_eq!(shown(80, 12, Focus::Content, true), (true, false, true));
        assert_eq!(shown(40, 24, Focus::TimeLine, true), (true, false, false));
        assert_eq!(shown(40, 24, Focus::Content, true), (false, false, true));
        assert_eq!(shown(40, 24, Focus::Content, false), (false, true, false));
    }
}

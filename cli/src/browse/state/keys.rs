//! What keys do. Whatever a key does can be read in [`HELP`], which is what `?` shows.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use wsguard_api::{RestoreConflict, RestoreJob, RestorePlan, RestoreRequest, RestoreState};

use super::{Dialog, State};
use crate::browse::folder::moved;
use crate::browse::panes::{Focus, hex_width};
use crate::browse::question::{Mode, Question};

/// Keys and what they do; an empty key begins a part.
pub(crate) const HELP: &[(&str, &str)] = &[
    ("", "Moving"),
    ("up down, j k", "a line; PgUp PgDn a page; Home End, g G all of them"),
    ("Tab", "next pane: time line, directory, content"),
    ("Enter, right, l", "open the directory or file"),
    ("Backspace", "directory above"),
    ("left, h", "directory above; pane to the left"),
    ("", "Looking"),
    ("p", "the file as it was, on and off"),
    ("d", "difference between then and now, on and off"),
    ("/", "only names that contain something; Esc shows all"),
    ("R", "look again"),
    ("", "Restoring"),
    ("m, space", "mark; marks belong to one moment; M unmarks all"),
    ("r", "restore the marked, or what is under the cursor"),
    ("", "What the characters mean"),
    ("o * !", "snapshot; held; something of it is missing"),
    ("x", "the moment before a deletion"),
    ("M D N a", "changed, deleted, new since then; only attributes"),
    ("~ ? !", "fuzzy; changed outside; damaged"),
    ("+", "marked"),
    ("", "q, Ctrl-C end; ? is this help"),
];

/// Lines that End goes down; there are never so many.
const FAR: isize = isize::MAX / 2;

/// The choices of the confirmation, in their order.
pub(crate) const CONFLICTS: [(RestoreConflict, &str); 5] = [
    (RestoreConflict::KeepBoth, "keep both: what is restored gets a name beside it"),
    (RestoreConflict::OnlyMissing, "only missing: leave it alone"),
    (RestoreConflict::IfNewer, "if newer: replace it if it is older"),
    (RestoreConflict::Overwrite, "overwrite: replace it"),
    (RestoreConflict::Exact, "exact: replace it, remove what was not there"),
];

/// Whether a plan takes something away that is there now; a plain Enter does not begin it.
pub(crate) fn is_destructive(plan: &RestorePlan) -> bool {
    plan.counts.replaced + plan.counts.removed > 0
}

impl State {
    pub(super) fn key(&mut self, key: KeyEvent, questions: &mut Vec<Question>) {
        if key.kind == KeyEventKind::Release {
            return;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c') => self.is_over = true,
                KeyCode::Char('l') => self.reload(questions),
                _ => {}
            }
            return;
        }
        self.notice = None;
        if let Some(dialog) = self.dialog.take() {
            self.dialog_key(dialog, key.code, questions);
        } else if self.is_filtering {
            self.filter_key(key.code);
        } else {
            self.pane_key(key.code, questions);
        }
    }

    fn pane_key(&mut self, key: KeyCode, questions: &mut Vec<Question>) {
        let page = self.page();
        match key {
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::PageUp => self.step(-page),
            KeyCode::PageDown => self.step(page),
            KeyCode::Home | KeyCode::Char('g') => self.step(-FAR),
            KeyCode::End | KeyCode::Char('G') => self.step(FAR),
            KeyCode::Tab => self.next_pane(1),
            KeyCode::BackTab => self.next_pane(-1),
            KeyCode::Enter | KeyCode::Right | KeyCode::Char('l') => match self.focus {
                Focus::TimeLine => self.focus = Focus::Folder,
                Focus::Folder => self.open(),
                Focus::Content => {}
            },
            KeyCode::Backspace => match self.focus {
                Focus::TimeLine | Focus::Folder => {
                    self.leave();
                }
                Focus::Content => self.focus = Focus::Folder,
            },
            KeyCode::Left | KeyCode::Char('h') => match self.focus {
                Focus::TimeLine => {}
                Focus::Folder => {
                    if !self.leave() {
                        self.focus = Focus::TimeLine;
                    }
                }
                Focus::Content => self.focus = Focus::Folder,
            },
            KeyCode::Char('m' | ' ') => self.mark(),
            KeyCode::Char('M') => self.marks.clear(),
            KeyCode::Char('p') => self.show(Mode::Preview),
            KeyCode::Char('d') => self.show(Mode::Difference),
            KeyCode::Char('r') => self.plan(questions),
            KeyCode::Char('R') | KeyCode::F(5) => self.reload(questions),
            KeyCode::Char('/') => {
                self.focus = Focus::Folder;
                self.is_filtering = true;
            }
            KeyCode::Char('?') | KeyCode::F(1) => self.dialog = Some(Dialog::Help(0)),
            KeyCode::Esc => self.set_filter(String::new()),
            KeyCode::Char('q') => self.is_over = true,
            _ => {}
        }
    }

    fn filter_key(&mut self, key: KeyCode) {
        let mut filter = self.filter.clone();
        match key {
            KeyCode::Esc => {
                self.is_filtering = false;
                filter.clear();
            }
            KeyCode::Enter | KeyCode::Tab => self.is_filtering = false,
            KeyCode::Up => self.step(-1),
            KeyCode::Down => self.step(1),
            KeyCode::Backspace => {
                filter.pop();
            }
            KeyCode::Char(character) if !character.is_control() => filter.push(character),
            _ => {}
        }
        if filter != self.filter {
            self.set_filter(filter);
        }
    }

    fn set_filter(&mut self, filter: String) {
        if let Some(folder) = self.folder_mut() {
            folder.set_filter(&filter);
        }
        self.filter = filter;
    }

    fn dialog_key(&mut self, dialog: Dialog, key: KeyCode, questions: &mut Vec<Question>) {
        let is_leave = matches!(key, KeyCode::Esc | KeyCode::Char('q' | 'n'));
        self.dialog = match dialog {
            Dialog::Help(line) => match key {
                KeyCode::Down | KeyCode::Char('j') => Some(Dialog::Help(moved(line, 1, HELP.len()))),
                KeyCode::Up | KeyCode::Char('k') => Some(Dialog::Help(moved(line, -1, HELP.len()))),
                KeyCode::PageDown => Some(Dialog::Help(moved(line, 10, HELP.len()))),
                KeyCode::PageUp => Some(Dialog::Help(moved(line, -10, HELP.len()))),
                _ => None,
            },
            Dialog::Planning(_) | Dialog::Confirm(..) if is_leave => {
                self.notice = Some("nothing was changed".to_owned());
                None
            }
            Dialog::Planning(mut request) | Dialog::Confirm(mut request, _)
                if chosen(request.conflict, key) != request.conflict =>
            {
                request.conflict = chosen(request.conflict, key);
                Some(self.ask_for_plan(request, questions))
            }
            Dialog::Planning(request) => Some(Dialog::Planning(request)),
            Dialog::Confirm(request, plan) => match key {
                KeyCode::Char('y') => Some(self.begin(request, questions)),
                KeyCode::Enter if !is_destructive(&plan) => Some(self.begin(request, questions)),
                KeyCode::Enter => {
                    self.notice = Some("what is there now would be replaced: press y".to_owned());
                    Some(Dialog::Confirm(request, plan))
                }
                _ => Some(Dialog::Confirm(request, plan)),
            },
            Dialog::Running => match (key, &self.job) {
                (KeyCode::Char('c'), Some(job)) => {
                    questions.push(Question::Cancel(job.id));
                    Some(Dialog::Running)
                }
                _ if is_leave => {
                    self.notice = Some("the restore goes on".to_owned());
                    None
                }
                _ => Some(Dialog::Running),
            },
            Dialog::Ended | Dialog::Failure(_) => None,
        };
    }

    fn begin(&mut self, request: RestoreRequest, questions: &mut Vec<Question>) -> Dialog {
        let runs = |job: &RestoreJob| matches!(job.state, RestoreState::Planning | RestoreState::Running);
        if self.job.as_ref().is_some_and(runs) {
            return Dialog::Failure("another restore runs; wait until it has ended".to_owned());
        }
        self.job = None;
        questions.push(Question::Start(request));
        Dialog::Running
    }

    /// Shows preview or difference, or hides it if it is shown.
    fn show(&mut self, mode: Mode) {
        let is_shown = self.panes().content.is_some() && self.mode == mode;
        // Back to the preview on wide terminals, where something is always shown.
        self.mode = if is_shown { Mode::Preview } else { mode };
        self.is_content_wanted = !is_shown;
        if is_shown && self.focus == Focus::Content {
            self.focus = Focus::Folder;
        } else if !is_shown && self.panes().content.is_none() {
            // There is no room for both.
            self.focus = Focus::Content;
        }
    }

    fn next_pane(&mut self, step: isize) {
        let has_content = self.is_content_wanted || self.panes().content.is_some();
        let order: &[Focus] = if has_content {
            &[Focus::TimeLine, Focus::Folder, Focus::Content]
        } else {
            &[Focus::TimeLine, Focus::Folder]
        };
        let place = order.iter().position(|focus| *focus == self.focus).unwrap_or(0);
        let next = if step > 0 { place + 1 } else { place + order.len() - 1 };
        if let Some(focus) = order.get(next % order.len()) {
            self.focus = *focus;
        }
    }

    fn step(&mut self, steps: isize) {
        match self.focus {
            Focus::TimeLine => self.moment = moved(self.moment, steps, self.moments.len()),
            Focus::Folder => {
                if let Some(folder) = self.folder_mut() {
                    folder.move_by(steps);
                }
            }
            Focus::Content => {
                let width = self.panes().content.map_or(0, |pane| hex_width(pane.width));
                let rows = self.content.as_ref().map_or(0, |content| content.rows(width));
                self.scroll = moved(self.scroll, steps, rows);
            }
        }
    }

    /// Returns how many lines a page of the pane has.
    fn page(&self) -> isize {
        let panes = self.panes();
        let pane = match self.focus {
            Focus::TimeLine => panes.time_line,
            Focus::Folder => panes.folder,
            Focus::Content => panes.content,
        };
        let rows = pane.map_or(1, |pane| pane.height.saturating_sub(3).max(1));
        isize::try_from(rows).unwrap_or(1)
    }
}

/// Returns what is chosen after a key.
fn chosen(conflict: RestoreConflict, key: KeyCode) -> RestoreConflict {
    let place = CONFLICTS.iter().position(|(each, _)| *each == conflict).unwrap_or(0);
    let next = match key {
        KeyCode::Down | KeyCode::Char('j') | KeyCode::Tab => place + 1,
        KeyCode::Up | KeyCode::Char('k') | KeyCode::BackTab => place + CONFLICTS.len() - 1,
        _ => place,
    };
    CONFLICTS.get(next % CONFLICTS.len()).map_or(conflict, |(each, _)| *each)
}

//! What the browser shows and what the user has done so far. [`State::update`] takes one event and returns what is to be
//! asked; it does nothing else, so that every sequence of events can be tested.

mod keys;

use std::path::{Path, PathBuf};

use ratatui::crossterm::event::KeyEvent;
use ratatui::layout::Rect;
use wsguard_api::{
    PastChange, PastKind, RestoreConflict, RestoreJob, RestorePlan, RestoreRequest, RestoreState,
    SnapshotList, UndoList,
};

pub(crate) use keys::{CONFLICTS, HELP, is_destructive};

use super::content::Content;
use super::folder::{Folder, path_of};
use super::marks::Marks;
use super::moment::{Moment, MomentKey, time_line};
use super::panes::{Focus, Panes, panes};
use super::question::{Answer, ListOf, LookAt, Mode, Question};
use crate::commands::restore::shown::ended;

/// Something that happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A key was pressed.
    Key(KeyEvent),
    /// The terminal has this many columns and rows.
    Resize(u16, u16),
    /// The daemon answered.
    Answer(Answer),
    /// The process is to end.
    Stop,
}

/// What lies over the panes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Dialog {
    /// The keys, from this line on.
    Help(usize),
    /// A restore that is being planned.
    Planning(RestoreRequest),
    /// A restore that can be begun.
    Confirm(RestoreRequest, Box<RestorePlan>),
    /// A restore that runs.
    Running,
    /// A restore that has ended.
    Ended,
    /// Something that did not work.
    Failure(String),
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// The terminal.
    pub(crate) area: Rect,
    /// The workspace's name; empty until the daemon has told it.
    pub(crate) workspace: String,
    root: Option<PathBuf>,
    /// The directory that is shown, absolute.
    pub(crate) dir: PathBuf,
    /// The time line, newest first; empty until it is known.
    pub(crate) moments: Vec<Moment>,
    /// The chosen one.
    pub(crate) moment: usize,
    /// Why there is no time line.
    pub(crate) failure: Option<String>,
    /// The directory at the chosen moment, or why it cannot be shown; `None` until the daemon has answered.
    pub(crate) folder: Option<Result<Folder, String>>,
    /// The daemon has not answered yet: what is shown is of the moment or directory before.
    pub(crate) is_listing: bool,
    listed: Option<ListOf>,
    wanted_name: Option<Vec<u8>>,
    /// Where the keys go.
    pub(crate) focus: Focus,
    /// Preview or comparison.
    pub(crate) mode: Mode,
    is_content_wanted: bool,
    looked: Option<LookAt>,
    /// What is shown of the selected entry.
    pub(crate) content: Option<Content>,
    /// The first row of it that is shown.
    pub(crate) scroll: usize,
    /// What is to be restored.
    pub(crate) marks: Marks,
    /// What names have to contain.
    pub(crate) filter: String,
    /// The keys go into the filter.
    pub(crate) is_filtering: bool,
    /// What lies over the panes.
    pub(crate) dialog: Option<Dialog>,
    ticket: u64,
    round: u64,
    /// The restore that was begun last.
    pub(crate) job: Option<RestoreJob>,
    /// Something to be told, until the next key.
    pub(crate) notice: Option<String>,
    /// It is over.
    pub(crate) is_over: bool,
    /// The user did not end it.
    pub(crate) was_stopped: bool,
}

impl State {
    /// Begins in a directory, with the cursor at a name if one is given; also returns the first question.
    pub(crate) fn new(dir: PathBuf, name: Option<Vec<u8>>) -> (Self, Vec<Question>) {
        let first = vec![Question::TimeLine(dir.clone())];
        let state = Self {
            area: Rect::new(0, 0, 80, 24),
            workspace: String::new(),
            root: None,
            dir,
            moments: Vec::new(),
            moment: 0,
            failure: None,
            folder: None,
            is_listing: true,
            listed: None,
            wanted_name: name,
            focus: Focus::TimeLine,
            mode: Mode::Preview,
            is_content_wanted: false,
            looked: None,
            content: None,
            scroll: 0,
            marks: Marks::default(),
            filter: String::new(),
            is_filtering: false,
            dialog: None,
            ticket: 0,
            round: 0,
            job: None,
            notice: None,
            is_over: false,
            was_stopped: false,
        };
        (state, first)
    }

    /// Takes an event in; returns what is to be asked.
    pub(crate) fn update(&mut self, event: Event) -> Vec<Question> {
        let mut questions = Vec::new();
        match event {
            Event::Key(key) => self.key(key, &mut questions),
            Event::Resize(width, height) => self.area = Rect::new(0, 0, width, height),
            Event::Answer(answer) => self.answer(answer, &mut questions),
            Event::Stop => (self.is_over, self.was_stopped) = (true, true),
        }
        self.settle(&mut questions);
        questions
    }

    /// Returns where the panes are.
    pub(crate) fn panes(&self) -> Panes {
        panes(self.area, self.focus, self.is_content_wanted)
    }

    /// Returns the chosen moment.
    pub(crate) fn moment(&self) -> Option<&Moment> {
        self.moments.get(self.moment)
    }

    /// Returns the directory relative to the workspace; empty for its top.
    pub(crate) fn relative(&self) -> &Path {
        self.relative_to_workspace(&self.dir)
    }

    /// Returns a path relative to the workspace, once the daemon has told where that is.
    pub(crate) fn relative_to_workspace<'a>(&self, path: &'a Path) -> &'a Path {
        let root = self.root.as_deref();
        root.and_then(|root| path.strip_prefix(root).ok()).unwrap_or(path)
    }

    /// Returns the directory, if it could be listed.
    pub(crate) fn folder(&self) -> Option<&Folder> {
        self.folder.as_ref().and_then(|folder| folder.as_ref().ok())
    }

    fn folder_mut(&mut self) -> Option<&mut Folder> {
        self.folder.as_mut().and_then(|folder| folder.as_mut().ok())
    }

    fn answer(&mut self, answer: Answer, questions: &mut Vec<Question>) {
        match answer {
            Answer::TimeLine(Ok(lists)) => self.set_time_line(&lists.0, &lists.1),
            Answer::TimeLine(Err(reason)) => self.failure = Some(reason),
            Answer::Listing(of, result) if self.listed.as_ref() == Some(&of) => {
                self.is_listing = false;
                let keep = match self.wanted_name.take() {
                    Some(name) => Some(name),
                    None => self.folder().and_then(Folder::selected).map(|row| row.entry.name.0.clone()),
                };
                self.folder = Some(result.map(|listing| {
                    self.workspace.clone_from(&listing.workspace);
                    self.set_place(of, &listing.mount_point, &listing.path);
                    Folder::new(*listing, &self.filter, keep.as_deref())
                }));
            }
            Answer::Content(of, content) if self.looked.as_ref() == Some(&of) => self.content = Some(content),
            Answer::Plan(ticket, result) if ticket == self.ticket => {
                let Some(Dialog::Planning(request)) = self.dialog.take() else { return };
                self.dialog = Some(match result {
                    Ok(plan) => Dialog::Confirm(request, plan),
                    Err(reason) => Dialog::Failure(reason),
                });
            }
            Answer::Job(Ok(job)) => self.set_job(*job, questions),
            Answer::Job(Err(reason)) => self.dialog = Some(Dialog::Failure(reason)),
            // It was asked before the user went on.
            Answer::Listing(..) | Answer::Content(..) | Answer::Plan(..) => {}
        }
    }

    fn set_time_line(&mut self, snapshots: &SnapshotList, deletions: &UndoList) {
        let chosen = self.moment().map(|moment| moment.key.clone());
        self.workspace.clone_from(&snapshots.name);
        self.failure = None;
        self.moments = time_line(snapshots, deletions);
        let newest = usize::from(self.moments.len() > 1);
        let place = chosen.and_then(|key| self.moments.iter().position(|moment| moment.key == key));
        self.moment = place.unwrap_or(newest);
    }

    /// The directory may have been named by another way to the same workspace.
    fn set_place(&mut self, of: ListOf, root: &Path, relative: &Path) {
        self.root = Some(root.to_path_buf());
        let dir: PathBuf = root.components().chain(relative.components()).collect();
        if dir != self.dir {
            self.dir.clone_from(&dir);
            self.listed = Some(ListOf { dir, ..of });
        }
    }

    fn set_job(&mut self, job: RestoreJob, questions: &mut Vec<Question>) {
        let is_running = matches!(job.state, RestoreState::Planning | RestoreState::Running);
        if !is_running {
            if self.dialog == Some(Dialog::Running) {
                self.dialog = Some(Dialog::Ended);
            } else {
                self.notice = Some(ended(&job).trim_end().to_owned());
            }
            if job.state == RestoreState::Done {
                self.marks.clear();
            }
            self.reload(questions);
        }
        self.job = Some(job);
    }

    fn reload(&mut self, questions: &mut Vec<Question>) {
        self.round += 1;
        questions.push(Question::TimeLine(self.dir.clone()));
    }

    /// Asks for whatever is to be shown and was not asked for yet.
    fn settle(&mut self, questions: &mut Vec<Question>) {
        let Some(moment) = self.moment().map(|moment| moment.key.clone()) else { return };
        let list = ListOf { moment: moment.clone(), dir: self.dir.clone(), round: self.round };
        if self.listed.as_ref() != Some(&list) {
            self.listed = Some(list.clone());
            self.is_listing = true;
            questions.push(Question::List(list));
        }
        if self.is_listing {
            return;
        }
        let look = self.look_at(moment);
        if self.looked != look {
            let is_other = self.looked.as_ref().map(|old| (&old.path, old.mode))
                != look.as_ref().map(|new| (&new.path, new.mode));
            if is_other {
                self.scroll = 0;
            }
            self.content = None;
            self.looked.clone_from(&look);
            questions.extend(look.map(Question::Look));
        }
    }

    fn look_at(&self, moment: MomentKey) -> Option<LookAt> {
        self.panes().content?;
        let row = self.folder()?.selected()?;
        Some(LookAt {
            moment,
            path: path_of(&self.dir, row),
            kind: row.entry.kind,
            change: row.entry.change,
            mode: self.mode,
            round: self.round,
        })
    }

    /// Opens the directory or file under the cursor.
    fn open(&mut self) {
        if self.is_waiting() {
            return;
        }
        let Some(row) = self.folder().and_then(Folder::selected) else { return };
        if row.entry.kind == PastKind::Directory {
            self.dir = path_of(&self.dir, row);
            self.filter.clear();
        } else {
            self.is_content_wanted = true;
            self.focus = Focus::Content;
        }
    }

    /// Goes to the directory above; false at the top.
    fn leave(&mut self) -> bool {
        if self.root.as_ref().is_none_or(|root| *root == self.dir) {
            return false;
        }
        let name = self.dir.file_name().map(|name| name.as_encoded_bytes().to_vec());
        if !self.dir.pop() {
            return false;
        }
        self.wanted_name = name;
        self.filter.clear();
        true
    }

    /// Whether what is under the cursor is of another moment or directory still.
    fn is_waiting(&mut self) -> bool {
        if self.is_listing && !self.moments.is_empty() {
            self.notice = Some("still looking; press the key again".to_owned());
        }
        self.is_listing
    }

    /// Marks what is under the cursor, or takes the mark away.
    fn mark(&mut self) {
        if self.is_waiting() {
            return;
        }
        let Some((moment, path)) = self.restorable() else { return };
        let dropped = self.marks.toggle(&moment, path);
        if dropped > 0 {
            self.notice = Some(format!("marks belong to one moment: {dropped} of another moment dropped"));
        }
        if let Some(folder) = self.folder_mut() {
            folder.move_by(1);
        }
    }

    /// Returns the moment and the path under the cursor; says why if it cannot be restored.
    fn restorable(&mut self) -> Option<(MomentKey, PathBuf)> {
        let moment = self.moment()?.key.clone();
        let row = self.folder()?.selected()?;
        let (path, change) = (path_of(&self.dir, row), row.entry.change);
        let reason = match (&moment, change) {
            (MomentKey::Now, _) => "this is how it is now; choose an earlier moment",
            (_, PastChange::New) => "it was not there then; there is nothing to restore",
            _ => return Some((moment, path)),
        };
        self.notice = Some(reason.to_owned());
        None
    }

    /// Asks what restoring the marked, or else what is under the cursor, would do.
    fn plan(&mut self, questions: &mut Vec<Question>) {
        let marked = self.marks.all().map(|(moment, paths)| (moment.clone(), paths));
        let (moment, paths) = match marked {
            Some(marked) => marked,
            None if self.is_waiting() => return,
            None => match self.restorable() {
                Some((moment, path)) => (moment, vec![path]),
                None => return,
            },
        };
        let Some(when) = moment.when() else { return };
        let request = RestoreRequest {
            paths,
            when,
            conflict: RestoreConflict::KeepBoth,
            to: None,
            accept_changed: false,
        };
        self.dialog = Some(self.ask_for_plan(request, questions));
    }

    fn ask_for_plan(&mut self, request: RestoreRequest, questions: &mut Vec<Question>) -> Dialog {
        self.ticket += 1;
        questions.push(Question::Plan(self.ticket, request.clone()));
        Dialog::Planning(request)
    }
}

#[cfg(test)]
pub(crate) mod tests;

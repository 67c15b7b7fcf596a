//! What keys and answers do, without a terminal and without a daemon.

use proptest::prelude::*;
use ratatui::crossterm::event::{KeyCode, KeyModifiers};
use wsguard_api::RestoreWhen;

use super::*;
use crate::browse::samples;
use crate::browse::screen::{self, Surroundings};

pub(crate) fn press(state: &mut State, code: KeyCode) -> Vec<Question> {
    state.update(Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

/// Answers every question as the samples do, until nothing is asked any more.
pub(crate) fn settle(state: &mut State, mut questions: Vec<Question>) {
    while let Some(question) = questions.pop() {
        let answer = match question {
            Question::TimeLine(_) => {
                Answer::TimeLine(Ok(Box::new((samples::snapshots(), samples::deletions()))))
            }
            Question::List(of) => {
                let mut listing = samples::listing();
                listing.path = of.dir.strip_prefix(samples::ROOT).unwrap_or(Path::new("")).to_path_buf();
                Answer::Listing(of, Ok(Box::new(listing)))
            }
            Question::Look(at) => {
                use crate::browse::content::{comparison, directory, preview};
                let then = samples::piece("# Notes\n\nlearning rate 3e-4\nbatch\tsize 32\n\x1b[2Jdone\n");
                let now = samples::piece("# Notes\n\nlearning rate 1e-4\nbatch\tsize 32\n");
                let content = match (at.kind, at.mode) {
                    (PastKind::Directory, _) => directory(&samples::listing()),
                    (_, Mode::Preview) => preview(&then),
                    (_, Mode::Difference) => comparison(Some(&then), Some(&now)),
                };
                Answer::Content(at, content)
            }
            Question::Plan(ticket, request) => {
                let replaced = u64::from(request.conflict == RestoreConflict::Overwrite);
                Answer::Plan(ticket, Ok(Box::new(samples::plan(replaced))))
            }
            Question::Start(_) => Answer::Job(Ok(Box::new(samples::job(RestoreState::Running, 50)))),
            Question::Cancel(_) => Answer::Job(Ok(Box::new(samples::job(RestoreState::Cancelled, 50)))),
        };
        questions.extend(state.update(Event::Answer(answer)));
    }
}

/// A browser that has been answered, of a size.
pub(crate) fn browser(width: u16, height: u16) -> State {
    let (mut state, mut questions) = State::new(samples::ROOT.into(), None);
    questions.extend(state.update(Event::Resize(width, height)));
    settle(&mut state, questions);
    state
}

/// Presses keys and answers what is asked meanwhile.
pub(crate) fn go(state: &mut State, keys: &str) {
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            '\u{1b}' => KeyCode::Esc,
            '\u{8}' => KeyCode::Backspace,
            key => KeyCode::Char(key),
        };
        let questions = press(state, code);
        settle(state, questions);
    }
}

fn selected(state: &State) -> &str {
    &state.folder().unwrap().selected().unwrap().name
}

#[test]
fn it_begins_at_the_newest_moment_that_is_not_now() {
    let state = browser(80, 24);
    assert_eq!(state.moment().unwrap().key, MomentKey::Snapshot(3));
    assert_eq!((state.focus, selected(&state)), (Focus::TimeLine, "data"));
}

#[test]
fn a_named_file_is_under_the_cursor() {
    let (mut state, questions) = State::new(samples::ROOT.into(), Some(b"notes.md".to_vec()));
    settle(&mut state, questions);
    assert_eq!(selected(&state), "notes.md");
}

#[test]
fn each_moment_is_asked_for_once() {
    let mut state = browser(80, 24);
    let questions = press(&mut state, KeyCode::Down);
    let moment = MomentKey::BeforeBurst("4294967299".into());
    let dir = PathBuf::from(samples::ROOT);
    assert_eq!(questions, [Question::List(ListOf { moment, dir, round: 0 })]);
    assert_eq!(press(&mut state, KeyCode::Tab), []);
}

#[test]
fn an_answer_that_comes_too_late_is_dropped() {
    let mut state = browser(80, 24);
    let late = press(&mut state, KeyCode::Down);
    let wanted = press(&mut state, KeyCode::Down);
    let [Question::List(late), Question::List(wanted)] = [&late[..], &wanted[..]].map(|all| all[0].clone())
    else {
        panic!("{late:?}, {wanted:?}");
    };
    let mut listing = samples::listing();
    listing.entries.truncate(1);
    state.update(Event::Answer(Answer::Listing(late, Ok(Box::new(listing)))));
    assert!(state.is_listing);
    state.update(Event::Answer(Answer::Listing(wanted, Ok(Box::new(samples::listing())))));
    assert_eq!((state.is_listing, state.folder().unwrap().len()), (false, 9));
}

#[test]
fn directories_are_entered_and_left_with_the_cursor_where_it_was() {
    let mut state = browser(80, 24);
    go(&mut state, "\tj\n");
    assert_eq!(state.relative(), Path::new("old"));
    go(&mut state, "j\u{8}");
    assert_eq!((state.relative(), selected(&state)), (Path::new(""), "old"));
    go(&mut state, "\u{8}");
    assert_eq!(state.relative(), Path::new(""), "there is nothing above the workspace");
    go(&mut state, "h");
    assert_eq!(state.focus, Focus::TimeLine);
}

#[test]
fn marked_files_are_restored_as_of_their_moment() {
    let mut state = browser(80, 24);
    go(&mut state, "j\tjmm");
    assert_eq!(state.marks.len(), 2);
    go(&mut state, "\tg");
    let questions = press(&mut state, KeyCode::Char('r'));
    let [Question::Plan(_, request)] = &questions[..] else { panic!("{questions:?}") };
    assert_eq!(request.when, RestoreWhen::BeforeBurst("4294967299".into()));
    let root = Path::new(samples::ROOT);
    let odd = wsguard_api::ExactBytes(b"bad\x1b[2J\xff.txt".to_vec());
    assert_eq!(request.paths, [root.join(odd.as_os_str()), root.join("old")]);
    assert_eq!(request.conflict, RestoreConflict::KeepBoth);
}

#[test]
fn what_was_not_there_or_is_now_cannot_be_restored() {
    let mut state = browser(80, 24);
    go(&mut state, "\t/new\nr");
    assert_eq!((state.dialog.as_ref(), state.marks.len()), (None, 0));
    assert!(state.notice.as_ref().unwrap().contains("not there then"), "{:?}", state.notice);
    go(&mut state, "\u{1b}\tg\tm");
    assert!(state.notice.as_ref().unwrap().contains("how it is now"), "{:?}", state.notice);
}

#[test]
fn nothing_is_replaced_by_a_plain_enter() {
    let mut state = browser(80, 24);
    go(&mut state, "\t/notes\nrjjj");
    assert!(
        matches!(&state.dialog, Some(Dialog::Confirm(request, _)) if request.conflict == RestoreConflict::Overwrite)
    );
    assert_eq!(press(&mut state, KeyCode::Enter), []);
    assert!(matches!(state.dialog, Some(Dialog::Confirm(..))));
    assert!(matches!(&press(&mut state, KeyCode::Char('y'))[..], [Question::Start(_)]));
    assert_eq!(state.dialog, Some(Dialog::Running));
}

#[test]
fn a_restore_that_has_ended_is_told_and_everything_is_looked_at_again() {
    let mut state = browser(80, 24);
    go(&mut state, "\t/notes\nmr\n");
    assert_eq!((&state.dialog, state.marks.len()), (&Some(Dialog::Running), 1));
    let done = Answer::Job(Ok(Box::new(samples::job(RestoreState::Done, 200))));
    let questions = state.update(Event::Answer(done));
    assert!(matches!(&questions[..], [Question::TimeLine(_), Question::List(of)] if of.round == 1));
    assert_eq!((&state.dialog, state.marks.len()), (&Some(Dialog::Ended), 0));
}

#[test]
fn a_restore_can_be_left_running_or_broken_off() {
    let mut state = browser(80, 24);
    go(&mut state, "\t/notes\nr\n");
    assert_eq!(press(&mut state, KeyCode::Char('c')), [Question::Cancel(5)]);
    go(&mut state, "\u{1b}");
    assert_eq!(state.dialog, None);
    go(&mut state, "r\n");
    assert!(matches!(&state.dialog, Some(Dialog::Failure(reason)) if reason.contains("another restore")));
}

#[test]
fn preview_and_difference_are_shown_and_hidden() {
    let mut state = browser(80, 24);
    go(&mut state, "\t/notes\n");
    assert!(state.panes().content.is_none());
    go(&mut state, "p");
    assert!(state.panes().content.is_some() && state.content.is_some());
    go(&mut state, "d");
    assert_eq!(state.mode, Mode::Difference);
    go(&mut state, "d");
    assert!(state.panes().content.is_none());
    go(&mut state, "\n");
    assert_eq!(state.focus, Focus::Content);
}

#[test]
fn a_failure_of_the_daemon_is_shown() {
    let (mut state, _) = State::new(samples::ROOT.into(), None);
    state.update(Event::Answer(Answer::TimeLine(Err("no daemon".into()))));
    assert_eq!(state.failure.as_deref(), Some("no daemon"));
    let mut state = browser(80, 24);
    let Some(Question::List(of)) = press(&mut state, KeyCode::Down).pop() else { panic!("no question") };
    state.update(Event::Answer(Answer::Listing(of, Err("it was not kept".into()))));
    assert!(matches!(&state.folder, Some(Err(reason)) if reason == "it was not kept"));
}

fn any_event() -> impl Strategy<Value = (Option<KeyCode>, (u16, u16), bool)> {
    let keys = "hjklgGmMpdrRyncq/?\t\n x 0".chars().map(KeyCode::Char).chain([
        KeyCode::Up,
        KeyCode::Down,
        KeyCode::Left,
        KeyCode::Right,
        KeyCode::PageUp,
        KeyCode::PageDown,
        KeyCode::Home,
        KeyCode::End,
        KeyCode::Tab,
        KeyCode::BackTab,
        KeyCode::Enter,
        KeyCode::Backspace,
        KeyCode::Esc,
    ]);
    let key = proptest::sample::select(keys.collect::<Vec<_>>());
    (proptest::option::weighted(0.9, key), (1_u16..=210, 1_u16..=70), any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is pressed, answered late or resized: it can be drawn, and what is asked to be changed was confirmed.
    #[test]
    fn no_sequence_of_keys_panics_at_any_size(
        first in (1_u16..=6, 1_u16..=6),
        events in proptest::collection::vec(any_event(), 1..60),
    ) {
        let surroundings = Surroundings {
            now: samples::NOW.parse().unwrap(),
            zone: jiff::tz::TimeZone::UTC,
            is_coloured: true,
        };
        let (mut state, mut waiting) = State::new(samples::ROOT.into(), None);
        waiting.extend(state.update(Event::Resize(first.0, first.1)));
        for (key, (width, height), is_answered) in events {
            let before = state.dialog.clone();
            let asked = match key {
                Some(code) => press(&mut state, code),
                None => state.update(Event::Resize(width, height)),
            };
            let starts = asked.iter().any(|question| matches!(question, Question::Start(_)));
            prop_assert!(!starts || matches!(before, Some(Dialog::Confirm(..))));
            waiting.extend(asked);
            if is_answered {
                settle(&mut state, std::mem::take(&mut waiting));
            }
            let backend = ratatui::backend::TestBackend::new(state.area.width, state.area.height);
            let mut terminal = ratatui::Terminal::new(backend).unwrap();
            terminal.draw(|frame| screen::draw(frame, &state, &surroundings)).unwrap();
            for cell in &terminal.backend().buffer().content {
                prop_assert!(!cell.symbol().chars().any(char::is_control), "{cell:?}");
            }
        }
    }
}

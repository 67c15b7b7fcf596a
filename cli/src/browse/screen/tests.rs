//! What is shown, compared with the texts in `cli/tests/browse`. `WSGUARD_BLESS=1` writes them anew.

use std::path::PathBuf;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::KeyCode;
use wsguard_api::RestoreState;

use super::*;
use crate::browse::question::Answer;
use crate::browse::samples;
use crate::browse::state::Event;
use crate::browse::state::tests::{browser, go, press};

const SIZES: [(u16, u16); 2] = [(80, 24), (200, 60)];

fn shown(state: &State) -> String {
    let surroundings =
        Surroundings { now: samples::NOW.parse().unwrap(), zone: TimeZone::UTC, is_coloured: false };
    let mut terminal = Terminal::new(TestBackend::new(state.area.width, state.area.height)).unwrap();
    terminal.draw(|frame| draw(frame, state, &surroundings)).unwrap();
    let buffer = terminal.backend().buffer();
    let width = usize::from(buffer.area.width);
    let lines = buffer.content.chunks(width).map(|row| {
        let line: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
        format!("{}\n", line.trim_end())
    });
    lines.collect()
}

/// Compares what is shown at both sizes with the files.
#[track_caller]
fn assert_shown(name: &str, prepare: impl Fn(&mut State)) {
    for (width, height) in SIZES {
        let mut state = browser(width, height);
        prepare(&mut state);
        let text = shown(&state);
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/browse");
        let file = dir.join(format!("{name}-{width}x{height}.txt"));
        if std::env::var_os("WSGUARD_BLESS").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        let expected = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(text == expected, "{} differs (WSGUARD_BLESS=1 writes it anew):\n{text}", file.display());
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}

#[test]
fn the_list_of_moments_is_shown_beside_the_directory() {
    assert_shown("list", |_| {});
}

#[test]
fn the_tree_shows_what_became_of_each_name_and_what_is_marked() {
    assert_shown("tree", |state| go(state, "j\tjmj"));
}

#[test]
fn a_preview_shows_text_without_control_characters() {
    assert_shown("preview", |state| go(state, "\t/notes\np"));
}

#[test]
fn a_difference_is_unified() {
    assert_shown("diff", |state| go(state, "\t/train\nd"));
}

#[test]
fn help_names_every_key() {
    assert_shown("help", |state| go(state, "?"));
}

#[test]
fn a_confirmation_shows_counts_bytes_and_the_choice() {
    assert_shown("confirm", |state| go(state, "\t/notes\nrjjj"));
}

#[test]
fn a_restore_that_runs_has_a_bar() {
    assert_shown("progress", |state| go(state, "\t/notes\nr\n"));
}

#[test]
fn what_was_restored_is_told() {
    assert_shown("result", |state| {
        go(state, "\t/notes\nr\n");
        state.update(Event::Answer(Answer::Job(Ok(Box::new(samples::job(RestoreState::Done, 200))))));
    });
}

#[test]
fn bytes_that_are_no_text_are_shown_in_hexadecimal() {
    use crate::browse::content::preview;
    use crate::browse::question::Question;
    let mut state = browser(200, 60);
    go(&mut state, "\t");
    let questions = press(&mut state, KeyCode::End);
    let Some(Question::Look(at)) = questions.into_iter().next() else { panic!("nothing is asked") };
    let mut piece = samples::piece("");
    piece.bytes.0 = (0..=255).collect();
    piece.size = 256;
    piece.certainty = wsguard_api::VersionCertainty::Fuzzy;
    state.update(Event::Answer(Answer::Content(at, preview(&piece))));
    let text = shown(&state);
    assert!(text.contains("fuzzy; changed since then; 256 B"), "{text}");
    assert!(text.contains("000010  10 11 12 13"), "{text}");
    assert!(text.contains("@ABCDEFGHIJKLMNO"), "{text}");
}

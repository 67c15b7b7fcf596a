use std::path::Path;

use proptest::prelude::*;

use super::reader::{Answer, By, Question, ask};
use super::*;

const GENEROUS: Bounds = Bounds { max_bytes: 1 << 30, max_age: Duration::from_secs(1 << 30) };

fn process(pid: u32, command: &str, container: Option<&str>) -> Arc<Process> {
    Arc::new(Process {
        pid,
        started: 5,
        command: command.to_owned(),
        command_line: format!("{command} --all"),
        container: container.map(str::to_owned),
    })
}

fn place(path: &str) -> NamedPlace {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    NamedPlace { directory: directory.into(), name: name.into() }
}

fn row(at_us: i64, operation: Operation, path: &str) -> Row {
    Row {
        at_us,
        operation,
        node: 7,
        place: Some(place(path)),
        to_place: None,
        start: 0,
        end: 0,
        bytes: 0,
        delta_bytes: 0,
        uid: 1000,
        pid: 42,
        process: Some(process(42, "python", Some("abcdef0123"))),
    }
}

fn renamed(at_us: i64, from: &str, to: &str) -> Row {
    Row { to_place: Some(place(to)), ..row(at_us, Operation::Rename, from) }
}

fn history() -> (tempfile::TempDir, History) {
    let directory = tempfile::tempdir().unwrap();
    let opened = History::open(directory.path(), "w1").unwrap();
    assert!(!opened.was_interrupted && opened.moved_aside.is_none());
    (directory, opened.history)
}

fn asked(directory: &Path, question: Question) -> Answer {
    let limit = if question.limit == 0 { 1000 } else { question.limit };
    ask(&file_of(directory, "w1"), &Question { limit, ..question }).unwrap()
}

/// What an answer consists of, to compare: time and operation.
fn told(answer: &Answer) -> Vec<(i64, Operation)> {
    answer.entries.iter().map(|entry| (entry.at_us, entry.operation)).collect()
}

fn of_path(path: &str) -> Question {
    Question { path: path.into(), ..Question::default() }
}

#[test]
fn record_comes_back_as_it_was_stored() {
    let (directory, mut history) = history();
    let stored = Row {
        to_place: Some(place("x/y z")),
        start: 10,
        end: u64::MAX,
        bytes: 30,
        delta_bytes: -4096,
        node: u64::MAX,
        ..row(1, Operation::Rename, "a/b\n")
    };
    history.store(&[stored], &[]).unwrap();
    let answer = asked(directory.path(), Question::default());
    let [entry] = answer.entries.as_slice() else { panic!("{answer:?}") };
    assert_eq!(entry.path.as_deref(), Some(Path::new("a/b\n")));
    assert_eq!(entry.to_path.as_deref(), Some(Path::new("x/y z")));
    assert_eq!((entry.start, entry.bytes, entry.delta_bytes), (10, 30, -4096));
    assert_eq!((entry.node, entry.uid), (u64::MAX, 1000));
    assert_eq!(entry.process, *process(42, "python", Some("abcdef0123")));
}

#[test]
fn path_means_itself_and_what_is_below_but_not_what_begins_alike() {
    let (directory, mut history) = history();
    let rows: Vec<Row> = ["a", "a/b", "a/b/c", "a/b/c/d", "a/bc", "a-b/c", "a0/x"]
        .into_iter()
        .zip(1..)
        .map(|(path, at)| row(at, Operation::Create, path))
        .collect();
    history.store(&rows, &[]).unwrap();
    let times = |path: &str| -> Vec<i64> {
        asked(directory.path(), of_path(path)).entries.iter().map(|entry| entry.at_us).collect()
    };
    assert_eq!(times("a/b"), [2, 3, 4]);
    assert_eq!(times("a"), [1, 2, 3, 4, 5]);
    assert_eq!(times("a/b/c/d"), [4]);
    assert_eq!(times(""), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(times("nothing"), [0_i64; 0]);
}

#[test]
fn filters_narrow_the_answer_together() {
    let (directory, mut history) = history();
    let other =
        Row { uid: 0, pid: 1, process: Some(process(1, "sh", None)), ..row(3, Operation::Unlink, "f") };
    history
        .store(
            &[
                row(1, Operation::Create, "f"),
                row(2, Operation::Unlink, "f"),
                other,
                row(4, Operation::Replace, "g"),
            ],
            &[],
        )
        .unwrap();
    let by = |by| asked(directory.path(), Question { by: Some(by), ..Question::default() });
    assert_eq!(told(&by(By::Pid(1))), [(3, Operation::Unlink)]);
    assert_eq!(told(&by(By::Uid(0))), [(3, Operation::Unlink)]);
    assert_eq!(by(By::Container("abcd".to_owned())).entries.len(), 3);
    assert_eq!(by(By::Container("bcd".to_owned())).entries.len(), 0);
    let deleted =
        Question { deletions_only: true, since_us: Some(2), by: Some(By::Uid(1000)), ..Question::default() };
    assert_eq!(told(&asked(directory.path(), deleted)), [(2, Operation::Unlink), (4, Operation::Replace)]);
    let newest = Question { limit: 2, ..Question::default() };
    assert_eq!(told(&asked(directory.path(), newest)), [(3, Operation::Unlink), (4, Operation::Replace)]);
}

#[test]
fn file_that_was_written_under_another_name_is_followed_back() {
    let (directory, mut history) = history();
    history
        .store(
            &[
                row(1, Operation::Create, "tmp"),
                row(2, Operation::Unlink, "tmp"),
                row(3, Operation::Create, "tmp"),
                row(4, Operation::Write, "tmp"),
                renamed(5, "tmp", "part"),
                renamed(6, "part", "d/model.pt"),
                row(7, Operation::Create, "tmp"),
                row(8, Operation::Write, "d/model.pt"),
            ],
            &[],
        )
        .unwrap();
    let times: Vec<i64> =
        told(&asked(directory.path(), of_path("d/model.pt"))).iter().map(|row| row.0).collect();
    assert_eq!(times, [3, 4, 5, 6, 8], "neither the file that was there before nor the one after");
}

#[test]
fn names_that_change_places_do_not_lead_in_a_circle() {
    let (directory, mut history) = history();
    let rows: Vec<Row> =
        (0..100).map(|at| if at % 2 == 0 { renamed(at, "a", "b") } else { renamed(at, "b", "a") }).collect();
    history.store(&rows, &[]).unwrap();
    assert_eq!(asked(directory.path(), of_path("a")).entries.len(), 100);
}

#[test]
fn history_that_was_not_closed_says_so_and_keeps_what_was_stored() {
    let (directory, mut history) = history();
    history.store(&[row(9, Operation::Create, "f")], &[]).unwrap();
    drop(history);
    let mut opened = History::open(directory.path(), "w1").unwrap();
    assert!(opened.was_interrupted);
    assert_eq!(opened.history.newest_us().unwrap(), Some(9));
    let gap = Gap { from_us: 9, to_us: 10, records: Some(3), reason: "why".to_owned() };
    opened.history.store(&[], std::slice::from_ref(&gap)).unwrap();
    opened.history.close().unwrap();
    assert!(!History::open(directory.path(), "w1").unwrap().was_interrupted);
    let answer = asked(directory.path(), Question::default());
    assert_eq!((answer.entries.len(), answer.gaps), (1, vec![gap]));
    let later = Question { since_us: Some(11), ..Question::default() };
    assert!(asked(directory.path(), later).gaps.is_empty());
}

#[test]
fn damaged_history_is_moved_aside_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let garbage = vec![0x5a_u8; 8192];
    std::fs::write(file_of(directory.path(), "w1"), &garbage).unwrap();
    let opened = History::open(directory.path(), "w1").unwrap();
    let (aside, _) = opened.moved_aside.unwrap();
    assert_eq!(std::fs::read(aside).unwrap(), garbage);
    assert_eq!(opened.history.newest_us().unwrap(), None);
}

#[test]
fn newer_format_is_refused_and_left_alone() {
    let (directory, history) = history();
    drop(history);
    let file = file_of(directory.path(), "w1");
    Connection::open(&file).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = History::open(directory.path(), "w1").err().unwrap();
    assert!(matches!(error, HistoryError::Newer { found: 99, .. }), "{error}");
    assert!(matches!(ask(&file, &Question::default()), Err(HistoryError::Newer { .. })));
}

#[test]
fn workspace_in_which_nothing_happened_has_an_empty_answer() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(asked(directory.path(), Question::default()), Answer::default());
}

#[test]
fn old_records_go_with_their_names_and_the_answer_says_so() {
    let (directory, mut history) = history();
    let rows: Vec<Row> =
        (1..=10).map(|at| row(at * 1_000_000, Operation::Create, &format!("d{at}/f"))).collect();
    history.store(&rows, &[]).unwrap();
    let bounds = Bounds { max_age: Duration::from_secs(5), ..GENEROUS };
    assert_eq!(history.prune(bounds, 10_500_000).unwrap(), 5);
    assert_eq!(history.prune(bounds, 10_500_000).unwrap(), 0);
    let answer = asked(directory.path(), Question::default());
    assert_eq!(answer.entries.first().map(|entry| entry.at_us), Some(6_000_000));
    assert_eq!(answer.pruned_us, Some(5_000_000));
    let directories: i64 =
        history.connection.query_row("SELECT count(*) FROM directory", [], |row| row.get(0)).unwrap();
    assert_eq!(directories, 5);
    history.store(&[row(11_000_000, Operation::Create, "d1/f")], &[]).unwrap();
    assert_eq!(
        asked(directory.path(), of_path("d1")).entries.len(),
        1,
        "a name that comes back is stored again"
    );
}

#[test]
fn file_stays_within_its_bound_whatever_comes() {
    let (directory, mut history) = history();
    let bounds = Bounds { max_bytes: 256 << 10, ..GENEROUS };
    for batch in 0..30_i64 {
        let rows: Vec<Row> = (0..200)
            .map(|i| {
                row(batch * 1000 + i, Operation::Create, &format!("dir-{batch}/{i}-{}", "n".repeat(100)))
            })
            .collect();
        history.store(&rows, &[]).unwrap();
        history.prune(bounds, batch * 1000).unwrap();
    }
    let newest = asked(directory.path(), Question { limit: 1, ..Question::default() });
    assert_eq!(newest.entries[0].at_us, 29_199, "the newest are there");
    history.close().unwrap();
    let size = std::fs::metadata(file_of(directory.path(), "w1")).unwrap().len();
    assert!(size <= 512 << 10, "{size}");
}

proptest! {
    #[test]
    fn every_record_is_found_by_its_path(paths in prop::collection::vec("[a-c/]{1,8}", 1..30)) {
        let paths: Vec<String> = paths
            .iter()
            .map(|path| path.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/"))
            .filter(|path| !path.is_empty())
            .collect();
        let (directory, mut history) = history();
        let rows: Vec<Row> =
            paths.iter().zip(0..).map(|(path, at)| row(at, Operation::Write, path)).collect();
        history.store(&rows, &[]).unwrap();
        for question in &paths {
            let expected: Vec<i64> = paths
                .iter()
                .zip(0..)
                .filter(|(path, _)| Path::new(path).starts_with(question))
                .map(|(_, at)| at)
                .collect();
            let found: Vec<i64> =
                asked(directory.path(), of_path(question)).entries.iter().map(|entry| entry.at_us).collect();
            prop_assert_eq!(found, expected);
        }
    }
}

//! What users ask, on histories that are written out.

use super::model::handle;
use super::*;
use crate::snapshot::record::{
    Actor, Attributes, Cause, Change, Entry, Named, ObjectId, Origin, SnapshotNote, SnapshotReason, Span,
};
use crate::snapshot::sequence::{Epoch, Sequence};
use crate::sys::handle::FileHandle;

const SECOND: i64 = 1_000_000_000;
const ROOT: u64 = 1;

fn moment(epoch: u32, n: u64) -> Sequence {
    Sequence::new(Epoch(epoch), n)
}

/// An entry at the `n`th second.
fn entry(epoch: u32, n: u32, pid: u32, cause: Cause, changes: Vec<Change>) -> Entry {
    let actor = Actor { uid: 1000, pid };
    Entry { at: moment(epoch, n.into()), time_ns: i64::from(n) * SECOND, actor, cause, changes }
}

fn file(inode: u64) -> Named {
    Named { inode: handle(inode), file_type: libc::S_IFREG }
}

fn directory(inode: u64) -> Named {
    Named { inode: handle(inode), file_type: libc::S_IFDIR }
}

fn name(parent: u64, name: &str, before: Option<Named>) -> Change {
    Change::Name { parent: handle(parent), name: name.into(), before }
}

fn attributes(inode: u64, size: u64) -> Change {
    let before =
        Attributes { mode: libc::S_IFREG | 0o644, size, blocks: size.div_ceil(512), ..Attributes::default() };
    Change::Attributes { inode: handle(inode), before }
}

fn content(inode: u64, object: u64, origin: Origin, span: Span) -> Change {
    Change::Content { inode: handle(inode), object: ObjectId(object), span, origin, hash: None }
}

fn unlink(n: u32, pid: u32, parent: u64, called: &str, inode: u64, size: u64) -> Entry {
    let changes = vec![
        name(parent, called, Some(file(inode))),
        attributes(inode, size),
        content(inode, 100 + inode, Origin::TakenAway, Span::Whole),
    ];
    entry(1, n, pid, Cause::Unlink, changes)
}

fn remove_directory(n: u32, pid: u32, parent: u64, called: &str, inode: u64) -> Entry {
    let changes = vec![name(parent, called, Some(directory(inode)))];
    entry(1, n, pid, Cause::RemoveDirectory, changes)
}

fn catalog_of(entries: Vec<Entry>) -> (tempfile::TempDir, Catalog) {
    let dir = tempfile::tempdir().unwrap();
    let mut catalog = Catalog::create(dir.path()).unwrap();
    let positions = (1..).map(|offset| LogPosition { segment: 1, offset });
    catalog.apply(entries.into_iter().zip(positions)).unwrap();
    (dir, catalog)
}

/// `/project/src/a` and `b` are deleted with their directories by one process, another deletes one file meanwhile, and
/// the first one deletes something else a minute later.
fn two_processes() -> Vec<Entry> {
    vec![
        unlink(10, 7, 3, "a", 20, 4096),
        unlink(11, 8, ROOT, "other", 21, 512),
        unlink(12, 7, 3, "b", 22, 1024),
        remove_directory(13, 7, 2, "src", 3),
        remove_directory(14, 7, ROOT, "project", 2),
        unlink(60, 7, ROOT, "late", 23, 0),
    ]
}

#[test]
fn burst_is_what_one_process_deleted_without_a_pause() {
    let (_dir, catalog) = catalog_of(two_processes());
    let bursts = catalog.past().bursts(Sequence::ZERO).unwrap();
    let facts: Vec<_> = bursts
        .iter()
        .map(|burst| {
            let span = (burst.first.time_ns / SECOND, burst.last.time_ns / SECOND);
            (burst.first.actor.pid, span, burst.unlinked, burst.directories, burst.bytes)
        })
        .collect();
    assert_eq!(facts, [(7, (60, 60), 1, 0, 0), (7, (10, 14), 2, 2, 5120), (8, (11, 11), 1, 0, 512)]);
    assert!(catalog.past().bursts(moment(1, 60)).unwrap().is_empty());
}

#[test]
fn cut_off_and_replaced_files_are_in_bursts() {
    let replaced = vec![
        name(ROOT, "tmp", Some(file(30))),
        name(ROOT, "model.pt", Some(file(31))),
        attributes(31, 2048),
        content(31, 1, Origin::TakenAway, Span::Whole),
    ];
    let exchanged = vec![name(ROOT, "x", Some(file(32))), name(ROOT, "y", Some(file(33)))];
    let cut =
        vec![attributes(34, 100), content(34, 2, Origin::Copied, Span::Range { offset: 0, length: 100 })];
    let (_dir, catalog) = catalog_of(vec![
        entry(1, 1, 7, Cause::Rename, replaced),
        entry(1, 2, 7, Cause::Rename, exchanged),
        entry(1, 3, 7, Cause::Truncate, cut),
        entry(1, 4, 7, Cause::Write, vec![attributes(35, 1)]),
    ]);
    let bursts = catalog.past().bursts(Sequence::ZERO).unwrap();
    let [burst] = bursts.as_slice() else { panic!("{bursts:?}") };
    assert_eq!((burst.replaced, burst.truncated, burst.unlinked, burst.bytes), (1, 1, 0, 2148));
    assert_eq!(burst.last.at, moment(1, 3));
    let deleted = catalog.past().deleted(Sequence::ZERO, None, 10, any).unwrap();
    let names: Vec<_> = deleted.iter().map(|deletion| deletion.name.as_slice()).collect();
    assert_eq!(names, [b"model.pt"]);
}

fn any(_: &Past, _: &super::deletions::Deletion) -> Result<bool, super::CatalogError> {
    Ok(true)
}

#[test]
fn deleted_lists_the_latest_first_and_says_what_was_there() {
    let (_dir, catalog) = catalog_of(two_processes());
    let found = catalog.past().deleted(Sequence::ZERO, None, 3, any).unwrap();
    let names: Vec<_> =
        found.iter().map(|deletion| String::from_utf8_lossy(&deletion.name).into_owned()).collect();
    assert_eq!(names, ["late", "project", "src"]);
    let all = catalog.past().deleted(moment(1, 9), None, 100, any).unwrap();
    assert_eq!(all.len(), 6);
    let first = all.last().unwrap();
    assert_eq!((first.before, first.size, first.event.actor.pid), (file(20), Some(4096), 7));
    assert_eq!(first.after, Then::AsNow);
    assert_eq!(catalog.past().deleted(moment(1, 10), None, 100, any).unwrap().len(), 5);
}

#[test]
fn deleted_below_a_directory_follows_those_that_are_gone_and_those_that_moved() {
    // Directory 4 was in 2 and is in 5 now; 2 is gone.
    let mut entries = two_processes();
    let moved = vec![name(2, "moved", Some(directory(4))), name(5, "moved", None)];
    entries.insert(0, entry(1, 5, 9, Cause::Rename, moved));
    entries.insert(0, unlink(4, 9, 4, "early", 40, 1));
    entries.push(unlink(70, 9, 4, "after", 41, 1));
    let (_dir, catalog) = catalog_of(entries);
    let mut live = |inode: &FileHandle| {
        [(4, 5), (5, ROOT)]
            .iter()
            .find(|(child, _)| handle(*child) == *inode)
            .map(|(_, parent)| handle(*parent))
    };
    let mut names_below = |directory: u64| -> Vec<String> {
        let directories = vec![handle(directory)];
        let below = Below { directories, entry: None, live_parent: &mut live };
        let found = catalog.past().deleted(Sequence::ZERO, Some(below), 100, any).unwrap();
        found.iter().map(|deletion| String::from_utf8_lossy(&deletion.name).into_owned()).collect()
    };
    assert_eq!(names_below(2), ["src", "b", "a", "early"]);
    assert_eq!(names_below(3), ["b", "a"]);
    assert_eq!(names_below(5), ["after"]);
    assert_eq!(names_below(ROOT).len(), 8);
}

#[test]
fn deletions_of_more_than_a_page_are_all_found_once() {
    let count = 3000;
    let entries = (1..=count).map(|n| unlink(n, 7, ROOT, &format!("f{n}"), 100 + u64::from(n), 1)).collect();
    let (_dir, catalog) = catalog_of(entries);
    let found = catalog.past().deleted(Sequence::ZERO, None, 10_000, any).unwrap();
    let moments: Vec<_> = found.iter().map(|deletion| deletion.event.at).collect();
    let expected: Vec<_> = (1..=u64::from(count)).rev().map(|n| moment(1, n)).collect();
    assert_eq!(moments, expected);
}

#[test]
fn deletion_that_failed_is_none() {
    let mut entries = vec![unlink(1, 7, ROOT, "busy", 20, 10)];
    entries.push(entry(1, 2, 7, Cause::History, vec![Change::NotTaken { object: ObjectId(120) }]));
    let (_dir, catalog) = catalog_of(entries);
    assert!(catalog.past().deleted(Sequence::ZERO, None, 10, any).unwrap().is_empty());
    assert!(catalog.past().bursts(Sequence::ZERO).unwrap().is_empty());
    assert_eq!(catalog.past().moment_before_delete(&handle(ROOT), b"busy").unwrap(), None);
    assert_eq!(catalog.past().stored_bytes().unwrap(), 0);
}

#[test]
fn moment_before_a_deletion_shows_what_was_deleted() {
    let (_dir, catalog) = catalog_of(two_processes());
    let past = catalog.past();
    let before = past.moment_before_delete(&handle(3), b"a").unwrap().unwrap();
    assert_eq!(past.name_at(&handle(3), b"a", before).unwrap(), Then::Was(Some(file(20))));
    assert_eq!(past.name_at(&handle(2), b"src", before).unwrap(), Then::Was(Some(directory(3))));
    let trail = past.trail_at(&handle(20), before).unwrap();
    let names: Vec<_> = trail.names.iter().map(|(name, _)| name.as_slice()).collect();
    assert_eq!((trail.top, names), (handle(ROOT), vec![&b"project"[..], b"src", b"a"]));
    let (event, stood) = past.last_stood_for(&handle(2), b"src").unwrap().unwrap();
    assert_eq!((event.at, stood), (moment(1, 13), directory(3)));
}

#[test]
fn versions_of_a_name_go_through_the_inodes_that_it_stood_for() {
    // Saved by rename twice, and appended to in between.
    let save = |old: u64| {
        vec![
            name(ROOT, "tmp", Some(file(old + 1))),
            name(ROOT, "notes", Some(file(old))),
            attributes(old, 10 * old),
            content(old, old, Origin::TakenAway, Span::Whole),
        ]
    };
    let append =
        vec![attributes(51, 7), content(51, 9, Origin::Copied, Span::Range { offset: 0, length: 7 })];
    let (_dir, catalog) = catalog_of(vec![
        entry(1, 1, 7, Cause::Rename, save(50)),
        entry(2, 2, 8, Cause::Write, append),
        entry(2, 3, 9, Cause::Rename, save(51)),
    ]);
    let found = catalog.past().versions_of_name(&handle(ROOT), b"notes", Some(file(52))).unwrap();
    let inodes: Vec<_> = found.iter().map(|version| version.named.inode).collect();
    assert_eq!(inodes, [handle(50), handle(51), handle(52)]);
    let sizes = |versions: &[Version]| -> Vec<Option<u64>> {
        versions.iter().map(|version| version.attributes.map(|attributes| attributes.size)).collect()
    };
    assert_eq!(sizes(&found[0].versions), [Some(500)]);
    assert_eq!(sizes(&found[1].versions), [Some(7), Some(510)]);
    assert_eq!(sizes(&found[2].versions), [None]);
    assert!(found[0].versions[0].is_whole() && !found[1].versions[0].is_whole());
    assert_eq!(found[1].since.unwrap().actor.pid, 7);
    let written = found[1].versions[1].since.unwrap();
    assert_eq!((written.actor.pid, written.cause), (8, Cause::Write));
    assert_eq!(found[1].versions[1].moment(), Some(moment(2, 3).before()));
}

#[test]
fn moment_of_a_time_is_the_last_one_at_which_the_clock_had_not_passed_it() {
    let at = |epoch, n, time: i64| Entry {
        time_ns: time * SECOND,
        ..entry(epoch, n, 1, Cause::Create, vec![name(ROOT, &format!("{epoch}-{n}"), None)])
    };
    let end = |epoch, time: i64| Entry::epoch_end(Epoch(epoch), time * SECOND, Actor::default(), None);
    // The clock was set back by ten seconds in the second epoch.
    let (_dir, catalog) = catalog_of(vec![
        at(1, 1, 10),
        at(1, 2, 20),
        end(1, 25),
        at(2, 1, 30),
        at(2, 2, 22),
        end(2, 26),
        at(3, 1, 40),
    ]);
    let moment_at = |time: i64| catalog.past().moment_at_time(time * SECOND).unwrap();
    assert_eq!(moment_at(9), moment(1, 1).before());
    assert_eq!(moment_at(10), moment(1, 2).before());
    assert_eq!(moment_at(24), Epoch(1).end());
    assert_eq!(moment_at(29), moment(2, 1).before());
    assert_eq!(moment_at(39), moment(3, 1).before());
    assert_eq!(moment_at(41), Epoch::LAST.end(), "as now");
}

#[test]
fn stores_of_a_mapping_make_what_lies_between_fuzzy() {
    let mapped = Change::MappedSince { inode: handle(9), since: moment(2, 5) };
    let (_dir, catalog) = catalog_of(vec![entry(4, 1, 7, Cause::Map, vec![mapped])]);
    let is_fuzzy = |moment, kept| catalog.past().is_fuzzy(&handle(9), moment, kept).unwrap();
    assert!(is_fuzzy(Epoch(1).end(), None));
    assert!(is_fuzzy(Epoch(3).end(), None));
    assert!(is_fuzzy(Epoch(1).end(), Some(moment(3, 1))));
    assert!(!is_fuzzy(Epoch(1).end(), Some(moment(2, 1))), "kept before it was mapped");
    assert!(!is_fuzzy(Epoch(4).end(), None), "after it was closed");
    assert!(!catalog.past().is_fuzzy(&handle(8), Epoch(1).end(), None).unwrap());
}

#[test]
fn changes_outside_are_told_from_the_moment_on() {
    let outside = |name: Option<&str>| Change::ChangedOutside {
        inode: handle(9),
        name: name.map(|name| name.as_bytes().to_vec()),
    };
    let (_dir, catalog) = catalog_of(vec![
        entry(1, 1, 0, Cause::Outside, vec![outside(Some("x"))]),
        entry(1, 2, 0, Cause::Outside, vec![outside(None)]),
    ]);
    let after = |n| catalog.past().outside_after(&handle(9), moment(1, n)).unwrap();
    let file = super::as_of::Outside { name: None, at: moment(1, 2) };
    assert_eq!(
        after(0),
        [super::as_of::Outside { name: Some(b"x".to_vec()), at: moment(1, 1) }, file.clone()]
    );
    assert_eq!(after(1), [file]);
    assert_eq!(after(2), []);
}

#[test]
fn snapshots_are_held_noted_and_removed() {
    let note = SnapshotNote {
        reason: SnapshotReason::Burst,
        name: Some("best run".into()),
        note: None,
        is_held: false,
    };
    let actor = Actor { uid: 1000, pid: 5 };
    let (_dir, mut catalog) = catalog_of(vec![
        Entry::epoch_end(Epoch(1), 5, actor, None),
        Entry::epoch_end(Epoch(2), 6, actor, Some(note)),
    ]);
    let taken = catalog.past().snapshots().unwrap().remove(0);
    let decided = SnapshotRecord { is_held: true, note: Some("keep".into()), ..taken };
    catalog.set_decided(&decided).unwrap();
    catalog.set_state(Epoch(2), SnapshotState::Durable).unwrap();
    let expected = SnapshotRecord {
        epoch: Epoch(2),
        time_ns: 6,
        actor,
        reason: SnapshotReason::Burst,
        name: Some("best run".into()),
        note: Some("keep".into()),
        is_held: true,
        state: SnapshotState::Durable,
    };
    assert_eq!(expected.moment(), Epoch(2).end());
    assert_eq!(catalog.past().snapshots().unwrap(), [expected]);
    assert_eq!(catalog.past().last_ended_epoch().unwrap(), Some(Epoch(2)));
    let unknown = SnapshotRecord { epoch: Epoch(1), ..decided };
    assert!(matches!(catalog.set_decided(&unknown), Err(CatalogError::NoSnapshot { epoch: 1 })));
    catalog.remove_snapshot(Epoch(2)).unwrap();
    assert_eq!(catalog.past().snapshots().unwrap(), []);
    assert!(catalog.remove_snapshot(Epoch(2)).is_err());
}

#[test]
fn ranges_of_one_object_are_punched_and_the_last_one_removes_it() {
    let range = |offset| content(9, 1, Origin::Copied, Span::Range { offset, length: 10 });
    let (_dir, mut catalog) = catalog_of(vec![
        entry(1, 1, 7, Cause::Write, vec![attributes(9, 100), range(0)]),
        entry(1, 2, 7, Cause::Write, vec![range(20)]),
        Entry::epoch_end(Epoch(1), 5, Actor::default(), None),
        Entry::epoch_end(Epoch(2), 5, Actor::default(), None),
    ]);
    let sweep = |catalog: &mut Catalog, window| {
        let mut sweep = Sweep::default();
        while !catalog.sweep(&mut sweep, &Kept::new([], window), 10).unwrap().is_finished {}
        catalog.past().condemned(10).unwrap()
    };
    let condemned = sweep(&mut catalog, moment(1, 1));
    assert_eq!(condemned[0].disposal, Disposal::Punch(std::iter::once(0..10).collect()));
    assert_eq!((condemned[0].bytes, catalog.past().stored_bytes().unwrap()), (10, 20));
    // Not disposed of yet when the other one is condemned too.
    let condemned = sweep(&mut catalog, moment(1, 2));
    assert_eq!((condemned[0].object, &condemned[0].disposal), (ObjectId(1), &Disposal::Remove));
    assert_eq!(condemned[0].bytes, 20);
    catalog.disposed(&condemned).unwrap();
    assert_eq!(catalog.past().stored_bytes().unwrap(), 0);
    assert!(catalog.past().condemned(10).unwrap().is_empty());
}

#[test]
fn running_epoch_is_not_swept() {
    let range = content(9, 1, Origin::Copied, Span::Range { offset: 0, length: 10 });
    let (_dir, mut catalog) = catalog_of(vec![
        Entry::epoch_end(Epoch(1), 5, Actor::default(), None),
        entry(2, 1, 7, Cause::Write, vec![attributes(9, 100), range]),
    ]);
    let kept = Kept::new([], Epoch::LAST.end());
    let mut sweep = Sweep::default();
    loop {
        let step = catalog.sweep(&mut sweep, &kept, 10).unwrap();
        assert_eq!(step.rows, 0);
        if step.is_finished {
            break;
        }
    }
    assert_eq!(catalog.past().stored_bytes().unwrap(), 10);
}

#[test]
fn hash_and_measured_size_are_noted_once_they_are_known() {
    let (_dir, mut catalog) = catalog_of(vec![unlink(1, 7, ROOT, "a", 20, 4096)]);
    let [row] = catalog.past().objects_after(None, 10).unwrap()[..] else { panic!("one object is kept") };
    assert_eq!((row.hash, row.bytes, row.size), (None, 4096, Some(4096)));
    catalog.note_content(&row, [3; 32], 8192).unwrap();
    let [row] = catalog.past().objects_after(None, 10).unwrap()[..] else { panic!("one object is kept") };
    assert_eq!((row.hash, row.bytes), (Some([3; 32]), 8192));
    assert_eq!(catalog.past().stored_bytes().unwrap(), 8192);
    assert_eq!(catalog.past().bursts(Sequence::ZERO).unwrap()[0].bytes, 8192);
    assert!(catalog.past().objects_after(Some(row.object), 10).unwrap().is_empty());
}

#[test]
fn missing_damaged_and_newer_catalogs_are_told_apart_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Catalog::open(dir.path()), Err(CatalogError::Missing { .. })));
    assert!(matches!(Past::open(dir.path()), Err(CatalogError::Missing { .. })));
    let path = dir.path().join(CATALOG_FILE);
    assert!(!path.exists());
    std::fs::write(&path, [0x5a; 8192]).unwrap();
    assert!(matches!(Catalog::open(dir.path()), Err(CatalogError::Damaged { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), [0x5a; 8192]);
    let aside = Catalog::set_aside(dir.path(), jiff::Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!(std::fs::read(aside).unwrap(), [0x5a; 8192]);
    Catalog::create(dir.path()).unwrap().close().unwrap();
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(Catalog::open(dir.path()), Err(CatalogError::Newer { found: 99, .. })));
}

#[test]
fn row_that_makes_no_sense_is_damage_and_stays() {
    let (dir, mut catalog) = catalog_of(vec![unlink(1, 7, ROOT, "a", 20, 4096)]);
    catalog.apply([]).unwrap();
    let other = rusqlite::Connection::open(dir.path().join(CATALOG_FILE)).unwrap();
    other.execute("UPDATE content SET inode = zeroblob(99)", []).unwrap();
    let kept = Kept::new([], Epoch::LAST.end());
    let mut sweep = Sweep::default();
    let error = loop {
        match catalog.sweep(&mut sweep, &kept, 10) {
            Ok(step) => assert!(!step.is_finished, "it was swept"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, CatalogError::Damaged { .. }), "{error}");
    let rows: i64 = other.query_row("SELECT count(*) FROM content", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1);
}

#[test]
fn reader_sees_what_was_applied_and_cannot_write() {
    let (dir, mut catalog) = catalog_of(vec![unlink(1, 7, ROOT, "a", 20, 4096)]);
    let past = Past::open(dir.path()).unwrap();
    assert_eq!(past.position().unwrap(), LogPosition { segment: 1, offset: 1 });
    assert_eq!(past.complete_since().unwrap(), Some(Sequence::ZERO));
    assert!(past.connection.execute("DELETE FROM name", []).is_err());
    assert_eq!(catalog.sync().unwrap(), past.position().unwrap());
    let later = [(unlink(2, 7, ROOT, "b", 21, 1), LogPosition { segment: 1, offset: 2 })];
    catalog.apply(later).unwrap();
    assert_eq!(past.deleted(Sequence::ZERO, None, 10, any).unwrap().len(), 2);
}

#[test]
fn history_that_was_made_again_from_a_later_segment_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut catalog = Catalog::create(dir.path()).unwrap();
    assert_eq!(catalog.past().complete_since().unwrap(), None);
    catalog.apply([(unlink(1, 7, ROOT, "a", 20, 1), LogPosition { segment: 5, offset: 64 })]).unwrap();
    assert_eq!(catalog.past().complete_since().unwrap(), Some(Epoch(4).end()));
}

use proptest::prelude::*;

use super::*;
use crate::snapshot::record::{Actor, Cause, Change};
use crate::snapshot::sequence::{Epoch, Sequence};
use crate::sys::handle::FileHandle;

/// Few and short, so that they are soon written again.
const SMALL: Terms = Terms { room: 300, syncs_all: true, files: 4 };

fn directory() -> (tempfile::TempDir, OwnedFd) {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let fd = std::fs::File::open(dir.path()).unwrap().into();
    (dir, fd)
}

fn entry(n: u64, name_bytes: usize) -> Entry {
    let parent = FileHandle::from_words(1, 8, [n, 0, 0, 0]);
    let change = Change::Name { parent, name: vec![b'n'; name_bytes], before: None };
    let at = Sequence::new(Epoch(1), n);
    Entry { at, time_ns: 0, actor: Actor::default(), cause: Cause::Create, changes: vec![change] }
}

fn frame(entry: &Entry) -> Vec<u8> {
    let mut frame = Vec::new();
    record::encode(entry, &mut frame).unwrap();
    frame
}

fn found(dir: &OwnedFd) -> Vec<Entry> {
    unsettled(read_slots(dir, SMALL.files).unwrap().into_iter().map(|(slot, _)| slot).collect())
}

fn open(dir: &OwnedFd, append: u64) -> Option<Ring> {
    let ring = Ring::open_on(SMALL, dir.try_clone().unwrap(), append).unwrap();
    if ring.is_none() {
        eprintln!("SKIPPED: the filesystem of the sources has no attributes of root's");
    }
    ring
}

#[test]
fn a_value_that_is_torn_or_of_another_version_is_none() {
    let mut value = header(7, 5).to_vec();
    value.extend(frame(&entry(1, 10)));
    let whole = Slot { number: 7, oldest: 5, entries: vec![entry(1, 10)], bytes: value.len() };
    assert_eq!(parse(&value), Some(whole.clone()));
    let torn = value.get(..value.len() - 1).unwrap();
    let without = Slot { entries: Vec::new(), bytes: HEADER_BYTES, ..whole };
    assert_eq!(parse(torn), Some(without), "its last entry was never noted");
    for place in 0..HEADER_BYTES {
        let mut other = value.clone();
        other[place] ^= 1;
        assert_eq!(parse(&other), None, "byte {place}");
    }
    assert_eq!(parse(&value[..HEADER_BYTES - 1]), None);
}

#[test]
fn what_the_log_lacks_comes_with_everything_after_it() {
    let ring: Vec<Entry> = (0..5).map(|n| entry(n, 3)).collect();
    let at = |wanted: &[usize]| -> Vec<Entry> { wanted.iter().map(|n| ring[*n].clone()).collect() };
    assert_eq!(missing(&ring, &ring), []);
    assert_eq!(missing(&at(&[0, 1, 2]), &ring), &ring[3..], "its end");
    assert_eq!(missing(&at(&[0, 1, 3]), &ring), &ring[2..], "a page in the middle");
    assert_eq!(missing(&[], &ring), &ring[..]);
    assert_eq!(missing(&at(&[3, 4]), &[]), []);
}

#[test]
fn a_slot_is_written_again_once_the_log_has_its_entries_and_not_before() {
    let (_kept, dir) = directory();
    let Some(mut ring) = open(&dir, 1) else { return };
    let (mut synced, mut append) = (1, 1);
    let mut noted = Vec::new();
    let mut note = |ring: &mut Ring, synced: u64| {
        append += 1;
        let entry = entry(append, 40);
        let outcome = ring.note(&frame(&entry), append, synced);
        if outcome != Noted::Not {
            noted.push(entry);
        }
        (outcome, append, noted.clone())
    };
    let last = loop {
        let (outcome, append, noted) = note(&mut ring, synced);
        if outcome == Noted::Not {
            break append;
        }
        assert_eq!(found(&dir), noted);
    };
    assert!(last > 6, "several fit into each");
    synced = last;
    let (outcome, ..) = note(&mut ring, synced);
    assert_eq!(outcome, Noted::Here);
    assert_eq!(found(&dir).len(), 1, "the others are in the log");
}

#[test]
fn an_entry_that_is_too_long_is_told() {
    let (_kept, dir) = directory();
    let Some(mut ring) = open(&dir, 1) else { return };
    assert_eq!(ring.note(&frame(&entry(1, 400)), 2, 1), Noted::Not);
    assert_eq!(ring.note(&frame(&entry(2, 40)), 3, 1), Noted::Here);
    assert_eq!(found(&dir), [entry(2, 40)]);
}

#[test]
fn what_is_settled_is_never_put_back() {
    let (_kept, dir) = directory();
    let Some(mut ring) = open(&dir, 1) else { return };
    for append in 2..6 {
        ring.note(&frame(&entry(append, 40)), append, 1);
    }
    ring.settle(1).unwrap();
    assert_eq!(found(&dir).len(), 4, "the log is not on the disk");
    ring.settle(5).unwrap();
    assert_eq!(found(&dir), []);
    assert_eq!(ring.note(&frame(&entry(6, 40)), 6, 5), Noted::Here);
    assert_eq!(found(&dir), [entry(6, 40)]);
}

/// What happens to a log and its ring.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Append(usize),
    Sync,
    /// The process dies and another goes on.
    Death,
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let one = prop_oneof![
        10 => (0_usize..300).prop_map(Happening::Append),
        1 => Just(Happening::Sync),
        1 => Just(Happening::Death),
    ];
    prop::collection::vec(one, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A journal keeps all that was done up to some moment and nothing after it; of the bytes of the log that were not
    /// synchronised it keeps any.
    #[test]
    fn whatever_a_journal_leaves_the_log_has_every_entry_up_to_the_last_change(
        happenings in happenings(),
        survives in prop::collection::vec(any::<bool>(), 80),
    ) {
        let (_kept, dir) = directory();
        let Some(mut ring) = open(&dir, 1) else { return Ok(()) };
        let (mut append, mut synced) = (1, 0);
        // Entries, and how many of them are on the disk for sure.
        let (mut log, mut durable): (Vec<Entry>, usize) = (Vec::new(), 0);
        for happening in happenings {
            match happening {
                Happening::Append(bytes) => {
                    append += 1;
                    log.push(entry(log.len() as u64, bytes));
                    if ring.note(&frame(log.last().unwrap()), append, synced) == Noted::Not {
                        (synced, durable) = (append, log.len());
                    }
                }
                Happening::Sync => (synced, durable) = (append, log.len()),
                Happening::Death => {
                    (append, synced) = (1, 0);
                    ring = open(&dir, append).unwrap();
                }
            }
            // The power goes here.
            let left: Vec<Entry> = log
                .iter()
                .enumerate()
                .filter(|(n, _)| *n < durable || survives[*n % survives.len()])
                .map(|(_, entry)| entry.clone())
                .collect();
            let found = found(&dir);
            let put_back = missing(&left, &found);
            for entry in &log {
                prop_assert!(left.contains(entry) || put_back.contains(entry), "{entry:?} is lost");
            }
            let first = log.len() - put_back.len();
            prop_assert_eq!(put_back, &log[first..], "in order, with all that follows");
        }
    }
}

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::snapshot::record::Actor;

#[test]
fn what_is_kept_uses_up_the_room_and_then_somebody_is_asked_once_for_each_operation() {
    let kept = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    for name in ["root", "store"] {
        std::fs::create_dir(kept.path().join(name)).unwrap();
    }
    let open = |name: &str| std::fs::File::open(kept.path().join(name)).unwrap();
    let backing = Backing::new(open("root").into()).unwrap();
    let history = Arc::new(History::begin(open("store").as_fd(), &backing).unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, other) = (asked.clone(), history.clone());
    history.set_pressure(Box::new(move |shortage| {
        assert_eq!(shortage, Shortage::Near);
        if count.fetch_add(1, Ordering::Relaxed) > 0 {
            other.set_room(4096);
        }
        true
    }));
    let keep = |bytes: u64| {
        history.yield_in_time();
        let mut step = history.step(Actor::default(), Cause::Unlink);
        step.take_away(backing.root_handle(), bytes);
    };
    keep(u64::MAX);
    assert_eq!(asked.load(Ordering::Relaxed), 0, "nobody has looked at the disk yet");
    history.set_room(8192);
    keep(4096);
    keep(10_000);
    assert_eq!(asked.load(Ordering::Relaxed), 0, "there was room before the last one");
    keep(0);
    keep(0);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    keep(0);
    assert_eq!(asked.load(Ordering::Relaxed), 2, "room was made");
}

#[test]
fn a_file_that_was_deleted_and_is_written_through_an_open_descriptor_is_not_changed_outside() {
    let kept = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    for name in ["root", "store"] {
        std::fs::create_dir(kept.path().join(name)).unwrap();
    }
    let path = kept.path().join("root/open");
    std::fs::write(&path, "old").unwrap();
    let open = |name: &str| std::fs::File::open(kept.path().join(name)).unwrap();
    let backing = Backing::new(open("root").into()).unwrap();
    let history = History::begin(open("store").as_fd(), &backing).unwrap();
    history.end_epoch(&backing, Actor::default(), None).unwrap();
    // The change time that the deletion sets is told apart from what the epoch before it did.
    std::thread::sleep(Duration::from_millis(30));
    let child = backing.of_fd(open("root/open").as_fd()).unwrap();
    let mut step = history.step(Actor::default(), Cause::Unlink);
    step.last_attributes(child.stat.stx_ino, child.handle, &child.stat);
    step.record();
    drop(step);
    std::fs::rename(&path, kept.path().join("root/taken")).unwrap();
    let touched = history.touched(child.stat.stx_ino, child.handle);
    let affected = Affected::Range { offset: 0, length: 1 };
    drop(history.before_content(&touched, &backing, affected, Actor::default(), Cause::Write));
    let mut reader = history.log().read_from(Default::default()).unwrap();
    let entries = std::iter::from_fn(|| reader.next().unwrap());
    let is_outside = |change: &Change| matches!(change, Change::ChangedOutside { .. });
    assert_eq!(entries.flat_map(|entry| entry.changes).filter(is_outside).count(), 0);
}

//! Use does not pass what has been persisted.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::*;

#[test]
fn first_mark_is_wanted_a_step_ahead_of_use() {
    let (ledger, account) = with_user_limits(hard(GIB));
    ledger.set_limits(&project("p"), Some(hard(400 * MIB)), start());
    account.settle(MIB.cast_signed(), 1);
    let wanted = account.watermark_wanted().unwrap();
    assert_eq!(wanted.bytes, MIB + 4 * MIB);
    account.set_watermark(wanted);
    assert_eq!(account.watermark_wanted(), None);
    account.settle(3 * MIB.cast_signed(), 0);
    assert_eq!(account.watermark_wanted().unwrap().bytes, 8 * MIB);
    assert!(ledger.wait_for_watermark_request(Duration::ZERO));
    assert!(!ledger.wait_for_watermark_request(Duration::ZERO));
}

#[test]
fn mark_does_not_go_beyond_the_limit_and_is_not_asked_for_there() {
    let ledger = Ledger::new();
    let account = attach(&ledger, "p");
    ledger.set_limits(&project("p"), Some(hard(MIB)), start());
    let wanted = account.watermark_wanted().unwrap();
    assert_eq!(wanted.bytes, MIB);
    account.set_watermark(wanted);
    while write(&account, 4096).is_ok() {}
    assert_eq!((account.used_bytes(), account.watermark_wanted()), (MIB, None));
    assert!(!ledger.wait_for_watermark_request(Duration::ZERO));
}

#[test]
fn mark_far_above_use_is_lowered_before_it_is_persisted() {
    let ledger = Ledger::new();
    let account = attach(&ledger, "p");
    ledger.set_limits(&project("p"), Some(hard(100 * MIB)), start());
    account.set_watermark(Watermark { bytes: 90 * MIB, inodes: 1 << 16 });
    let lowered = account.watermark_wanted().unwrap();
    assert_eq!(lowered.bytes, MIB);
    assert_eq!(ledger.snapshot(&project("p")).unwrap().watermark, Some(lowered));
}

#[test]
fn writers_never_pass_what_is_on_disk() {
    let ledger = Ledger::new();
    let account = attach(&ledger, "p");
    ledger.set_limits(&project("p"), Some(hard(100 * MIB)), start());
    // Stands for the disk. A new mark is there before the ledger hears of it.
    let (on_disk, changes) = (AtomicU64::new(0), AtomicU64::new(0));
    let has_ended = AtomicBool::new(false);
    let persist = || {
        if let Some(wanted) = account.watermark_wanted() {
            on_disk.store(wanted.bytes, Ordering::SeqCst);
            changes.fetch_add(1, Ordering::SeqCst);
            account.set_watermark(wanted);
        }
    };
    persist();
    thread::scope(|scope| {
        let persister = scope.spawn(|| {
            while !has_ended.load(Ordering::Relaxed) {
                ledger.wait_for_watermark_request(Duration::from_millis(1));
                thread::sleep(Duration::from_micros(100));
                persist();
            }
        });
        let writers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for round in 0..2_000 {
                        let seen = (changes.load(Ordering::SeqCst), on_disk.load(Ordering::SeqCst));
                        let used = account.used_bytes();
                        let (mark, change) = (on_disk.load(Ordering::SeqCst), changes.load(Ordering::SeqCst));
                        if change - seen.0 <= 1 {
                            assert!(used <= mark.max(seen.1), "{used} above {mark} and {}", seen.1);
                        }
                        match write(&account, 16 * KIB) {
                            Ok(_) if round % 500 < 400 => {}
                            Ok(_) | Err(_) => account.settle(-(MIB.cast_signed()), 0),
                        }
                    }
                })
            })
            .collect();
        let results: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        has_ended.store(true, Ordering::Relaxed);
        persister.join().unwrap();
        assert!(results.iter().all(Result::is_ok));
    });
    assert_eq!(ledger.snapshot(&project("p")).unwrap().watermark_overruns, 0);
}

#[test]
fn waiting_ends_when_use_falls_below_the_mark() {
    let (ledger, account) = with_user_limits(hard(GIB));
    account.set_watermark(Watermark { bytes: MIB, inodes: 64 });
    write(&account, MIB).unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| write(&account, 4096));
        while bytes(&ledger, &user()).1 == 0 {
            thread::yield_now();
        }
        account.settle(-8192, 0);
        assert_eq!(waiting.join().unwrap(), Ok(4096));
    });
    assert_eq!(ledger.snapshot(&project("p")).unwrap().watermark_overruns, 0);
}

#[test]
fn write_passes_a_mark_that_nobody_persists_and_says_so() {
    let (ledger, account) = with_user_limits(hard(GIB));
    account.set_watermark(Watermark { bytes: MIB, inodes: 64 });
    let began = Instant::now();
    assert_eq!(write(&account, 2 * MIB), Ok(2 * MIB));
    assert!(began.elapsed() >= Duration::from_secs(2));
    assert_eq!(kinds(ledger.tick(start())), [EventKind::WatermarkPassed { times: 1 }]);
}

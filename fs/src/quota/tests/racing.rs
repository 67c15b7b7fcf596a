//! Many threads at one limit.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::*;

const WRITERS: u64 = 16;

/// A small generator: the tests want variety, not quality.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

#[test]
fn sixteen_writers_fill_the_limit_and_never_pass_it() {
    const LIMIT: u64 = 64 * MIB;
    let (ledger, account) = with_user_limits(hard(LIMIT));
    let other = attach(&ledger, "q");
    let (accepted, has_ended, barrier) =
        (AtomicU64::new(0), AtomicBool::new(false), Barrier::new(WRITERS as usize));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !has_ended.load(Ordering::Relaxed) {
                let usage = ledger.snapshot(&user()).unwrap().bytes;
                assert!(usage.used + usage.reserved <= LIMIT, "{usage:?}");
            }
        });
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let (accepted, barrier) = (&accepted, &barrier);
                let account = if number % 2 == 0 { &account } else { &other };
                scope.spawn(move || {
                    let mut numbers = Numbers(number);
                    barrier.wait();
                    loop {
                        // As a write into a file that has some of the blocks already: less is used than reserved.
                        let wanted = BLOCK_BYTES * (1 + numbers.below(64));
                        let Ok(reservation) = account.reserve(wanted, 1, 0, LARGE) else { break };
                        let blocks = reservation.bytes() / BLOCK_BYTES;
                        let used = BLOCK_BYTES * (1 + numbers.below(blocks));
                        reservation.settle(used.cast_signed(), 0);
                        accepted.fetch_add(used, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let results: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        has_ended.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok));
    });
    let accepted = accepted.into_inner();
    assert!((LIMIT - 64 * KIB..=LIMIT).contains(&accepted), "{accepted} of {LIMIT}");
    assert_eq!(bytes(&ledger, &user()), (accepted, 0));
    assert_eq!(account.used_bytes() + other.used_bytes(), accepted);
}

#[test]
fn totals_agree_after_racing_growth_shrinking_holds_and_drops() {
    let ledger = Ledger::new();
    let accounts: Vec<_> =
        (0..4).map(|n: u32| ledger.attach(&n.to_string(), n / 2, Some("all"), 1, Cells::private())).collect();
    ledger.set_limits(&ScopeKey::User(0), Some(hard(2 * MIB)), start());
    ledger.set_limits(&ScopeKey::Pool(1), Some(hard(3 * MIB)), start());
    thread::scope(|scope| {
        for number in 0..WRITERS {
            let account = &accounts[number as usize % 4];
            scope.spawn(move || {
                let mut numbers = Numbers(number);
                for _ in 0..2_000 {
                    let size = BLOCK_BYTES * (1 + numbers.below(8));
                    match (numbers.below(4), account.reserve(size, 1, 1, LARGE)) {
                        (0, Ok(reservation)) => drop(reservation),
                        (1, Ok(reservation)) => reservation.settle(-4096, 1),
                        (_, Ok(reservation)) => {
                            let granted = reservation.bytes().cast_signed();
                            reservation.settle(granted, 1);
                        }
                        (0, Err(_)) if account.adjust_hold(0, size, LARGE).is_ok() => {
                            account.adjust_hold(size, 0, LARGE).unwrap();
                        }
                        (_, Err(_)) => account.settle(-32 * 4096, -3),
                    }
                }
            });
        }
    });
    let used = |ids: &[usize]| ids.iter().map(|id| accounts[*id].used_bytes()).sum::<u64>();
    let inodes = |ids: &[usize]| ids.iter().map(|id| accounts[*id].used_inodes()).sum::<u64>();
    for (scope, ids) in [
        (ScopeKey::User(0), &[0, 1][..]),
        (ScopeKey::User(1), &[2, 3]),
        (ScopeKey::Group("all".to_owned()), &[0, 1, 2, 3]),
        (ScopeKey::Pool(1), &[0, 1, 2, 3]),
    ] {
        let state = ledger.snapshot(&scope).unwrap();
        assert_eq!((state.bytes.used, state.bytes.reserved), (used(ids), 0), "{scope}");
        assert_eq!((state.inodes.used, state.inodes.reserved), (inodes(ids), 0), "{scope}");
        assert_eq!(state.bytes.held, 0);
    }
}

#[test]
fn refusal_waits_for_a_reservation_that_gives_most_of_it_back() {
    let (_ledger, account) = with_user_limits(hard(10 * BLOCK_BYTES));
    let worst_case = account.reserve(10 * BLOCK_BYTES, 1, 0, LARGE).unwrap();
    thread::scope(|scope| {
        let second = scope.spawn(|| write(&account, BLOCK_BYTES));
        thread::sleep(std::time::Duration::from_millis(2));
        worst_case.settle(4096, 0);
        assert_eq!(second.join().unwrap(), Ok(BLOCK_BYTES));
    });
}

#[test]
fn projects_that_come_and_go_leave_the_others_totals_alone() {
    let (ledger, account) = with_user_limits(hard(GIB));
    thread::scope(|scope| {
        for number in 0..4 {
            let ledger = &ledger;
            scope.spawn(move || {
                for _ in 0..200 {
                    let guest = attach(ledger, &format!("guest {number}"));
                    write(&guest, MIB).unwrap();
                    guest.adopt_hold(MIB);
                }
            });
        }
        for _ in 0..2_000 {
            write(&account, 4096).unwrap();
        }
    });
    assert_eq!(bytes(&ledger, &user()), (2_000 * 4096, 0));
    assert_eq!(ledger.snapshot(&user()).unwrap().bytes.held, 0);
    assert_eq!(ledger.report().len(), 3);
}

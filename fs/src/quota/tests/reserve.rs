//! Reserving, settling, holding; what parents see.

use rustix::io::Errno;

use super::*;

#[test]
fn single_writer_stops_at_the_exact_block() {
    let (_ledger, account) = with_user_limits(hard(10 * BLOCK_BYTES));
    assert_eq!(write(&account, 16 * BLOCK_BYTES), Ok(10 * BLOCK_BYTES));
    let refusal = refused(write(&account, 1));
    assert_eq!(
        refusal.to_string(),
        "4096 more bytes do not fit: user 1000 has used 40960 of 40960 (hard limit)"
    );
    assert_eq!(refusal.errno, Errno::DQUOT);
}

#[test]
fn limit_that_is_no_multiple_of_a_block_is_not_passed() {
    let (_ledger, account) = with_user_limits(hard(10 * BLOCK_BYTES + 4095));
    assert_eq!(write(&account, GIB), Ok(10 * BLOCK_BYTES));
    assert!(write(&account, 1).is_err());
}

#[test]
fn fewer_bytes_than_the_least_are_not_granted() {
    let (ledger, account) = with_user_limits(hard(10 * BLOCK_BYTES));
    let refusal = refused(account.reserve(16 * BLOCK_BYTES, 16 * BLOCK_BYTES, 1, LARGE));
    assert_eq!((refusal.wanted, refusal.limit), (16 * BLOCK_BYTES, 10 * BLOCK_BYTES));
    assert_eq!(bytes(&ledger, &user()), (0, 0));
}

#[test]
fn refused_inode_gives_the_bytes_back_on_every_scope() {
    let ledger = Ledger::new();
    let account = ledger.attach("p", 1000, Some("students"), 1, Cells::private());
    let one_inode = Limits { inodes: Bounds { soft: None, hard: Some(1) }, ..Limits::default() };
    ledger.set_limits(&ScopeKey::Group("students".to_owned()), Some(one_inode), start());
    account.settle(0, 1);
    let refusal = refused(account.reserve(BLOCK_BYTES, 1, 1, 0));
    assert_eq!(refusal.dimension, Dimension::Inodes);
    assert!(ledger.report().iter().all(|state| state.bytes.reserved == 0 && state.inodes.reserved == 0));
    assert_eq!(ledger.report().len(), 4);
}

#[test]
fn grant_is_the_least_that_any_scope_has_left() {
    let (ledger, account) = with_user_limits(hard(100 * BLOCK_BYTES));
    ledger.set_limits(&ScopeKey::Pool(1), Some(hard(7 * BLOCK_BYTES)), start());
    let reservation = account.reserve(50 * BLOCK_BYTES, 1, 0, LARGE).unwrap();
    assert_eq!(reservation.bytes(), 7 * BLOCK_BYTES);
    for scope in [project("p"), user(), ScopeKey::Pool(1)] {
        assert_eq!(bytes(&ledger, &scope), (0, 7 * BLOCK_BYTES));
    }
}

#[test]
fn projects_of_a_user_share_the_limit() {
    let (ledger, account) = with_user_limits(hard(10 * BLOCK_BYTES));
    let other = attach(&ledger, "q");
    assert_eq!(write(&other, 8 * BLOCK_BYTES), Ok(8 * BLOCK_BYTES));
    assert_eq!(write(&account, 8 * BLOCK_BYTES), Ok(2 * BLOCK_BYTES));
    drop(other);
    assert_eq!(bytes(&ledger, &user()), (2 * BLOCK_BYTES, 0));
    assert_eq!(write(&account, 8 * BLOCK_BYTES), Ok(8 * BLOCK_BYTES));
}

#[test]
fn headroom_is_for_small_files_only() {
    let limits = Limits { headroom_bytes: None, ..hard(GIB) };
    let (_ledger, account) = with_user_limits(limits);
    let headroom = GIB / 100 - GIB / 100 % BLOCK_BYTES;
    assert_eq!(write(&account, 2 * GIB), Ok(GIB - headroom));
    assert!(account.reserve(BLOCK_BYTES, 1, 0, MIB + 1).is_err());
    account.reserve(headroom, headroom, 0, MIB).unwrap().settle(headroom.cast_signed(), 0);
    assert!(account.reserve(BLOCK_BYTES, 1, 0, 0).is_err());
}

#[test]
fn limit_lowered_below_use_refuses_growth_and_nothing_else() {
    let (ledger, account) = with_user_limits(hard(10 * BLOCK_BYTES));
    write(&account, 10 * BLOCK_BYTES).unwrap();
    ledger.set_limits(&user(), Some(hard(5 * BLOCK_BYTES)), start());
    assert_eq!(refused(write(&account, 1)).reason, Reason::Over);
    assert_eq!(ledger.snapshot(&user()).unwrap().state, State::Over);
    account.reserve(0, 0, 0, LARGE).unwrap().settle(0, 0);
    account.settle(-6 * 4096, 0);
    assert_eq!(write(&account, 2 * BLOCK_BYTES), Ok(BLOCK_BYTES));
}

#[test]
fn zero_allows_nothing_and_absence_everything() {
    let (ledger, account) = with_user_limits(hard(0));
    assert_eq!(refused(write(&account, 1)).reason, Reason::Hard);
    assert_eq!(kinds(ledger.tick(start())), []);
    ledger.set_limits(&user(), None, start());
    assert_eq!(write(&account, 64 * GIB), Ok(64 * GIB));
}

#[test]
fn modes_that_do_not_enforce_count_all_the_same() {
    for mode in [Mode::Off, Mode::Track] {
        let (ledger, account) = with_user_limits(Limits { mode, ..hard(BLOCK_BYTES) });
        assert_eq!(write(&account, GIB), Ok(GIB));
        assert_eq!(bytes(&ledger, &user()), (GIB, 0));
        let reached = kinds(ledger.tick(start()));
        assert_eq!(reached.len(), usize::from(mode == Mode::Track), "{mode:?}: {reached:?}");
    }
}

#[test]
fn errno_is_the_one_that_the_scope_asks_for() {
    let (_ledger, account) = with_user_limits(Limits { errno: LimitErrno::Space, ..hard(0) });
    assert_eq!(refused(write(&account, 1)).errno, Errno::NOSPC);
}

#[test]
fn file_that_takes_more_than_reserved_is_charged_in_full() {
    let (ledger, account) = with_user_limits(hard(10 * BLOCK_BYTES));
    account.reserve(BLOCK_BYTES, 1, 1, LARGE).unwrap().settle(3 * 4096, 1);
    assert_eq!(bytes(&ledger, &user()), (3 * BLOCK_BYTES, 0));
    account.reserve(4 * BLOCK_BYTES, 1, 0, LARGE).unwrap().settle(-4096, 0);
    assert_eq!(bytes(&ledger, &user()), (2 * BLOCK_BYTES, 0));
    assert_eq!(ledger.snapshot(&ScopeKey::Pool(1)).unwrap().inodes.used, 1);
}

#[test]
fn credit_beyond_use_stops_at_zero_with_an_alarm_and_takes_nothing_from_others() {
    let (ledger, account) = with_user_limits(hard(GIB));
    let other = attach(&ledger, "q");
    write(&other, MIB).unwrap();
    write(&account, 8 * KIB).unwrap();
    account.settle(-1_000_000, 0);
    assert_eq!(account.used_bytes(), 0);
    assert_eq!(bytes(&ledger, &user()), (MIB, 0));
    assert_eq!(kinds(ledger.tick(start())), [EventKind::Saturated { times: 1 }]);
    assert_eq!(kinds(ledger.tick(start())), []);
}

#[test]
fn absurd_lengths_are_refused_and_leave_nothing_behind() {
    let (ledger, account) = with_user_limits(hard(GIB));
    assert!(account.reserve(u64::MAX, u64::MAX, u64::MAX, u64::MAX).is_err());
    assert!(account.reserve(i64::MAX as u64, i64::MAX as u64, 1, u64::MAX).is_err());
    assert!(ledger.report().iter().all(|state| state.bytes.reserved + state.inodes.reserved == 0));
}

#[test]
fn hold_grows_only_where_it_fits_and_shrinks_always() {
    let (ledger, account) = with_user_limits(hard(10 * BLOCK_BYTES));
    account.adjust_hold(0, 8 * BLOCK_BYTES, LARGE).unwrap();
    assert!(account.adjust_hold(8 * BLOCK_BYTES, 11 * BLOCK_BYTES, LARGE).is_err());
    assert_eq!(write(&account, GIB), Ok(2 * BLOCK_BYTES));
    let usage = ledger.snapshot(&user()).unwrap().bytes;
    assert_eq!((usage.used, usage.reserved, usage.held), (2 * BLOCK_BYTES, 8 * BLOCK_BYTES, 8 * BLOCK_BYTES));
    ledger.set_limits(&user(), Some(hard(0)), start());
    account.adjust_hold(8 * BLOCK_BYTES, BLOCK_BYTES, LARGE).unwrap();
    account.adopt_hold(GIB);
    assert_eq!(bytes(&ledger, &user()), (2 * BLOCK_BYTES, BLOCK_BYTES + GIB));
}

#[test]
fn counters_in_shared_memory_are_found_by_the_next_account() {
    let file = rustix::fs::memfd_create("counters", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let memory = || {
        let file = std::os::fd::AsFd::as_fd(&file);
        Arc::new(crate::sys::shared_memory::SharedMemory::map(file, 4096).unwrap())
    };
    let ledger = Ledger::new();
    let account = ledger.attach("p", 1000, None, 1, Cells::Shared(memory(), 3));
    account.settle(12 * 4096, 5);
    account.set_estimated(true);
    account.set_watermark(Watermark { bytes: MIB, inodes: 64 });
    drop(account);
    assert!(ledger.report().is_empty());
    let ledger = Ledger::new();
    let account = ledger.attach("p", 1000, None, 1, Cells::Shared(memory(), 3));
    let state = ledger.snapshot(&user()).unwrap();
    assert_eq!((state.bytes.used, state.inodes.used), (12 * BLOCK_BYTES, 5));
    assert_eq!((state.state, state.is_estimated), (State::Estimated, true));
    account.set_estimated(false);
    assert_eq!(ledger.snapshot(&user()).unwrap().state, State::Ok);
    assert_eq!(ledger.snapshot(&project("p")).unwrap().watermark, Some(Watermark { bytes: MIB, inodes: 64 }));
}

#[test]
fn recount_corrects_parents_as_well() {
    let (ledger, account) = with_user_limits(hard(GIB));
    let other = attach(&ledger, "q");
    other.settle(4096, 1);
    account.settle(MIB.cast_signed(), 10);
    account.set_used(8 * KIB, 3);
    account.correct(4096, 1);
    let pool = ledger.snapshot(&ScopeKey::Pool(1)).unwrap();
    assert_eq!((pool.bytes.used, pool.inodes.used), (16 * KIB, 5));
    assert_eq!((account.used_bytes(), account.used_inodes()), (12 * KIB, 4));
}

#[test]
fn limits_outlast_the_accounts_they_bind() {
    let (ledger, account) = with_user_limits(hard(BLOCK_BYTES));
    drop(account);
    assert_eq!(ledger.snapshot(&user()), None);
    assert_eq!(write(&attach(&ledger, "p"), GIB), Ok(BLOCK_BYTES));
}

#[test]
fn lingering_account_shares_limits_with_the_next_of_its_project() {
    let ledger = Ledger::new();
    ledger.set_limits(&project("p"), Some(hard(BLOCK_BYTES)), start());
    let old = attach(&ledger, "p");
    let new = attach(&ledger, "p");
    drop(old);
    assert_eq!(write(&new, GIB), Ok(BLOCK_BYTES));
    drop(new);
    assert_eq!(write(&attach(&ledger, "p"), GIB), Ok(BLOCK_BYTES));
}

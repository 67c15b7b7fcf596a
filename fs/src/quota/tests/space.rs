//! What the host leaves, and what `df` shows.

use rustix::io::Errno;

use super::*;

fn host(total: u64, free: u64) -> HostSpace {
    HostSpace {
        total_bytes: total,
        free_bytes: free,
        available_bytes: free,
        total_inodes: 1_000_000,
        free_inodes: 900_000,
    }
}

fn available(account: &Account, host: HostSpace) -> u64 {
    account.statfs(host).blocks_available * BLOCK_BYTES
}

#[test]
fn default_floor_is_two_percent_or_five_gib_of_a_filesystem_that_is_large_enough() {
    let kept = |total: u64| host(total, 0).default_min_free();
    assert_eq!(kept(10_000 * GIB), 10_000 * GIB / 100 * 2);
    assert_eq!(kept(200 * GIB), 5 * GIB);
    assert_eq!(kept(GIB), GIB / 100 * 5);
}

#[test]
fn pool_refuses_with_enospc_before_the_host_is_full() {
    let ledger = Ledger::new();
    let account = attach(&ledger, "p");
    ledger.set_min_free(1, Some(GIB));
    write(&account, GIB).unwrap();
    ledger.set_host_free(1, host(100 * GIB, 3 * GIB));
    assert_eq!(write(&account, 4 * GIB), Ok(2 * GIB));
    let refusal = refused(write(&account, 4096));
    assert_eq!((refusal.reason, refusal.errno), (Reason::HostFull, Errno::NOSPC));
    assert_eq!((refusal.scope, refusal.limit), (ScopeKey::Pool(1), 3 * GIB));
    let reached = EventKind::HardReached { dimension: Dimension::Bytes, used: 3 * GIB, hard: 3 * GIB };
    assert_eq!(kinds(ledger.tick(start())), [reached]);
    account.settle(-4096, 0);
    assert_eq!(write(&account, 4 * GIB), Ok(4096));
}

#[test]
fn outside_filler_makes_the_pool_refuse_and_cleaning_up_helps() {
    let ledger = Ledger::new();
    let account = attach(&ledger, "p");
    ledger.set_min_free(1, Some(GIB));
    ledger.set_host_free(1, host(100 * GIB, GIB / 2));
    assert!(write(&account, 4096).is_err());
    ledger.set_host_free(1, host(100 * GIB, 2 * GIB));
    assert_eq!(write(&account, 4 * GIB), Ok(GIB));
}

#[test]
fn project_that_comes_or_goes_between_samples_does_not_move_the_floor() {
    let ledger = Ledger::new();
    ledger.set_min_free(1, Some(0));
    let account = attach(&ledger, "p");
    ledger.set_host_free(1, host(100 * GIB, 2 * GIB));
    let cells = Cells::private();
    cells.used(Dimension::Bytes).store(50 * GIB, std::sync::atomic::Ordering::Relaxed);
    let adopted = ledger.attach("q", 7, None, 1, cells);
    assert_eq!(write(&account, GIB), Ok(GIB));
    drop(adopted);
    assert_eq!(write(&account, 4 * GIB), Ok(GIB));
    account.set_used(40 * GIB, 0);
    assert!(write(&account, 4096).is_err());
}

#[test]
fn host_that_counts_no_inodes_limits_none() {
    let ledger = Ledger::new();
    let account = attach(&ledger, "p");
    let uncounted = HostSpace { total_inodes: 0, free_inodes: 0, ..host(100 * GIB, 50 * GIB) };
    ledger.set_host_free(1, uncounted);
    account.reserve(0, 0, 1_000_000, 0).unwrap().settle(0, 1_000_000);
    let shown = account.statfs(uncounted);
    assert_eq!((shown.files, shown.files_free), (0, 0));
    ledger.set_host_free(1, host(100 * GIB, 50 * GIB));
    assert_eq!(refused(account.reserve(0, 0, 900_001, 0)).reason, Reason::HostFull);
}

#[test]
fn switched_off_pool_has_no_floor() {
    let ledger = Ledger::new();
    let account = attach(&ledger, "p");
    ledger.set_limits(&ScopeKey::Pool(1), Some(Limits { mode: Mode::Off, ..Limits::default() }), start());
    ledger.set_host_free(1, host(GIB, 0));
    assert_eq!(write(&account, 4096), Ok(4096));
}

#[test]
fn df_without_limits_is_that_of_the_host() {
    let ledger = Ledger::new();
    let account = attach(&ledger, "p");
    let host = HostSpace { available_bytes: 40 * GIB, ..host(100 * GIB, 50 * GIB) };
    let shown = account.statfs(host);
    let expected = Statfs {
        blocks: 100 * GIB / BLOCK_BYTES,
        blocks_free: 50 * GIB / BLOCK_BYTES,
        blocks_available: 40 * GIB / BLOCK_BYTES,
        files: 1_000_000,
        files_free: 900_000,
    };
    assert_eq!(shown, expected);
}

#[test]
fn df_shows_the_limit_that_leaves_least() {
    let ledger = Ledger::new();
    let account = attach(&ledger, "p");
    let limits = Limits {
        inodes: Bounds { soft: None, hard: Some(10_000) },
        headroom_bytes: Some(MIB),
        ..hard(500 * MIB)
    };
    ledger.set_limits(&project("p"), Some(limits), start());
    ledger.set_limits(&user(), Some(hard(10 * GIB)), start());
    account.settle(100 * MIB.cast_signed(), 1_000);
    let held = account.reserve(8 * MIB, 1, 0, LARGE).unwrap();
    let shown = account.statfs(host(1_000 * GIB, 500 * GIB));
    assert_eq!(shown.blocks, 500 * MIB / BLOCK_BYTES);
    assert_eq!(shown.blocks_free, 392 * MIB / BLOCK_BYTES);
    assert_eq!(shown.blocks_available, 391 * MIB / BLOCK_BYTES);
    assert_eq!((shown.files, shown.files_free), (10_000, 9_000 - 256));
    drop(held);
    let other = attach(&ledger, "q");
    other.settle((10 * GIB - 150 * MIB).cast_signed(), 0);
    let shown = account.statfs(host(1_000 * GIB, 500 * GIB));
    assert_eq!(shown.blocks, 10 * GIB / BLOCK_BYTES);
    assert_eq!(shown.blocks_available, 50 * MIB / BLOCK_BYTES);
}

#[test]
fn df_offers_no_more_than_the_host_has_and_still_shows_the_use() {
    let ledger = Ledger::new();
    let account = attach(&ledger, "p");
    ledger.set_limits(&user(), Some(hard(500 * GIB)), start());
    account.settle(100 * GIB.cast_signed(), 0);
    let shown = account.statfs(host(1_000 * GIB, 30 * GIB));
    assert_eq!(shown.blocks_available, 30 * GIB / BLOCK_BYTES);
    assert_eq!(shown.blocks - shown.blocks_free, 100 * GIB / BLOCK_BYTES);
    ledger.set_host_free(1, host(1_000 * GIB, 30 * GIB));
    assert_eq!(
        available(&account, host(1_000 * GIB, 30 * GIB)),
        30 * GIB - 1_000 * GIB / 100 * 2 % (30 * GIB)
    );
}

#[test]
fn trash_counts_as_available_where_the_disk_limits_and_not_the_quota() {
    let ledger = Ledger::new();
    let account = attach(&ledger, "p");
    let before = available(&account, host(1_000 * GIB, 30 * GIB));
    account.set_reclaimable(20 * MIB);
    assert_eq!(available(&account, host(1_000 * GIB, 30 * GIB)), before + 20 * MIB);
    ledger.set_limits(&user(), Some(hard(500 * MIB)), start());
    account.settle(500 * MIB.cast_signed(), 0);
    assert_eq!(available(&account, host(1_000 * GIB, 30 * GIB)), 0);
    assert_eq!(ledger.snapshot(&user()).unwrap().reclaimable_bytes, 20 * MIB);
    account.set_reclaimable(5 * MIB);
    assert_eq!(ledger.snapshot(&user()).unwrap().reclaimable_bytes, 5 * MIB);
}

#[test]
fn nothing_is_available_after_the_grace_period_or_above_the_limit() {
    let limits = Limits { grace: Some(SignedDuration::ZERO), ..soft_and_hard(100 * MIB, 200 * MIB) };
    let (ledger, account) = with_user_limits(limits);
    account.settle(150 * MIB.cast_signed(), 0);
    assert_eq!(available(&account, host(1_000 * GIB, 30 * GIB)), 50 * MIB);
    ledger.tick(start());
    assert_eq!(available(&account, host(1_000 * GIB, 30 * GIB)), 0);
    ledger.set_limits(&user(), Some(hard(10 * MIB)), start());
    let shown = account.statfs(host(1_000 * GIB, 30 * GIB));
    assert_eq!((shown.blocks * BLOCK_BYTES, shown.blocks_free), (10 * MIB, 0));
}

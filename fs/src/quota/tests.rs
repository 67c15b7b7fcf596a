use jiff::Timestamp;

use super::*;

const GIB: u64 = 1 << 30;

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

#[test]
fn single_writer_stops_at_the_exact_block() {
    let ledger = Ledger::new();
    let account = ledger.attach("p", 1000, None, 1, Cells::private());
    let limits = Limits {
        bytes: Bounds { soft: None, hard: Some(10 * BLOCK_BYTES) },
        headroom_bytes: Some(0),
        ..Limits::default()
    };
    ledger.set_limits(&ScopeKey::User(1000), Some(limits), now());
    let reservation = account.reserve(16 * BLOCK_BYTES, 1, 0, GIB).unwrap();
    assert_eq!(reservation.bytes(), 10 * BLOCK_BYTES);
    reservation.settle(10 * 4096, 0);
    let refusal = account.reserve(1, 1, 0, GIB).map(|_| ()).unwrap_err();
    assert_eq!((refusal.scope, refusal.reason), (ScopeKey::User(1000), Reason::Hard));
}

//! Projects whose bytes the filesystem below counts and limits.

use super::*;

#[test]
fn measured_bytes_are_neither_reserved_nor_settled() {
    let (ledger, account) = with_user_limits(Limits::default());
    ledger.set_limits(&project("p"), Some(hard(MIB)), start());
    assert_eq!(write(&account, 64 * KIB).unwrap(), 64 * KIB);
    let before = account.reserve(64 * KIB, 1, 1, LARGE).unwrap();
    account.measure(true);
    // The limit of the project is the filesystem's affair.
    let granted = account.reserve(8 * MIB, 8 * MIB, 1, LARGE).unwrap();
    assert_eq!(granted.bytes(), 8 * MIB);
    granted.settle((8 * MIB).cast_signed(), 1);
    account.settle(-(32_i64 << 10), 0);
    account.correct(4096, 0);
    before.settle(4096, 1);
    assert_eq!(bytes(&ledger, &project("p")), (64 * KIB, 0), "nothing but the measure changes it");
    assert_eq!(account.used_inodes(), 2);
    account.set_measured(3 * MIB);
    assert_eq!(bytes(&ledger, &project("p")), (3 * MIB, 0));
    assert_eq!(bytes(&ledger, &user()), (3 * MIB, 0));
    assert!(!account.is_estimated());

    account.measure(false);
    assert!(account.is_estimated(), "until a recount has found what the files come to");
    account.set_measured(MIB);
    assert_eq!(account.used_bytes(), 3 * MIB, "a late measure is not for it any more");
    account.correct(-(3 << 20), 0);
    assert_eq!(write(&account, 64 * KIB).unwrap(), 64 * KIB);
    assert_eq!(refused(write(&account, 2 * MIB).and_then(|_| write(&account, MIB))).scope, project("p"));
}

#[test]
fn limits_above_and_of_inodes_still_refuse() {
    let (ledger, account) = with_user_limits(hard(MIB));
    let inodes = Bounds { soft: None, hard: Some(1) };
    ledger.set_limits(&project("p"), Some(Limits { inodes, ..hard(4096) }), start());
    account.measure(true);
    assert!(account.check_parents(LARGE).is_ok());
    account.reserve(0, 0, 1, LARGE).unwrap().settle(0, 1);
    assert_eq!(refused(account.reserve(0, 0, 1, LARGE)).dimension, Dimension::Inodes);
    account.set_measured(MIB);
    assert_eq!(refused(account.check_parents(LARGE)).scope, user());
    assert_eq!(refused(account.reserve(4096, 1, 0, LARGE)).scope, user());
    assert_eq!(bytes(&ledger, &user()), (MIB, 0));
}

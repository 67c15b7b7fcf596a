//! Tests of the ledger as a whole, by topic.

mod grace;
mod measured;
mod model;
mod racing;
mod regroup;
mod reserve;
mod space;
mod watermark;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::refusal::Reason;
use super::space::Statfs;
use super::*;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// The end of a file that may not use the headroom.
const LARGE: u64 = GIB;

/// A time to begin with.
fn start() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn hours(hours: i64) -> SignedDuration {
    SignedDuration::from_hours(hours)
}

fn user() -> ScopeKey {
    ScopeKey::User(1000)
}

fn project(id: &str) -> ScopeKey {
    ScopeKey::Project(id.to_owned())
}

/// A hard limit on bytes, without headroom.
fn hard(bytes: u64) -> Limits {
    Limits { bytes: Bounds { soft: None, hard: Some(bytes) }, headroom_bytes: Some(0), ..Limits::default() }
}

/// A soft and a hard limit on bytes, without headroom, with a grace period of a week.
fn soft_and_hard(soft: u64, hard: u64) -> Limits {
    Limits {
        bytes: Bounds { soft: Some(soft), hard: Some(hard) },
        headroom_bytes: Some(0),
        ..Limits::default()
    }
}

/// A ledger with the project `p` of user 1000, for whom `limits` hold.
fn with_user_limits(limits: Limits) -> (Arc<Ledger>, Arc<Account>) {
    let ledger = Ledger::new();
    let account = ledger.attach("p", 1000, None, 1, Cells::private());
    ledger.set_limits(&user(), Some(limits), start());
    (ledger, account)
}

fn attach(ledger: &Arc<Ledger>, id: &str) -> Arc<Account> {
    ledger.attach(id, 1000, None, 1, Cells::private())
}

/// Reserves for a large file and settles what was granted; returns it.
fn write(account: &Account, bytes: u64) -> Result<u64, Refusal> {
    let reservation = account.reserve(bytes, 1, 0, LARGE)?;
    let granted = reservation.bytes();
    reservation.settle(granted.cast_signed(), 0);
    Ok(granted)
}

fn refused<T>(result: Result<T, Refusal>) -> Refusal {
    result.map(|_| ()).unwrap_err()
}

/// Bytes used and reserved of a scope.
fn bytes(ledger: &Ledger, scope: &ScopeKey) -> (u64, u64) {
    let usage = ledger.snapshot(scope).unwrap().bytes;
    (usage.used, usage.reserved)
}

fn kinds(events: Vec<Event>) -> Vec<EventKind> {
    events.into_iter().map(|event| event.kind).collect()
}

//! What snapshots are called where they are directories, and what else they are found by.
//!
//! A label is `2026-11-24T14-05-03Z-0017-manual-before-refactor`: when (UTC), the snapshot's number, why, and the name
//! that a user gave it, if there is one. Labels are ordered as the snapshots are, need no quotes in a shell, and are
//! valid file names on every system that a workspace may be copied to (no colons).
//!
//! A snapshot is also found by its number, by its name, as `latest`, and by a time: the last one that was not taken
//! later.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::Offset;
use jiff::{Timestamp, ToSpan};

use super::catalog::SnapshotRecord;

/// Longest file name, bytes.
const NAME_MAX: usize = 255;
/// Longest name of a snapshot, bytes, so that it fits into a label.
pub(crate) const MAX_GIVEN_NAME: usize = 180;

const LATEST: &str = "latest";

/// Which snapshots a word may stand for.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Wanted<'a> {
    Latest,
    Number(u32),
    /// Not later than this, nanoseconds since 1970.
    NotAfter(i64),
    /// A label, or a name that a user gave.
    Word(&'a str),
}

/// Returns the file name of a snapshot.
pub(crate) fn label(record: &SnapshotRecord) -> String {
    let time = Timestamp::from_nanosecond(record.time_ns.into()).unwrap_or(Timestamp::UNIX_EPOCH);
    let mut label =
        format!("{}-{:04}-{}", time.strftime("%Y-%m-%dT%H-%M-%SZ"), record.epoch.0, record.reason.as_str());
    if let Some(name) = record.name.as_deref().filter(|name| !name.is_empty()) {
        label.push('-');
        label.extend(name.chars().map(|c| if c == '/' || c.is_control() { '_' } else { c }));
    }
    let mut end = label.len().min(NAME_MAX);
    while !label.is_char_boundary(end) {
        end -= 1;
    }
    label.truncate(end);
    label
}

/// Returns the snapshots that `word` may stand for, the best first. `records` are in the order of their numbers.
pub(crate) fn candidates<'a>(
    records: &'a [SnapshotRecord],
    word: &str,
    now: Timestamp,
) -> Vec<&'a SnapshotRecord> {
    let wanted = parse(word, now);
    let newest_first = records.iter().rev();
    match wanted {
        Wanted::Latest => newest_first.collect(),
        Wanted::Number(number) => newest_first.filter(|record| record.epoch.0 == number).collect(),
        Wanted::NotAfter(time_ns) => newest_first.filter(|record| record.time_ns <= time_ns).collect(),
        Wanted::Word(word) => newest_first
            .filter(|record| record.name.as_deref() == Some(word) || label(record) == word)
            .collect(),
    }
}

/// Whether a user may give a snapshot this name: it stands for nothing else, is one file name, and not a hidden one.
pub(crate) fn may_be_given(name: &str) -> bool {
    let is_plain =
        !name.is_empty() && !name.starts_with('.') && !name.contains(|c: char| c == '/' || c.is_control());
    // What begins as a label could be that of another snapshot.
    let is_like_a_label = name.get(..20).is_some_and(|start| time_of(start, Timestamp::UNIX_EPOCH).is_some());
    is_plain && !is_like_a_label && matches!(parse(name, Timestamp::UNIX_EPOCH), Wanted::Word(_))
}

fn parse(word: &str, now: Timestamp) -> Wanted<'_> {
    if word == LATEST {
        return Wanted::Latest;
    }
    if !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit()) {
        return word.parse().map_or(Wanted::Word(word), Wanted::Number);
    }
    time_of(word, now).map_or(Wanted::Word(word), Wanted::NotAfter)
}

/// Reads `14-05`, `14-05-03`, `2026-11-24`, `2026-11-24T14-05`, `2026-11-24T14-05-03Z`, the same with colons, or a time of
/// RFC 3339, as nanoseconds since 1970: the last one of the day, the minute or the second that it names. Without a zone it
/// is UTC, as in labels. A time of day alone is the last such time before `now`.
fn time_of(word: &str, now: Timestamp) -> Option<i64> {
    let (time, unit) = match word.parse::<Timestamp>() {
        Ok(time) => (time, if time.subsec_nanosecond() == 0 { 1.second() } else { 1.nanosecond() }),
        Err(_) => civil_time(word, now)?,
    };
    let end = time.checked_add(unit).ok()?;
    i64::try_from(end.as_nanosecond() - 1).ok()
}

fn civil_time(word: &str, now: Timestamp) -> Option<(Timestamp, jiff::Span)> {
    let word = word.strip_suffix('Z').unwrap_or(word);
    let utc = |time: DateTime| Offset::UTC.to_timestamp(time).ok();
    if let Some((date, time)) = word.split_once(['T', '_', ' ']) {
        let (time, unit) = time_of_day(time)?;
        return Some((utc(date_of(date)?.to_datetime(time))?, unit));
    }
    if let Some(date) = date_of(word) {
        return Some((utc(date.to_datetime(Time::midnight()))?, 24.hours()));
    }
    let (time, unit) = time_of_day(word)?;
    let today = Offset::UTC.to_datetime(now).date();
    let found = utc(today.to_datetime(time))?;
    if found <= now {
        return Some((found, unit));
    }
    Some((utc(today.yesterday().ok()?.to_datetime(time))?, unit))
}

/// Reads `2026-11-24`, and nothing shorter.
fn date_of(word: &str) -> Option<Date> {
    let is_whole = word.len() == 10 && word.bytes().filter(|byte| *byte == b'-').count() == 2;
    is_whole.then(|| word.parse().ok()).flatten()
}

/// Reads hours and minutes, and seconds if there are any, of two digits each.
fn time_of_day(word: &str) -> Option<(Time, jiff::Span)> {
    let mut parts = Vec::new();
    for part in word.split(['-', ':']) {
        let is_number = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        parts.push(if is_number { part.parse::<i8>().ok()? } else { return None });
    }
    match parts.as_slice() {
        [hour, minute] => Some((Time::new(*hour, *minute, 0, 0).ok()?, 1.minute())),
        [hour, minute, second] => Some((Time::new(*hour, *minute, *second, 0).ok()?, 1.second())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::catalog::SnapshotState;
    use crate::snapshot::record::{Actor, SnapshotReason};
    use crate::snapshot::sequence::Epoch;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn record(epoch: u32, time: &str, name: Option<&str>) -> SnapshotRecord {
        SnapshotRecord {
            epoch: Epoch(epoch),
            time_ns: i64::try_from(at(time).as_nanosecond()).unwrap(),
            actor: Actor::default(),
            reason: if name.is_some() { SnapshotReason::Manual } else { SnapshotReason::Automatic },
            name: name.map(str::to_owned),
            note: None,
            is_held: false,
            state: SnapshotState::Sealed,
        }
    }

    fn three() -> [SnapshotRecord; 3] {
        [
            record(3, "2026-11-23T22:10:00Z", None),
            record(9, "2026-11-24T14:05:03.7Z", Some("before refactor")),
            record(17, "2026-11-24T14:05:59.9Z", None),
        ]
    }

    const NONE: [u32; 0] = [];

    fn found(word: &str) -> Vec<u32> {
        let records = three();
        let now = at("2026-11-24T20:00:00Z");
        candidates(&records, word, now).into_iter().map(|record| record.epoch.0).collect()
    }

    #[test]
    fn label_says_when_which_why_and_its_name() {
        let [first, second, _] = three();
        assert_eq!(label(&first), "2026-11-23T22-10-00Z-0003-auto");
        assert_eq!(label(&second), "2026-11-24T14-05-03Z-0009-manual-before refactor");
    }

    #[test]
    fn snapshot_is_found_by_label_number_name_and_time() {
        assert_eq!(found("2026-11-24T14-05-03Z-0009-manual-before refactor"), [9]);
        assert_eq!(found("before refactor"), [9]);
        assert_eq!(found("0009"), [9]);
        assert_eq!(found("10"), NONE);
        assert_eq!(found("latest"), [17, 9, 3]);
        assert_eq!(found("14-05"), [17, 9, 3], "to the end of the minute");
        assert_eq!(found("14:05:03"), [9, 3], "to the end of the second");
        assert_eq!(found("2026-11-24T14-05-03Z"), [9, 3]);
        assert_eq!(found("2026-11-24T14:05:03.5Z"), [3], "exactly");
        assert_eq!(found("2026-11-24T15:05:03+01:00"), [9, 3]);
        assert_eq!(found("2026-11-23"), [3], "to the end of the day");
        assert_eq!(found("21-00"), NONE, "yesterday, before the first");
        assert_eq!(found("22-10"), [3], "yesterday");
        assert_eq!(found("25-10"), NONE);
        assert_eq!(found(""), NONE);
    }

    #[test]
    fn given_name_stands_for_nothing_else() {
        for name in ["before refactor", "v1", "1.0", "12-", "latest-good", "größe", "2026"] {
            assert_eq!(may_be_given(name), name != "2026", "{name}");
        }
        for name in [
            "",
            ".x",
            "a/b",
            "a\nb",
            "latest",
            "0012",
            "14-05",
            "2026-11-24",
            "2026-11-24T14-05-03Z-0001-auto",
        ] {
            assert!(!may_be_given(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn label_is_one_file_name_and_finds_its_snapshot(
            name in proptest::option::of(".{0,300}"),
            epoch in 1_u32..(1 << 28),
            time_ns in 0_i64..i64::MAX,
        ) {
            let record = SnapshotRecord { epoch: Epoch(epoch), time_ns, name, ..record(1, "2026-11-24T14:05:03Z", None) };
            let label = label(&record);
            prop_assert!(label.len() <= NAME_MAX && !label.contains(['/', '\0']));
            prop_assert!(!may_be_given(&label));
            let records = [record];
            prop_assert_eq!(candidates(&records, &label, Timestamp::UNIX_EPOCH).len(), 1);
        }

        #[test]
        fn any_word_is_read_without_a_panic(word in ".{0,40}", digits in "[0-9TZ:._-]{0,30}") {
            let records = three();
            for word in [&word, &digits] {
                candidates(&records, word, Timestamp::UNIX_EPOCH);
                may_be_given(word);
            }
        }
    }
}

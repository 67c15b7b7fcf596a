//! What can be asked for by a line in `.wsguard/request`.
//!
//! The lines come from containers: anybody who may write to a workspace may write anything here. Reading one is pure;
//! what it asks for is carried out by the driver ([`super::request_desk`]). A further verb is one more row of
//! [`VERBS`], one arm of [`parse`] and one of the driver's.

use crate::restore::Line;

/// Longest reason, characters.
const LONGEST_REASON: usize = 200;

/// Shortest and longest boost, seconds.
const BOOST_SECONDS: std::ops::RangeInclusive<u64> = 3_600..=366 * 86_400;

/// Largest boost, bytes and files.
const MOST_BYTES: u64 = 1 << 50;
const MOST_FILES: u64 = 1_000_000_000;

/// What there is, and what it is for.
const VERBS: [(&str, &str); 5] = [
    ("help", "tell what can be asked for"),
    ("undo", "take the last deletion or overwriting of many files back"),
    (
        "restore PATH at TIME",
        "bring a file or directory back as it was: restore data/run1 at 2h ago. Without `at TIME`: as it was before it \
         was deleted last. What exists stays, and what comes back gets a name beside it",
    ),
    ("snapshot NAME", "keep the workspace as it is now; NAME may be left out"),
    (
        "boost SIZE for TIME because REASON",
        "ask an administrator for more room for a while, such as: boost 200G for 7d because paper deadline; \
         for more files write: boost 50000 files for 7d because ...",
    ),
];

/// Something that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    /// To be told what there is.
    Help,
    /// Something of the past.
    Past(Line),
    /// More room for a while.
    Boost {
        /// Bytes more; 0 if it is about files.
        bytes: u64,
        /// Files more; 0 if it is about bytes.
        inodes: u64,
        /// For how long.
        seconds: u64,
        /// Why.
        reason: String,
    },
}

/// Why a line asks for nothing. The text is what the writer reads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Complaint {
    #[error("{0:?} is nothing that can be asked for; see: help")]
    UnknownVerb(String),
    #[error("write: boost SIZE for TIME because REASON, such as: boost 200G for 7d because paper deadline")]
    BoostForm,
    #[error(
        "{0:?} is no size; write a number and K, M, G or T, such as 200G, or a number and the word files"
    )]
    Size(String),
    #[error("{0:?} is no time; write a number and h, d or w, such as 7d")]
    Time(String),
    #[error("a boost is for at least an hour and at most a year")]
    TimeRange,
    #[error("a boost has at least 1 byte or file and at most 1 PiB or 1,000,000,000 files")]
    SizeRange,
    #[error("{0}")]
    Past(String),
    #[error("the reason has {0} characters, {LONGEST_REASON} are enough")]
    LongReason(usize),
}

/// Reads a line.
pub(super) fn parse(line: &str) -> Result<Verb, Complaint> {
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    let verb = words.next().unwrap_or_default();
    match verb {
        "help" => Ok(Verb::Help),
        "undo" | "restore" | "snapshot" => Line::parse(line, jiff::Timestamp::now())
            .map(Verb::Past)
            .map_err(|error| Complaint::Past(error.to_api().message)),
        "boost" => boost(&words.collect::<Vec<_>>()),
        _ => Err(Complaint::UnknownVerb(verb.chars().take(20).collect())),
    }
}

/// Returns what `help` tells.
pub(super) fn help() -> String {
    let mut text = String::from("write one line to this file and read it again for the answer\n");
    for (form, purpose) in VERBS {
        text.push_str(&format!("  {form}\n      {purpose}\n"));
    }
    text
}

fn boost(words: &[&str]) -> Result<Verb, Complaint> {
    let (size, unit, rest) = match words {
        [size, unit @ ("files" | "inodes"), rest @ ..] => (*size, Some(*unit), rest),
        [size, rest @ ..] => (*size, None, rest),
        [] => return Err(Complaint::BoostForm),
    };
    let ["for", time, "because", reason @ ..] = rest else { return Err(Complaint::BoostForm) };
    let bad_size = || Complaint::Size(size.chars().take(20).collect());
    let (bytes, inodes) = match unit {
        Some(_) => (0, size.parse().map_err(|_| bad_size())?),
        None => (scaled(size, &SIZE_UNITS).ok_or_else(bad_size)?, 0),
    };
    let seconds =
        scaled(time, &TIME_UNITS).ok_or_else(|| Complaint::Time(time.chars().take(20).collect()))?;
    if !BOOST_SECONDS.contains(&seconds) {
        return Err(Complaint::TimeRange);
    }
    if (bytes, inodes) == (0, 0) || bytes > MOST_BYTES || inodes > MOST_FILES {
        return Err(Complaint::SizeRange);
    }
    let reason = reason.join(" ");
    match reason.chars().count() {
        0 => Err(Complaint::BoostForm),
        length if length > LONGEST_REASON => Err(Complaint::LongReason(length)),
        _ => Ok(Verb::Boost { bytes, inodes, seconds, reason }),
    }
}

const SIZE_UNITS: [(&str, u64); 8] = [
    ("K", 1 << 10),
    ("KiB", 1 << 10),
    ("M", 1 << 20),
    ("MiB", 1 << 20),
    ("G", 1 << 30),
    ("GiB", 1 << 30),
    ("T", 1 << 40),
    ("TiB", 1 << 40),
];

const TIME_UNITS: [(&str, u64); 3] = [("h", 3_600), ("d", 86_400), ("w", 604_800)];

/// Reads a whole number with a unit.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    let (_, factor) = units.iter().find(|(known, _)| *known == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn boost_is_read_with_size_time_and_reason() {
        let wanted = |bytes, inodes, seconds, reason: &str| {
            Ok(Verb::Boost { bytes, inodes, seconds, reason: reason.to_owned() })
        };
        let week = 7 * 86_400;
        assert_eq!(
            parse("boost 200G for 7d because paper deadline"),
            wanted(200 << 30, 0, week, "paper deadline")
        );
        assert_eq!(parse("boost  1TiB  for 1w because  x"), wanted(1 << 40, 0, week, "x"));
        assert_eq!(parse("boost 50000 files for 12h because conda"), wanted(0, 50_000, 43_200, "conda"));
        assert_eq!(parse("help me"), Ok(Verb::Help));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let long = format!("boost 1G for 1d because {}", "x".repeat(LONGEST_REASON + 1));
        for (line, expected) in [
            ("boost", Complaint::BoostForm),
            ("boost 200G", Complaint::BoostForm),
            ("boost 200G for 7d because", Complaint::BoostForm),
            ("boost 200 for 7d because x", Complaint::Size("200".into())),
            ("boost -1G for 7d because x", Complaint::Size("-1G".into())),
            ("boost 99999999999999999999G for 7d because x", Complaint::Size("99999999999999999999".into())),
            ("boost 0G for 7d because x", Complaint::SizeRange),
            ("boost 2000T for 7d because x", Complaint::SizeRange),
            ("boost 1G for 7 because x", Complaint::Time("7".into())),
            ("boost 1G for 1000w because x", Complaint::TimeRange),
            (&long, Complaint::LongReason(LONGEST_REASON + 1)),
            ("Boost 1G for 1d because x", Complaint::UnknownVerb("Boost".into())),
            ("", Complaint::UnknownVerb(String::new())),
        ] {
            assert_eq!(parse(line), Err(expected), "{line}");
        }
    }

    #[test]
    fn help_lists_every_verb() {
        for (form, _) in VERBS {
            assert!(help().contains(form));
        }
        assert!(parse(VERBS[0].0).is_ok());
    }

    proptest! {
        #[test]
        fn nothing_that_is_written_panics_or_exceeds_the_bounds(line in "(boost )?[ -~é]{0,60}( for [0-9]{1,22}[hdwx])?( because .{0,300})?") {
            if let Ok(Verb::Boost { bytes, inodes, seconds, reason }) = parse(&line) {
                prop_assert!(bytes <= MOST_BYTES && inodes <= MOST_FILES && BOOST_SECONDS.contains(&seconds));
                prop_assert!(!reason.is_empty() && reason.chars().count() <= LONGEST_REASON);
            }
        }
    }
}

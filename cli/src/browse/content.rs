//! What is shown of one entry: its beginning, or how it differs from what is there now. Everything is bounded.

use std::time::Duration;

use similar::{ChangeTag, TextDiff};
use wsguard_api::{DifferenceKind, DifferenceReport, PastKind, PastListing, PastPiece, VersionCertainty};

use super::folder::{change_mark, kind_mark};
use super::text::{as_text, shown_line, shown_name};
use crate::output::{bytes, count, printable};

/// How much of a file is looked at, bytes.
pub(crate) const MOST_BYTES: u32 = 256 << 10;
/// Lines that are shown at most.
const MOST_LINES: usize = 20_000;
/// Names of a directory that are shown at most.
pub(crate) const MOST_NAMES: u32 = 500;
/// How long a comparison may look for the smallest difference.
const COMPARISON_LIMIT: Duration = Duration::from_millis(500);
/// Lines around a difference.
const CONTEXT_LINES: usize = 3;

/// What a line of a comparison is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// In both.
    Both,
    /// Only then.
    Then,
    /// Only now.
    Now,
    /// Says where.
    Place,
}

/// What is shown below the facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// A sentence why there is nothing.
    Nothing(String),
    /// Lines, harmless.
    Lines(Vec<String>),
    /// To be shown in hexadecimal.
    Bytes(Vec<u8>),
    /// Lines of a comparison, harmless.
    Comparison(Vec<(Side, String)>),
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    /// Size, time and the like, harmless.
    pub(crate) facts: String,
    /// What is doubtful about it.
    pub(crate) doubt: Option<&'static str>,
    /// What is shown.
    pub(crate) body: Body,
}

impl Content {
    /// Says why nothing can be shown.
    pub(crate) fn nothing(reason: impl Into<String>) -> Self {
        Self { facts: String::new(), doubt: None, body: Body::Nothing(reason.into()) }
    }

    /// Returns how many rows the body takes, `width` bytes in a row of a dump.
    pub(crate) fn rows(&self, width: usize) -> usize {
        match &self.body {
            Body::Nothing(_) => 1,
            Body::Lines(lines) => lines.len(),
            Body::Bytes(bytes) => bytes.len().div_ceil(width.max(1)),
            Body::Comparison(lines) => lines.len(),
        }
    }
}

/// Returns the beginning of a file.
pub(crate) fn preview(piece: &PastPiece) -> Content {
    let is_cut = is_cut(piece);
    let mut facts = format!("{}, written {}", bytes(piece.size), time(&piece.modified));
    if is_cut {
        facts.push_str(&format!("; the first {} are shown", bytes(piece.bytes.0.len() as u64)));
    }
    let body = match piece.kind {
        PastKind::Symlink => Body::Lines(vec![format!("-> {}", shown_name(&piece.bytes.0))]),
        PastKind::Directory => Body::Nothing("a directory".to_owned()),
        PastKind::Other => Body::Nothing("neither a file nor a directory".to_owned()),
        PastKind::File if piece.size == 0 => Body::Nothing("empty".to_owned()),
        PastKind::File => match (lost(piece.certainty), as_text(&piece.bytes.0, is_cut)) {
            (Some(reason), _) => Body::Nothing(reason.to_owned()),
            (None, Some(text)) => Body::Lines(text.lines().take(MOST_LINES).map(shown_line).collect()),
            (None, None) => Body::Bytes(piece.bytes.0.clone()),
        },
    };
    Content { facts, doubt: doubt(piece.certainty), body }
}

/// Returns what a directory held.
pub(crate) fn directory(listing: &PastListing) -> Content {
    let lines: Vec<String> = listing
        .entries
        .iter()
        .map(|entry| {
            format!("{} {}{}", change_mark(entry.change), shown_name(&entry.name.0), kind_mark(entry.kind))
        })
        .collect();
    let total = listing.entries.len() as u64 + listing.left_out;
    let facts = match (listing.existed, listing.exists) {
        (true, true) => count(total, "name"),
        (true, false) => format!("{}; the directory was deleted since then", count(total, "name")),
        (false, _) => format!("{}; the directory is new since then", count(total, "name")),
    };
    let body = if lines.is_empty() { Body::Nothing("empty".to_owned()) } else { Body::Lines(lines) };
    Content { facts, doubt: None, body }
}

/// Returns how a file then differs from what is in its place now; `None` for what is not there.
pub(crate) fn comparison(then: Option<&PastPiece>, now: Option<&PastPiece>) -> Content {
    let size = |piece: Option<&PastPiece>| piece.map_or_else(|| "nothing".to_owned(), |p| bytes(p.size));
    let facts = format!("- then: {}, + now: {}", size(then), size(now));
    let doubt = then.and_then(|piece| doubt(piece.certainty));
    let body = match (then, now) {
        (None, None) => Body::Nothing("there is nothing, neither then nor now".to_owned()),
        (then, now) => compared(then, now),
    };
    Content { facts, doubt, body }
}

fn compared(then: Option<&PastPiece>, now: Option<&PastPiece>) -> Body {
    let pieces = [then, now].into_iter().flatten();
    if let Some(reason) = pieces.clone().find_map(|piece| lost(piece.certainty)) {
        return Body::Nothing(reason.to_owned());
    }
    if let (Some(then), Some(now)) = (then, now)
        && then.kind != now.kind
    {
        return Body::Nothing(format!("then {}, now {}", kind_words(then.kind), kind_words(now.kind)));
    }
    if let Some(piece) =
        pieces.clone().find(|piece| matches!(piece.kind, PastKind::Directory | PastKind::Other))
    {
        return Body::Nothing(format!("{} has no lines to compare", kind_words(piece.kind)));
    }
    let any_cut = pieces.clone().any(is_cut);
    let text = |piece: Option<&PastPiece>| match piece {
        None => Some(String::new()),
        Some(piece) => as_text(&piece.bytes.0, is_cut(piece)).map(str::to_owned),
    };
    let (Some(before), Some(after)) = (text(then), text(now)) else {
        let are_same = then.map(|piece| &piece.bytes) == now.map(|piece| &piece.bytes)
            && then.map(|piece| piece.size) == now.map(|piece| piece.size);
        return Body::Nothing(match (are_same, any_cut) {
            (true, false) => "no text, and the same bytes".to_owned(),
            (true, true) => format!("no text; the first {} are the same", bytes(MOST_BYTES.into())),
            (false, _) => "no text, and different bytes".to_owned(),
        });
    };
    let difference =
        TextDiff::configure().timeout(COMPARISON_LIMIT).diff_lines(before.as_str(), after.as_str());
    let mut lines = Vec::new();
    let mut unified = difference.unified_diff();
    for hunk in unified.context_radius(CONTEXT_LINES).iter_hunks() {
        lines.push((Side::Place, shown_line(&hunk.header().to_string())));
        lines.extend(hunk.iter_changes().map(|change| {
            let (side, sign) = match change.tag() {
                ChangeTag::Equal => (Side::Both, ' '),
                ChangeTag::Delete => (Side::Then, '-'),
                ChangeTag::Insert => (Side::Now, '+'),
            };
            (side, format!("{sign}{}", shown_line(change.value())))
        }));
        if lines.len() > MOST_LINES {
            lines.truncate(MOST_LINES);
            break;
        }
    }
    if any_cut {
        let note = format!("only the first {} of each were compared", bytes(MOST_BYTES.into()));
        lines.insert(0, (Side::Place, note));
    }
    if lines.is_empty() { Body::Nothing("no difference".to_owned()) } else { Body::Comparison(lines) }
}

/// Returns what is different below a directory.
pub(crate) fn directory_comparison(report: &DifferenceReport) -> Content {
    let total = report.items.len() as u64 + report.left_out;
    let facts = format!("{} since snapshot {}", count(total, "difference"), report.earlier);
    let lines: Vec<(Side, String)> = report
        .items
        .iter()
        .take(MOST_LINES)
        .map(|item| {
            let (side, sign) = match item.kind {
                DifferenceKind::Added => (Side::Now, '+'),
                DifferenceKind::Removed => (Side::Then, '-'),
                DifferenceKind::Renamed => (Side::Both, 'R'),
                DifferenceKind::Replaced | DifferenceKind::Modified => (Side::Both, 'M'),
                DifferenceKind::Attributes => (Side::Both, 'a'),
            };
            let slash = if item.is_directory { "/" } else { "" };
            let from =
                item.from.as_ref().map_or_else(String::new, |from| format!(", was {}", printable(from)));
            (side, format!("{sign} {}{slash}{from}", printable(&item.path)))
        })
        .collect();
    let body =
        if lines.is_empty() { Body::Nothing("no difference".to_owned()) } else { Body::Comparison(lines) };
    Content { facts, doubt: None, body }
}

/// Returns what is doubtful about something, in a few words.
pub(crate) fn doubt(certainty: VersionCertainty) -> Option<&'static str> {
    match certainty {
        VersionCertainty::Exact => None,
        VersionCertainty::Fuzzy => Some("fuzzy"),
        VersionCertainty::ChangedOutside => Some("changed outside"),
        VersionCertainty::Damaged => Some("damaged"),
    }
}

fn lost(certainty: VersionCertainty) -> Option<&'static str> {
    match certainty {
        VersionCertainty::Exact | VersionCertainty::Fuzzy => None,
        VersionCertainty::ChangedOutside => {
            Some("changed outside: it was changed past the mount, and what it was is not known")
        }
        VersionCertainty::Damaged => Some("damaged: what was kept of it cannot be read as it was"),
    }
}

fn is_cut(piece: &PastPiece) -> bool {
    piece.kind == PastKind::File && piece.size > piece.bytes.0.len() as u64 && lost(piece.certainty).is_none()
}

fn kind_words(kind: PastKind) -> &'static str {
    match kind {
        PastKind::File => "a file",
        PastKind::Directory => "a directory",
        PastKind::Symlink => "a symbolic link",
        PastKind::Other => "something that is neither file nor directory",
    }
}

/// Returns an RFC 3339 time to the second.
fn time(at: &str) -> String {
    let second = at.split_once('.').map_or(at, |(second, _)| second);
    printable(second.trim_end_matches('Z')).replace('T', " ")
}

#[cfg(test)]
mod tests {
    use wsguard_api::ExactBytes;

    use super::*;
    use crate::browse::samples::piece;

    #[test]
    fn text_is_shown_as_lines_and_everything_else_in_hexadecimal() {
        assert_eq!(
            preview(&piece("a\tb\nc\x1b[2J\n")).body,
            Body::Lines(vec!["a   b".into(), "c\\u{1b}[2J".into()])
        );
        let mut binary = piece("");
        (binary.bytes, binary.size) = (ExactBytes(vec![0, 1, 255]), 3);
        assert_eq!(preview(&binary).body, Body::Bytes(vec![0, 1, 255]));
        let content = preview(&binary);
        assert_eq!((content.rows(2), content.rows(0)), (2, 3));
    }

    #[test]
    fn what_is_not_known_is_said_and_not_shown() {
        for (certainty, word) in
            [(VersionCertainty::ChangedOutside, "changed outside"), (VersionCertainty::Damaged, "damaged")]
        {
            let mut wrong = piece("x");
            wrong.certainty = certainty;
            let content = preview(&wrong);
            assert_eq!(content.doubt, Some(word));
            assert!(matches!(&content.body, Body::Nothing(reason) if reason.contains(word)), "{content:?}");
            let compared = comparison(Some(&wrong), Some(&piece("y")));
            assert!(matches!(&compared.body, Body::Nothing(reason) if reason.contains(word)), "{compared:?}");
        }
        let mut fuzzy = piece("x");
        fuzzy.certainty = VersionCertainty::Fuzzy;
        assert_eq!(preview(&fuzzy).doubt, Some("fuzzy"));
        assert_eq!(preview(&fuzzy).body, Body::Lines(vec!["x".into()]));
    }

    #[test]
    fn a_comparison_is_unified() {
        let Body::Comparison(lines) = comparison(Some(&piece("a\nb\n")), Some(&piece("a\nc\n"))).body else {
            panic!("no comparison");
        };
        let text: Vec<&str> = lines.iter().map(|(_, line)| line.as_str()).collect();
        assert_eq!(text, ["@@ -1,2 +1,2 @@", " a", "-b", "+c"]);
        assert_eq!(
            comparison(Some(&piece("a")), Some(&piece("a"))).body,
            Body::Nothing("no difference".into())
        );
        let Body::Comparison(lines) = comparison(Some(&piece("a\n")), None).body else { panic!("none") };
        assert_eq!(lines[1], (Side::Then, "-a".into()));
    }
}

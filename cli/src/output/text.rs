use std::borrow::Cow;
use std::time::Duration;

use jiff::Timestamp;

const BINARY_UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Returns a size in IEC units with three significant digits at most: `999 B`, `1.5 KiB`, `79.1 GiB`.
pub fn bytes(size: u64) -> String {
    if size < 1024 {
        return format!("{size} B");
    }
    // Tenths in integers: a float would round 1023.96 KiB up to "1024.0 KiB".
    let mut tenths = u128::from(size) * 10 / 1024;
    let mut units = BINARY_UNITS.iter();
    let mut unit = units.next().copied().unwrap_or("KiB");
    while tenths >= 10_240 {
        let Some(next) = units.next() else { break };
        tenths /= 1024;
        unit = next;
    }
    match tenths {
        0..1000 => format!("{}.{} {unit}", tenths / 10, tenths % 10),
        _ => format!("{} {unit}", tenths / 10),
    }
}

/// Returns a count with its noun: `1 workspace`, `2 workspaces`, `2 directories`, `2 processes`.
pub fn count(number: u64, noun: &str) -> String {
    if number == 1 {
        return format!("1 {noun}");
    }
    match noun.strip_suffix('y') {
        Some(stem) => format!("{number} {stem}ies"),
        None if noun.ends_with('s') => format!("{number} {noun}es"),
        None => format!("{number} {noun}s"),
    }
}

/// Returns a span in its largest unit: `5 s`, `3 min`, `2 h`, `4 d`.
pub fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Returns how long something took: `12 ms`, `1.5 s`, `3 min`.
pub fn elapsed_ms(milliseconds: u64) -> String {
    match milliseconds {
        0..1_000 => format!("{milliseconds} ms"),
        1_000..60_000 => format!("{}.{} s", milliseconds / 1_000, milliseconds % 1_000 / 100),
        _ => duration(Duration::from_millis(milliseconds)),
    }
}

/// Returns how long ago an RFC 3339 time was; a time that cannot be read is shown as it came.
///
/// A time after `now` (clocks differ) counts as now.
pub fn ago(time: &str, now: Timestamp) -> String {
    let Ok(then) = time.parse::<Timestamp>() else { return time.to_owned() };
    let span = Duration::try_from(now.duration_since(then)).unwrap_or(Duration::ZERO);
    if span < Duration::from_secs(1) { "just now".to_owned() } else { format!("{} ago", duration(span)) }
}

/// Returns the text with control characters escaped, so that a file name cannot steer the terminal.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe_to_print) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_unsafe_to_print(character) {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// Control characters, and the invisible ones that reorder the text around them.
fn is_unsafe_to_print(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_at_most_and_never_reach_1024() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1023 KiB"),
            (1024 * 1024, "1.0 MiB"),
            (84_933_480_448, "79.1 GiB"),
            (270_582_939_648, "252 GiB"),
            (u64::MAX, "15.9 EiB"),
        ];
        for (size, expected) in cases {
            assert_eq!(bytes(size), expected, "{size}");
        }
    }

    #[test]
    fn durations_use_their_largest_unit() {
        let cases =
            [(0, "0 s"), (59, "59 s"), (60, "1 min"), (7_199, "1 h"), (90_000, "25 h"), (172_800, "2 d")];
        for (seconds, expected) in cases {
            assert_eq!(duration(Duration::from_secs(seconds)), expected);
        }
        assert_eq!(elapsed_ms(12), "12 ms");
        assert_eq!(elapsed_ms(1_550), "1.5 s");
        assert_eq!(elapsed_ms(180_000), "3 min");
    }

    #[test]
    fn times_are_relative_and_the_future_is_now() {
        let now: Timestamp = "2030-01-01T12:00:00Z".parse().unwrap();
        assert_eq!(ago("2030-01-01T11:57:00Z", now), "3 min ago");
        assert_eq!(ago("2030-01-01T12:00:05Z", now), "just now");
        assert_eq!(ago("yesterday", now), "yesterday");
    }

    #[test]
    fn counts_agree_with_their_noun() {
        assert_eq!(count(1, "directory"), "1 directory");
        assert_eq!(count(3, "directory"), "3 directories");
        assert_eq!(count(2, "process"), "2 processes");
        assert_eq!(count(0, "workspace"), "0 workspaces");
    }

    #[test]
    fn escape_sequences_and_text_reordering_are_made_visible() {
        assert_eq!(printable("plain é 你"), "plain é 你");
        assert_eq!(printable("a\u{1b}[31mb\n"), "a\\u{1b}[31mb\\n");
        assert_eq!(printable("a\u{202e}b"), "a\\u{202e}b");
    }
}

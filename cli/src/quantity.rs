//! Sizes, counts and times as people write them. Strict: what could be meant in two ways is refused.

use wsguard_api::Bound;

const UNLIMITED: &str = "unlimited";

/// Units of 1024 as coreutils have them, and of 1000 with a `B`.
const SIZE_UNITS: [(&str, u64); 16] = [
    ("B", 1),
    ("K", 1 << 10),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("M", 1 << 20),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("G", 1 << 30),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("T", 1 << 40),
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("P", 1 << 50),
    ("PiB", 1 << 50),
    ("PB", 1_000_000_000_000_000),
];

const COUNT_UNITS: [(&str, u64); 4] = [("", 1), ("k", 1_000), ("K", 1_000), ("M", 1_000_000)];

const TIME_UNITS: [(&str, u64); 6] =
    [("s", 1), ("m", 60), ("min", 60), ("h", 3_600), ("d", 86_400), ("w", 604_800)];

/// Reads a size in bytes: `500G`, `1.5TiB`, `200GB`, `0`.
///
/// # Errors
/// Says what is wrong and what would be right.
pub fn size(text: &str) -> Result<u64, String> {
    let example =
        "write a number and B, K, M, G, T or P, such as 500G (powers of 1024; 500GB counts in 1000s)";
    match number_and_unit(text, "size", example)? {
        ("0", "") => Ok(0),
        (number, "") => {
            Err(format!("{text:?} has no unit: write {number}G, {number}M or, for bytes, {number}B"))
        }
        (number, unit) => scaled(text, number, unit, &SIZE_UNITS, "size", example),
    }
}

/// Reads a size, or `unlimited`.
///
/// # Errors
/// As [`size`].
pub fn size_bound(text: &str) -> Result<Bound, String> {
    if text == UNLIMITED { Ok(Bound::Unlimited) } else { size(text).map(Bound::At) }
}

/// Reads a number of inodes: `100000`, `200k`, `1.5M`.
///
/// # Errors
/// Says what is wrong and what would be right.
pub fn count(text: &str) -> Result<u64, String> {
    let example = "write a number, or one with k or M, such as 500k";
    let (number, unit) = number_and_unit(text, "number", example)?;
    scaled(text, number, unit, &COUNT_UNITS, "number", example)
}

/// Reads a number of inodes, or `unlimited`.
///
/// # Errors
/// As [`count`].
pub fn count_bound(text: &str) -> Result<Bound, String> {
    if text == UNLIMITED { Ok(Bound::Unlimited) } else { count(text).map(Bound::At) }
}

/// Reads a span in seconds: `7d`, `12h`, `30min`.
///
/// # Errors
/// Says what is wrong and what would be right.
pub fn seconds(text: &str) -> Result<u64, String> {
    let example = "write a number and s, min, h, d or w, such as 7d";
    match number_and_unit(text, "time", example)? {
        ("0", "") => Ok(0),
        (_, "") => Err(format!("{text:?} has no unit: {example}")),
        (number, unit) => scaled(text, number, unit, &TIME_UNITS, "time", example),
    }
}

fn number_and_unit<'a>(text: &'a str, what: &str, example: &str) -> Result<(&'a str, &'a str), String> {
    if text.starts_with('-') {
        return Err(format!("{text:?} is negative: {example}"));
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    if number.is_empty() {
        return Err(format!("{text:?} is no {what}: {example}"));
    }
    Ok((number, unit))
}

/// Multiplies a decimal number in integers: floats would turn 0.1T into a size that nobody wrote.
fn scaled(
    text: &str,
    number: &str,
    unit: &str,
    units: &[(&str, u64)],
    what: &str,
    example: &str,
) -> Result<u64, String> {
    let Some((_, factor)) = units.iter().find(|(known, _)| *known == unit) else {
        return Err(format!("{text:?} is no {what}, the unit {unit:?} is not known: {example}"));
    };
    let wrong = || format!("{text:?} is no {what}: {example}");
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_number(fraction) || (fraction.is_empty() && number.contains('.')) {
        return Err(wrong());
    }
    let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| wrong())?;
    let scale = u32::try_from(fraction.len()).ok().and_then(|places| 10_u128.checked_pow(places));
    let product = digits.checked_mul(u128::from(*factor)).zip(scale);
    let value = product.map(|(product, scale)| product / scale).and_then(|value| u64::try_from(value).ok());
    value.filter(|value| i64::try_from(*value).is_ok()).ok_or_else(|| format!("{text:?} is too large"))
}

/// Returns a size as [`size`] reads it, in the largest unit that it is a multiple of.
pub fn size_text(bytes: u64) -> String {
    let units = [("P", 1_u64 << 50), ("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)];
    let whole = units.iter().find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor));
    whole.map_or_else(|| format!("{bytes}B"), |(unit, factor)| format!("{}{unit}", bytes / factor))
}

/// Returns a span as [`seconds`] reads it, in the largest unit that it is a multiple of.
pub fn seconds_text(seconds: u64) -> String {
    let units = [("d", 86_400), ("h", 3_600), ("min", 60)];
    let whole = units.iter().find(|(_, factor)| seconds > 0 && seconds.is_multiple_of(*factor));
    whole.map_or_else(|| format!("{seconds}s"), |(unit, factor)| format!("{}{unit}", seconds / factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        let cases = [
            ("0", 0),
            ("1B", 1),
            ("500G", 500 << 30),
            ("500GiB", 500 << 30),
            ("500GB", 500_000_000_000),
            ("1.5T", 3 << 39),
            ("0.1K", 102),
        ];
        for (text, bytes) in cases {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        assert_eq!(size_bound("unlimited"), Ok(Bound::Unlimited));
    }

    #[test]
    fn what_is_no_size_is_refused_with_a_way_out() {
        let cases = [
            ("10", "no unit"),
            ("500GBB", "\"GBB\" is not known"),
            ("500g", "\"g\" is not known"),
            ("-5G", "negative"),
            ("", "is no size"),
            ("G", "is no size"),
            ("1.G", "is no size"),
            (".5G", "is no size"),
            ("1.2.3G", "is no size"),
            ("5 G", "\" G\" is not known"),
            ("1e3G", "not known"),
            ("９G", "is no size"),
            ("99999999999P", "too large"),
            ("9999999999999999999999999999999999999999999B", "is no size"),
            ("8192P", "too large"),
        ];
        for (text, reason) in cases {
            let error = size(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn counts_and_times_are_read() {
        assert_eq!(count("100000"), Ok(100_000));
        assert_eq!(count("1.5M"), Ok(1_500_000));
        assert!(count("5G").is_err());
        assert_eq!(seconds("7d"), Ok(604_800));
        assert_eq!(seconds("90min"), Ok(5_400));
        assert!(seconds("7").is_err());
        assert!(seconds("-7d").is_err());
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        for bytes in [0, 1, 1023, 1024, 500 << 30, (500 << 30) + 1, i64::MAX.cast_unsigned()] {
            assert_eq!(size(&size_text(bytes)), Ok(bytes));
        }
        for span in [0, 1, 59, 60, 86_400, 86_401] {
            assert_eq!(seconds(&seconds_text(span)), Ok(span));
        }
    }
}

//! `.npy` arrays and `.npz` archives of them.

use super::zip::Zip;
use crate::evidence::Evidence;
use crate::report::Findings;
use crate::window::{Check, Flaw, Window, le};

pub(super) const MAGIC: &[u8] = b"\x93NUMPY";
const MAX_HEADER: u64 = 1 << 20;

pub(super) fn probe_npy(window: Window<'_>, out: &mut Findings) -> Check<()> {
    let head = window.read_some(0, 12)?;
    if head.len() < 12 {
        return Err(Flaw::torn(Evidence::EndsEarly { size: window.size(), expected: 12 }));
    }
    let expected = match expected_size(&window, &head)? {
        Some(expected) => expected,
        // Objects are pickled; their length is only known by walking them.
        None => return super::pickled::probe_at(window, header_end(&head)?, out),
    };
    out.expected = Some(expected);
    exact(window.size(), expected, 1, out)
}

/// Fails unless the file is exactly as long as its header says.
pub(super) fn exact(size: u64, expected: u64, parts: u64, out: &mut Findings) -> Check<()> {
    out.expected = Some(expected);
    match size.cmp(&expected) {
        std::cmp::Ordering::Less => Err(Flaw::torn(Evidence::EndsEarly { size, expected })),
        std::cmp::Ordering::Greater => Err(Flaw::torn(Evidence::TrailingBytes { size, expected })),
        std::cmp::Ordering::Equal => {
            out.note(Evidence::LengthMatches { size, parts });
            Ok(())
        }
    }
}

fn header_end(head: &[u8]) -> Check<u64> {
    let (start, width) = match head.get(6) {
        Some(1) => (10, 2),
        Some(2 | 3) => (12, 4),
        _ => return Err(Flaw::unsure(Evidence::Unsupported { what: "a newer version of npy".into() })),
    };
    let length = le(head, 8, width).ok_or_else(|| Flaw::broken("the npy header is cut"))?;
    if length > MAX_HEADER {
        return Err(Flaw::broken(format!("an npy header of {length} bytes")));
    }
    Ok(start + length)
}

/// The length of header and data; `None` for arrays of objects.
fn expected_size(window: &Window<'_>, head: &[u8]) -> Check<Option<u64>> {
    let end = header_end(head)?;
    let start = if head.get(6) == Some(&1) { 10 } else { 12 };
    let text = window.read(start, end - start)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let broken = || Flaw::broken(format!("npy header {:?} cannot be read", text.trim()));
    let after = |key: &str| text.split_once(key).map(|(_, rest)| rest);
    let description = after("'descr':").ok_or_else(broken)?.trim_start();
    let shape =
        after("'shape':").and_then(|rest| rest.split_once('(')).and_then(|(_, rest)| rest.split_once(')'));
    let (shape, _) = shape.ok_or_else(broken)?;
    let mut elements = 1_u64;
    for length in shape.split(',').map(str::trim).filter(|length| !length.is_empty()) {
        let length: u64 = length.parse().map_err(|_| broken())?;
        elements = elements.checked_mul(length).ok_or_else(broken)?;
    }
    let Some(code) = description.strip_prefix('\'').and_then(|rest| rest.split('\'').next()) else {
        return Err(Flaw::unsure(Evidence::Unsupported { what: "npy records of several fields".into() }));
    };
    let code = code.trim_start_matches(['<', '>', '|', '=']);
    let kind = code.chars().next().ok_or_else(broken)?;
    if kind == 'O' {
        return Ok(None);
    }
    let digits: String = code.chars().skip(1).take_while(char::is_ascii_digit).collect();
    let width: u64 = digits.parse().map_err(|_| broken())?;
    let width = if kind == 'U' { width.saturating_mul(4) } else { width };
    let bytes = elements.checked_mul(width).and_then(|bytes| bytes.checked_add(end));
    bytes.map(Some).ok_or_else(broken)
}

pub(super) fn probe_npz(window: Window<'_>, zip: &Zip<'_>, out: &mut Findings) -> Check<()> {
    out.expected = Some(window.size());
    out.note(Evidence::ZipDirectory { entries: zip.entries.len() as u64 });
    for entry in
        zip.entries.iter().filter(|entry| entry.name.ends_with(".npy") && entry.method == 0).take(256)
    {
        let array = zip.payload(entry)?;
        let head = array.read(0, array.size().min(12))?;
        if !head.starts_with(MAGIC) {
            return Err(Flaw::broken(format!("{:?} is no array", entry.name)));
        }
        if let Some(expected) = expected_size(&array, &head)?
            && expected != array.size()
        {
            let (key, size) = (entry.name.clone(), array.size());
            return Err(Flaw::torn(Evidence::StorageShort { key, size, expected }));
        }
    }
    Ok(())
}

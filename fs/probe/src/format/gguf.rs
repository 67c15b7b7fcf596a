//! GGUF: metadata and tensor table, then data of known length.

use super::numpy::exact;
use crate::evidence::Evidence;
use crate::report::Findings;
use crate::window::{Check, Cursor, Flaw, Window};

const MAX_ITEMS: u64 = 200_000;

pub(super) fn probe(window: Window<'_>, out: &mut Findings) -> Check<()> {
    let mut cursor = window.cursor(4);
    let version = cursor.u32()?;
    if !matches!(version, 2 | 3) {
        return Err(Flaw::unsure(Evidence::Unsupported { what: format!("GGUF version {version}") }));
    }
    let (tensors, pairs) = (cursor.u64()?, cursor.u64()?);
    if tensors > MAX_ITEMS || pairs > MAX_ITEMS {
        return Err(Flaw::broken(format!("{tensors} tensors and {pairs} settings")));
    }
    let (mut alignment, mut split) = (32_u64, (None, None));
    for _ in 0..pairs {
        let key = text(&mut cursor)?;
        let kind = cursor.u32()?;
        let value = value(&mut cursor, kind)?;
        match (key.as_str(), value) {
            ("general.alignment", Some(value)) => alignment = value,
            ("split.count", Some(value)) => split.0 = Some(value),
            ("split.no", Some(value)) => split.1 = Some(value),
            _ => {}
        }
    }
    if !alignment.is_power_of_two() || alignment > 1 << 20 {
        return Err(Flaw::broken(format!("an alignment of {alignment} bytes")));
    }
    let mut data = 0_u64;
    for _ in 0..tensors {
        let name = text(&mut cursor)?;
        let end = tensor_end(&mut cursor, &name, alignment)?;
        data = data.max(end);
    }
    if let (Some(count), Some(number)) = split {
        out.facts.producer = Some(format!("part {} of {count}", number.saturating_add(1)));
    }
    let start = cursor.at().checked_next_multiple_of(alignment);
    let expected = start.and_then(|start| start.checked_add(data));
    let expected = expected.ok_or_else(|| Flaw::broken("the tensors are too long"))?;
    // Without tensors there is nothing to align.
    let size = window.size();
    let is_bare = tensors == 0 && size == cursor.at();
    exact(size, if is_bare { size } else { expected }, tensors, out)
}

fn text(cursor: &mut Cursor<'_>) -> Check<String> {
    let length = cursor.u64()?;
    if length > 1 << 16 {
        cursor.skip(length)?;
        return Ok(String::new());
    }
    Ok(String::from_utf8_lossy(cursor.bytes(length)?).into_owned())
}

fn width(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// Reads a setting; the value of whole numbers only.
fn value(cursor: &mut Cursor<'_>, kind: u32) -> Check<Option<u64>> {
    match (kind, width(kind)) {
        (_, Some(bytes)) => {
            let bytes = cursor.bytes(bytes)?;
            Ok(crate::window::le(bytes, 0, bytes.len()))
        }
        (8, _) => text(cursor).map(|_| None),
        (9, _) => {
            let (kind, count) = (cursor.u32()?, cursor.u64()?);
            match width(kind) {
                Some(width) => {
                    let bytes = count.checked_mul(width);
                    cursor.skip(bytes.ok_or_else(|| Flaw::broken("a GGUF array overflows"))?)?;
                }
                None if kind == 8 => {
                    // A vocabulary: its strings must be passed one by one.
                    for _ in 0..count {
                        let length = cursor.u64()?;
                        cursor.skip(length)?;
                    }
                }
                None => return Err(Flaw::broken(format!("a GGUF array of type {kind}"))),
            }
            Ok(None)
        }
        _ => Err(Flaw::broken(format!("a GGUF value of type {kind}"))),
    }
}

/// Reads an entry of the tensor table and returns where its padded data ends, from the start of the data.
fn tensor_end(cursor: &mut Cursor<'_>, name: &str, alignment: u64) -> Check<u64> {
    let broken = || Flaw::broken(format!("tensor {name:?} has an impossible size"));
    let dimensions = cursor.u32()?;
    if dimensions > 8 {
        return Err(broken());
    }
    let mut elements = 1_u64;
    for _ in 0..dimensions {
        elements = elements.checked_mul(cursor.u64()?).ok_or_else(broken)?;
    }
    let kind = cursor.u32()?;
    let offset = cursor.u64()?;
    let Some((block, bytes)) = block_of(kind) else {
        return Err(Flaw::unsure(Evidence::Unsupported { what: format!("GGUF tensor type {kind}") }));
    };
    if !elements.is_multiple_of(block) {
        return Err(broken());
    }
    let size =
        (elements / block).checked_mul(bytes).and_then(|size| size.checked_next_multiple_of(alignment));
    size.and_then(|size| size.checked_add(offset)).ok_or_else(broken)
}

/// Elements and bytes of one block of a tensor type.
fn block_of(kind: u32) -> Option<(u64, u64)> {
    Some(match kind {
        0 | 26 => (1, 4),
        1 | 25 | 30 => (1, 2),
        24 => (1, 1),
        27 | 28 => (1, 8),
        2 | 20 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        9 => (32, 40),
        10 => (256, 84),
        11 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        15 => (256, 292),
        16 => (256, 66),
        17 => (256, 74),
        18 => (256, 98),
        19 => (256, 50),
        21 => (256, 110),
        22 => (256, 82),
        23 => (256, 136),
        29 => (256, 56),
        34 => (256, 54),
        35 => (256, 66),
        39 => (32, 17),
        _ => return None,
    })
}

//! ONNX: a protocol buffer without a magic number, followed to exactly the end of the file.

use super::numpy::exact;
use crate::report::Findings;
use crate::window::{Check, Cursor, Flaw, Window};

/// Fields of messages on the way to what is wanted: model, graph, tensor, entry.
const GRAPH: u64 = 7;
const OPSET: u64 = 8;
const INITIALIZER: u64 = 5;
const EXTERNAL_DATA: u64 = 13;

struct Field {
    number: u64,
    /// Of a message or string: its length, not passed yet.
    length: Option<u64>,
}

fn varint(cursor: &mut Cursor<'_>) -> Check<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = cursor.u8()?;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Flaw::broken("a number is too long"))
}

fn field(cursor: &mut Cursor<'_>) -> Check<Field> {
    let tag = varint(cursor)?;
    let length = match tag & 7 {
        0 => varint(cursor).map(|_| None)?,
        1 => cursor.skip(8).map(|()| None)?,
        5 => cursor.skip(4).map(|()| None)?,
        2 => Some(varint(cursor)?),
        kind => return Err(Flaw::broken(format!("protocol buffer field of kind {kind}"))),
    };
    let number = tag >> 3;
    if number == 0 {
        return Err(Flaw::broken("protocol buffer field number 0"));
    }
    Ok(Field { number, length })
}

pub(super) fn probe(window: Window<'_>, out: &mut Findings) -> Check<()> {
    let mut cursor = window.cursor(0);
    let (mut graph, mut opsets) = (None, 0);
    while cursor.left() > 0 {
        let Field { number, length } = field(&mut cursor)?;
        let Some(length) = length else { continue };
        match number {
            GRAPH => graph = Some((cursor.at(), length)),
            OPSET => opsets += 1,
            2 if length < 256 => {
                let producer = String::from_utf8_lossy(cursor.bytes(length)?).into_owned();
                out.facts.producer = Some(producer);
                continue;
            }
            _ => {}
        }
        cursor.skip(length)?;
    }
    let Some((start, length)) = graph.filter(|_| opsets > 0) else {
        return Err(Flaw::broken("there is no graph or no operator set"));
    };
    external_data(&mut window.sub(start, length)?.cursor(0), out)?;
    exact(window.size(), cursor.at(), 2, out)
}

/// Finds the files in which tensors of a graph lie.
fn external_data(graph: &mut Cursor<'_>, out: &mut Findings) -> Check<()> {
    while graph.left() > 0 {
        let Field { number, length } = field(graph)?;
        let Some(length) = length else { continue };
        if number != INITIALIZER {
            graph.skip(length)?;
            continue;
        }
        let end = graph.at().checked_add(length).ok_or_else(|| Flaw::broken("a tensor overflows"))?;
        let (mut file, mut offset, mut size) = (None, 0, 0);
        while graph.at() < end {
            let Field { number, length } = field(graph)?;
            let Some(length) = length else { continue };
            if number != EXTERNAL_DATA || length > 4096 {
                graph.skip(length)?;
                continue;
            }
            if let Some((key, value)) = string_pair(graph.bytes(length)?) {
                match key.as_str() {
                    "location" => file = Some(value),
                    "offset" => offset = value.parse().unwrap_or(0),
                    "length" => size = value.parse().unwrap_or(0),
                    _ => {}
                }
            }
        }
        if graph.at() != end {
            return Err(Flaw::broken("a tensor is longer than its message"));
        }
        if let Some(file) = file {
            let at_least =
                u64::checked_add(offset, size).ok_or_else(|| Flaw::broken("external data overflows"))?;
            out.need(&file, at_least.max(1));
        }
    }
    Ok(())
}

/// A message of two short strings.
fn string_pair(bytes: &[u8]) -> Option<(String, String)> {
    let (mut key, mut value, mut rest) = (None, None, bytes);
    while let [tag, length, tail @ ..] = rest {
        // Names and numbers are shorter than 128 bytes nearly always; a longer one has a second byte of length.
        let (length, tail) = match (length & 0x80 != 0, tail) {
            (true, [high, tail @ ..]) => (usize::from(length & 0x7f) | usize::from(*high) << 7, tail),
            (false, tail) => (usize::from(*length), tail),
            (true, []) => return None,
        };
        let text = String::from_utf8_lossy(tail.get(..length)?).into_owned();
        match tag {
            0x0a => key = Some(text),
            0x12 => value = Some(text),
            _ => return None,
        }
        rest = tail.get(length..)?;
    }
    Some((key?, value?))
}

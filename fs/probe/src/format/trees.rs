//! Models of decision trees: XGBoost (JSON, UBJSON) and LightGBM (text).

use serde::de::IgnoredAny;

use crate::evidence::Evidence;
use crate::report::Findings;
use crate::window::{Check, Cursor, Flaw, Window};

/// Any JSON: it must parse to its end, and XGBoost's names must be in it.
pub(super) fn probe_xgboost_json(window: Window<'_>, out: &mut Findings) -> Check<()> {
    let text = window.read(0, window.size())?;
    let fields: std::collections::BTreeMap<String, IgnoredAny> =
        serde_json::from_slice(&text).map_err(|error| Flaw::broken(format!("JSON: {error}")))?;
    for name in ["learner", "version"] {
        if !fields.contains_key(name) {
            return Err(Flaw::torn(Evidence::EntryMissing { name: name.into() }));
        }
    }
    out.expected = Some(window.size());
    out.note(Evidence::LengthMatches { size: window.size(), parts: fields.len() as u64 });
    Ok(())
}

/// LightGBM writes trees, parameters and, last, the categories of pandas.
pub(super) fn probe_lightgbm(window: Window<'_>, out: &mut Findings) -> Check<()> {
    let start = window.size().saturating_sub(4 << 20);
    let tail = window.read(start, window.size() - start)?;
    let tail = String::from_utf8_lossy(&tail);
    for name in ["end of trees", "end of parameters"] {
        if !tail.contains(&format!("\n{name}\n")) {
            return Err(Flaw::torn(Evidence::EntryMissing { name: name.into() }));
        }
    }
    // Written last, by all versions since 2017.
    let rest = tail.rsplit("end of parameters\n").next().unwrap_or_default().trim_start();
    if !(rest.starts_with("pandas_categorical:") && rest.ends_with('\n')) {
        return Err(Flaw::torn(Evidence::EntryMissing { name: "pandas_categorical".into() }));
    }
    out.note(Evidence::Marker { name: "end of parameters".into() });
    Ok(())
}

enum Scope {
    /// Children left of a counted array or object; of the latter, names come before values.
    Counted { left: u64, has_names: bool, kind: Option<u8> },
    /// Up to a closing bracket.
    Open { has_names: bool },
}

/// XGBoost's binary JSON (UBJSON, draft 12) to exactly the end of the file.
pub(super) fn probe_ubjson(window: Window<'_>, out: &mut Findings) -> Check<()> {
    let mut cursor = window.cursor(0);
    let mut scopes: Vec<Scope> = Vec::new();
    let mut values = 0_u64;
    let tag = cursor.u8()?;
    value(&mut cursor, tag, &mut scopes)?;
    while let Some(scope) = scopes.last_mut() {
        values += 1;
        if values > window.limits().objects as u64 {
            return Err(Flaw::unsure(Evidence::LimitReached { limit: values }));
        }
        let tag = match scope {
            Scope::Counted { left: 0, .. } => {
                scopes.pop();
                continue;
            }
            Scope::Counted { left, has_names, kind } => {
                *left -= 1;
                if *has_names {
                    let tag = cursor.u8()?;
                    let length = integer(&mut cursor, tag)?;
                    cursor.skip(length)?;
                }
                match kind {
                    Some(kind) => *kind,
                    None => cursor.u8()?,
                }
            }
            Scope::Open { has_names } => {
                let tag = cursor.u8()?;
                match (*has_names, tag) {
                    (true, b'}') | (false, b']') => {
                        scopes.pop();
                        continue;
                    }
                    (true, tag) => {
                        let length = integer(&mut cursor, tag)?;
                        cursor.skip(length)?;
                        cursor.u8()?
                    }
                    (false, tag) => tag,
                }
            }
        };
        value(&mut cursor, tag, &mut scopes)?;
        if scopes.len() > 256 {
            return Err(Flaw::broken("UBJSON nested too deeply"));
        }
    }
    super::numpy::exact(window.size(), cursor.at(), values, out)
}

fn integer(cursor: &mut Cursor<'_>, tag: u8) -> Check<u64> {
    let value = match tag {
        b'i' => i64::from(i8::from_be_bytes(cursor.array()?)),
        b'U' => i64::from(cursor.u8()?),
        b'I' => i64::from(i16::from_be_bytes(cursor.array()?)),
        b'l' => i64::from(i32::from_be_bytes(cursor.array()?)),
        b'L' => i64::from_be_bytes(cursor.array()?),
        tag => return Err(Flaw::broken(format!("UBJSON length of type {tag:#04x}"))),
    };
    u64::try_from(value).map_err(|_| Flaw::broken("a negative UBJSON length"))
}

fn width(tag: u8) -> Option<u64> {
    match tag {
        b'Z' | b'T' | b'F' | b'N' => Some(0),
        b'i' | b'U' | b'C' => Some(1),
        b'I' => Some(2),
        b'l' | b'd' => Some(4),
        b'L' | b'D' => Some(8),
        _ => None,
    }
}

/// Passes a scalar, or opens a scope.
fn value(cursor: &mut Cursor<'_>, tag: u8, scopes: &mut Vec<Scope>) -> Check<()> {
    if let Some(width) = width(tag) {
        return cursor.skip(width);
    }
    match tag {
        b'S' | b'H' => {
            let tag = cursor.u8()?;
            let length = integer(cursor, tag)?;
            cursor.skip(length)
        }
        b'[' | b'{' => container(cursor, tag == b'{', scopes),
        tag => Err(Flaw::broken(format!("UBJSON type {tag:#04x} at {}", cursor.at()))),
    }
}

fn container(cursor: &mut Cursor<'_>, has_names: bool, scopes: &mut Vec<Scope>) -> Check<()> {
    let start = cursor.at();
    let mut head: [u8; 3] = [0; 3];
    let peek = cursor.left().min(3);
    let bytes = cursor.bytes(peek)?;
    for (to, from) in head.iter_mut().zip(bytes) {
        *to = *from;
    }
    cursor.rewind(start);
    let kind = match head {
        [b'$', kind, b'#'] => {
            cursor.skip(3)?;
            Some(kind)
        }
        [b'#', ..] => {
            cursor.skip(1)?;
            None
        }
        _ => {
            scopes.push(Scope::Open { has_names });
            return Ok(());
        }
    };
    let tag = cursor.u8()?;
    let left = integer(cursor, tag)?;
    match kind.and_then(width) {
        Some(width) if !has_names => {
            let bytes = left.checked_mul(width);
            cursor.skip(bytes.ok_or_else(|| Flaw::broken("a UBJSON array overflows"))?)
        }
        _ => {
            scopes.push(Scope::Counted { left, has_names, kind });
            Ok(())
        }
    }
}

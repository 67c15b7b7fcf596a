//! The index of a TensorFlow checkpoint: an SSTable that names each tensor's place in the data shards.

use std::collections::BTreeMap;

use crate::evidence::Evidence;
use crate::report::Findings;
use crate::window::{Check, Flaw, Window};

pub(super) const MAGIC: [u8; 8] = 0xdb47_7524_8b80_fb57_u64.to_le_bytes();
const FOOTER: u64 = 48;
/// Type and checksum behind each block.
const TRAILER: u64 = 5;

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(head)
}

pub(super) fn probe(window: Window<'_>, name: &str, out: &mut Findings) -> Check<()> {
    let size = window.size();
    if size < FOOTER {
        return Err(Flaw::torn(Evidence::EndsEarly { size, expected: FOOTER }));
    }
    let footer = window.read(size - FOOTER, FOOTER)?;
    if !footer.ends_with(&MAGIC) {
        return Err(Flaw::broken("the index has no footer at its end"));
    }
    let mut rest = footer.as_slice();
    let handles: Option<Vec<u64>> = (0..4).map(|_| varint(&mut rest)).collect();
    let [_, _, at, length] = handles.as_deref().unwrap_or_default() else {
        return Err(Flaw::broken("the footer is damaged"));
    };
    let mut shards = 1;
    let mut needed: BTreeMap<u64, u64> = BTreeMap::new();
    let mut tensors = 0;
    for (_, mut handle) in block(&window, *at, *length)? {
        let (Some(at), Some(length)) = (varint(&mut handle.as_slice()), skip_one(&mut handle)) else {
            return Err(Flaw::broken("the index names no block"));
        };
        for (key, value) in block(&window, at, length)? {
            let fields = fields(&value).ok_or_else(|| Flaw::broken("an entry of the index is damaged"))?;
            if key.is_empty() {
                shards = fields.get(&1).copied().unwrap_or(1);
                continue;
            }
            let field = |number| fields.get(&number).copied().unwrap_or(0);
            let end = field(4).checked_add(field(5)).ok_or_else(|| Flaw::broken("a tensor overflows"))?;
            let known = needed.entry(field(3)).or_default();
            *known = end.max(*known);
            tensors += 1;
        }
    }
    if shards > 100_000 {
        return Err(Flaw::broken(format!("{shards} shards")));
    }
    let prefix = name.strip_suffix(".index").unwrap_or(name);
    for shard in 0..shards {
        let path = format!("{prefix}.data-{shard:05}-of-{shards:05}");
        out.need(&path, needed.get(&shard).copied().unwrap_or(0));
    }
    out.expected = Some(size);
    out.note(Evidence::LengthMatches { size, parts: tensors });
    Ok(())
}

/// The second number of a handle.
fn skip_one(handle: &mut Vec<u8>) -> Option<u64> {
    let mut rest = handle.as_slice();
    varint(&mut rest)?;
    varint(&mut rest)
}

/// Keys and values of one block.
fn block(window: &Window<'_>, at: u64, length: u64) -> Check<Vec<(Vec<u8>, Vec<u8>)>> {
    let whole = window.read(at, length.saturating_add(TRAILER))?;
    let broken = || Flaw::broken("a block of the index is damaged");
    let length = usize::try_from(length).map_err(|_| broken())?;
    if whole.get(length) != Some(&0) {
        return Err(Flaw::unsure(Evidence::Unsupported { what: "a compressed index".into() }));
    }
    let body = whole.get(..length).ok_or_else(broken)?;
    let restarts =
        body.len().checked_sub(4).and_then(|at| crate::window::le(body, at, 4)).ok_or_else(broken)?;
    let restarts = usize::try_from(restarts).ok().and_then(|count| count.checked_mul(4)?.checked_add(4));
    let end = restarts.and_then(|bytes| body.len().checked_sub(bytes)).ok_or_else(broken)?;
    let mut rest = body.get(..end).ok_or_else(broken)?;
    let (mut found, mut key) = (Vec::new(), Vec::new());
    while !rest.is_empty() {
        let entry = (|| {
            let (shared, own, value) = (varint(&mut rest)?, varint(&mut rest)?, varint(&mut rest)?);
            let shared = usize::try_from(shared).ok().filter(|shared| *shared <= key.len())?;
            key.truncate(shared);
            // Long shared prefixes would make a small block large.
            if key.len() > 4096 {
                return None;
            }
            key.extend_from_slice(take(&mut rest, own)?);
            Some((key.clone(), take(&mut rest, value)?.to_vec()))
        })();
        found.push(entry.ok_or_else(broken)?);
        if found.len() > window.limits().objects / 16 {
            return Err(Flaw::unsure(Evidence::LimitReached { limit: found.len() as u64 }));
        }
    }
    Ok(found)
}

/// Numbers of a flat message; messages in it are passed over.
fn fields(mut bytes: &[u8]) -> Option<BTreeMap<u64, u64>> {
    let mut found = BTreeMap::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        match tag & 7 {
            0 => {
                found.insert(tag >> 3, varint(&mut bytes)?);
            }
            1 => _ = take(&mut bytes, 8)?,
            2 => {
                let length = varint(&mut bytes)?;
                take(&mut bytes, length)?;
            }
            5 => _ = take(&mut bytes, 4)?,
            _ => return None,
        }
    }
    Some(found)
}

//! The directory of a zip archive, with ZIP64. Exact: it ends at the end of the file, every entry lies below it and
//! none overlaps another. A zip library repairs and searches; this must not.

use std::collections::BTreeMap;

use crate::evidence::Evidence;
use crate::window::{Check, Flaw, Window, le};

const END: &[u8] = b"PK\x05\x06";
const END64: &[u8] = b"PK\x06\x06";
const LOCATOR64: &[u8] = b"PK\x06\x07";
const LOCAL: &[u8] = b"PK\x03\x04";
const END_SIZE: u64 = 22;
const MAX_COMMENT: u64 = 0xffff;
/// So many local headers are read at most; of the others only order and distance are checked.
const LOCAL_HEADERS: usize = 64;

#[derive(Debug, Clone)]
pub(crate) struct ZipEntry {
    pub(crate) name: String,
    pub(crate) method: u16,
    pub(crate) crc: u32,
    pub(crate) stored: u64,
    pub(crate) size: u64,
    pub(crate) header: u64,
}

pub(crate) struct Zip<'a> {
    window: Window<'a>,
    /// In the order of their place in the file.
    pub(crate) entries: Vec<ZipEntry>,
    names: BTreeMap<String, usize>,
}

struct End {
    entries: u64,
    directory: u64,
    directory_size: u64,
    /// Where the directory must end.
    trailer: u64,
}

impl<'a> Zip<'a> {
    pub(crate) fn read(window: Window<'a>) -> Check<Self> {
        let end = find_end(&window)?;
        let directory_end = end.directory.checked_add(end.directory_size);
        if directory_end != Some(end.trailer) {
            return Err(Flaw::broken(format!(
                "the zip directory of {} bytes at {} does not end at {}",
                end.directory_size, end.directory, end.trailer
            )));
        }
        let bytes = window.read(end.directory, end.directory_size)?;
        let mut entries = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (entry, next) =
                central_entry(rest).ok_or_else(|| Flaw::broken("a zip directory entry is cut"))?;
            entries.push(entry);
            rest = next;
        }
        if entries.len() as u64 != end.entries {
            return Err(Flaw::broken(format!("{} of {} zip entries", entries.len(), end.entries)));
        }
        entries.sort_by_key(|entry| entry.header);
        let names = entries.iter().enumerate().map(|(index, entry)| (entry.name.clone(), index)).collect();
        let zip = Self { window, entries, names };
        zip.check_places(end.directory)?;
        Ok(zip)
    }

    pub(crate) fn find(&self, name: &str) -> Option<&ZipEntry> {
        self.entries.get(*self.names.get(name)?)
    }

    /// The directory in the archive in which `leaf` lies at the top: torch puts all below one name.
    pub(crate) fn root_of(&self, leaf: &str) -> Option<String> {
        self.entries.iter().find_map(|entry| {
            let root = entry.name.strip_suffix(leaf)?;
            let is_top = root.is_empty() || root.find('/') == Some(root.len() - 1);
            is_top.then(|| root.to_owned())
        })
    }

    /// Returns the bytes of an entry as they lie in the file.
    pub(crate) fn payload(&self, entry: &ZipEntry) -> Check<Window<'a>> {
        let (start, _) = self.local_header(entry)?;
        self.window.sub(start, entry.stored)
    }

    /// Returns where the data of an entry begins and ends.
    pub(crate) fn place(&self, entry: &ZipEntry) -> Check<(u64, u64)> {
        self.local_header(entry)
    }

    /// Returns the content of a small entry, inflated when it is compressed; `limit` bytes at most.
    pub(crate) fn content(&self, entry: &ZipEntry, limit: u64) -> Check<Vec<u8>> {
        let payload = self.payload(entry)?;
        let bytes = payload.read_some(0, limit)?;
        match entry.method {
            0 => Ok(bytes),
            8 => {
                let limit = usize::try_from(limit.min(entry.size)).unwrap_or(usize::MAX);
                crate::inflate::head(&bytes, limit)
                    .ok_or_else(|| Flaw::broken(format!("zip entry {:?} cannot be inflated", entry.name)))
            }
            method => Err(Flaw::unsure(Evidence::Unsupported { what: format!("zip method {method}") })),
        }
    }

    /// Returns where the data of an entry begins, and checks the header before it.
    fn local_header(&self, entry: &ZipEntry) -> Check<(u64, u64)> {
        let head = self.window.read(entry.header, 30 + entry.name.len() as u64)?;
        let same_name = head.get(30..) == Some(entry.name.as_bytes());
        let (Some(name), Some(extra)) = (le(&head, 26, 2), le(&head, 28, 2)) else {
            return Err(Flaw::broken("a local zip header is cut"));
        };
        if !head.starts_with(LOCAL) || !same_name {
            return Err(Flaw::broken(format!(
                "zip entry {:?} has no header at {}",
                entry.name, entry.header
            )));
        }
        let start = entry.header.saturating_add(30 + name + extra);
        Ok((start, start.saturating_add(entry.stored)))
    }

    fn check_places(&self, directory: u64) -> Check<()> {
        let step = self.entries.len().div_ceil(LOCAL_HEADERS).max(1);
        for (index, entry) in self.entries.iter().enumerate() {
            let limit = self.entries.get(index + 1).map_or(directory, |next| next.header);
            let is_sampled = index % step == 0 || index + 1 == self.entries.len();
            let end = if is_sampled {
                Some(self.local_header(entry)?.1)
            } else {
                entry
                    .header
                    .checked_add(30 + entry.name.len() as u64)
                    .and_then(|at| at.checked_add(entry.stored))
            };
            if end.is_none_or(|end| end > limit) {
                return Err(Flaw::broken(format!("zip entry {:?} reaches beyond {limit}", entry.name)));
            }
            if entry.method == 0 && entry.stored != entry.size {
                return Err(Flaw::broken(format!("zip entry {:?} has two sizes", entry.name)));
            }
        }
        Ok(())
    }
}

fn find_end(window: &Window<'_>) -> Check<End> {
    let size = window.size();
    let missing = || Flaw::torn(Evidence::ZipEndMissing);
    // Nearly every archive has no comment; only the others need the long look back.
    for back in [END_SIZE, END_SIZE + MAX_COMMENT] {
        let start = size.saturating_sub(back);
        let tail = window.read(start, size - start)?;
        let found = (0..tail.len()).rev().find(|&at| {
            let comment = le(&tail, at + 20, 2);
            tail.get(at..).is_some_and(|rest| {
                rest.starts_with(END) && comment.is_some_and(|length| rest.len() as u64 == END_SIZE + length)
            })
        });
        if let Some(at) = found {
            let record = tail.get(at..).unwrap_or_default();
            return read_end(window, start + at as u64, record).ok_or_else(missing)?;
        }
    }
    Err(missing())
}

fn read_end(window: &Window<'_>, at: u64, record: &[u8]) -> Option<Check<End>> {
    let short = End {
        entries: le(record, 10, 2)?,
        directory_size: le(record, 12, 4)?,
        directory: le(record, 16, 4)?,
        trailer: at,
    };
    let locator = at.checked_sub(20).map(|place| (place, window.read(place, 20)));
    let (place, locator) = match locator {
        Some((place, Ok(bytes))) if bytes.starts_with(LOCATOR64) => (place, bytes),
        Some((_, Err(flaw))) => return Some(Err(flaw)),
        _ => return Some(Ok(short)),
    };
    let record_at = le(&locator, 8, 8)?;
    let record = match window.read(record_at, 56) {
        Ok(record) => record,
        Err(flaw) => return Some(Err(flaw)),
    };
    let length = le(&record, 4, 8)?;
    if !record.starts_with(END64) || record_at.checked_add(length)?.checked_add(12)? != place {
        return Some(Err(Flaw::broken("the ZIP64 record is not where its locator says")));
    }
    Some(Ok(End {
        entries: le(&record, 32, 8)?,
        directory_size: le(&record, 40, 8)?,
        directory: le(&record, 48, 8)?,
        trailer: record_at,
    }))
}

/// Parses one entry of the directory and returns what follows it.
fn central_entry(bytes: &[u8]) -> Option<(ZipEntry, &[u8])> {
    if !bytes.starts_with(b"PK\x01\x02") {
        return None;
    }
    let field = |offset, width| le(bytes, offset, width);
    let (name_length, extra_length, comment) = (field(28, 2)?, field(30, 2)?, field(32, 2)?);
    let name_end = usize::try_from(46 + name_length).ok()?;
    let extra_end = name_end.checked_add(usize::try_from(extra_length).ok()?)?;
    let end = extra_end.checked_add(usize::try_from(comment).ok()?)?;
    let name = String::from_utf8_lossy(bytes.get(46..name_end)?).into_owned();
    let (mut stored, mut size, mut header) = (field(20, 4)?, field(24, 4)?, field(42, 4)?);
    let mut extra = bytes.get(name_end..extra_end)?;
    while let (Some(id), Some(length)) = (le(extra, 0, 2), le(extra, 2, 2)) {
        let length = usize::try_from(length).ok()?;
        let body = extra.get(4..4 + length)?;
        if id == 1 {
            let mut at = 0;
            // Only the fields that did not fit are there, in this order.
            for value in [&mut size, &mut stored, &mut header] {
                if *value == 0xffff_ffff {
                    *value = le(body, at, 8)?;
                    at += 8;
                }
            }
        }
        extra = extra.get(4 + length..)?;
    }
    let method = u16::try_from(field(10, 2)?).ok()?;
    let crc = u32::try_from(field(16, 4)?).ok()?;
    Some((ZipEntry { name, method, crc, stored, size, header }, bytes.get(end..)?))
}

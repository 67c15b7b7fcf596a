//! Bounded reading: every read of a probe goes through a [`Window`] and is charged to one [`Budget`].
//!
//! Guarantee: however a file lies about its lengths, no more than the budget is read and no buffer is larger than
//! what the file has and the budget allows.

use std::cell::Cell;

use crate::evidence::Evidence;
use crate::source::{FirstHole, ReadAt};
use crate::verdict::State;

/// How much a probe may read and keep. Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes read of one file.
    pub bytes: u64,
    /// Reads of one file.
    pub reads: u32,
    /// Objects that are kept of one pickle, about 64 bytes each.
    pub objects: usize,
    /// Names looked at in one directory.
    pub names: usize,
    /// Names looked at in one survey.
    pub names_in_total: usize,
    /// Depth of directories in one survey.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 8 << 20,
            reads: 4096,
            objects: 400_000,
            names: 20_000,
            names_in_total: 200_000,
            depth: 12,
        }
    }
}

/// Why a structure is not whole.
#[derive(Debug)]
pub(crate) struct Flaw {
    /// What follows for the file when nobody writes: torn, or unknown.
    pub(crate) state: State,
    pub(crate) evidence: Evidence,
}

impl Flaw {
    pub(crate) fn torn(evidence: Evidence) -> Self {
        Self { state: State::Torn, evidence }
    }

    pub(crate) fn unsure(evidence: Evidence) -> Self {
        Self { state: State::Unknown, evidence }
    }

    pub(crate) fn broken(what: impl Into<String>) -> Self {
        Self::torn(Evidence::Malformed { what: what.into() })
    }
}

pub(crate) type Check<T> = Result<T, Flaw>;

/// What is left of the limits of one file.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Limits,
    bytes: Cell<u64>,
    reads: Cell<u32>,
}

impl Budget {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, bytes: Cell::new(limits.bytes), reads: Cell::new(limits.reads) }
    }

    fn charge(&self, bytes: u64) -> Check<()> {
        let limit = self.limits.bytes;
        let flaw = || Flaw::unsure(Evidence::LimitReached { limit });
        let left = self.bytes.get().checked_sub(bytes).ok_or_else(flaw)?;
        let reads = self.reads.get().checked_sub(1).ok_or_else(flaw)?;
        self.bytes.set(left);
        self.reads.set(reads);
        Ok(())
    }
}

/// A range of a file that is read as if it were a file of its own.
#[derive(Clone, Copy)]
pub(crate) struct Window<'a> {
    file: &'a dyn ReadAt,
    budget: &'a Budget,
    base: u64,
    size: u64,
}

impl<'a> Window<'a> {
    pub(crate) fn new(file: &'a dyn ReadAt, budget: &'a Budget, size: u64) -> Self {
        Self { file, budget, base: 0, size }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn limits(&self) -> Limits {
        self.budget.limits
    }

    /// Bytes that may still be read.
    pub(crate) fn left(&self) -> u64 {
        self.budget.bytes.get()
    }

    /// Returns the window of `size` bytes at `offset`, or a flaw when the file ends before.
    pub(crate) fn sub(&self, offset: u64, size: u64) -> Check<Self> {
        self.need(offset, size)?;
        let base = self.base.checked_add(offset).ok_or_else(|| Flaw::broken("an offset overflows"))?;
        Ok(Self { base, size, ..*self })
    }

    /// Checks that the bytes exist.
    pub(crate) fn need(&self, offset: u64, size: u64) -> Check<()> {
        match offset.checked_add(size) {
            Some(end) if end <= self.size => Ok(()),
            Some(end) => Err(Flaw::torn(Evidence::EndsEarly { size: self.size, expected: end })),
            None => Err(Flaw::broken(format!("a length of {size} bytes at offset {offset} overflows"))),
        }
    }

    /// Reads exactly `size` bytes.
    pub(crate) fn read(&self, offset: u64, size: u64) -> Check<Vec<u8>> {
        self.need(offset, size)?;
        self.budget.charge(size)?;
        let length =
            usize::try_from(size).map_err(|_| Flaw::unsure(Evidence::LimitReached { limit: size }))?;
        let mut buffer = vec![0; length];
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = self.base.saturating_add(offset).saturating_add(done as u64);
            match self.file.read_at(at, rest) {
                Ok(0) => {
                    let expected = offset.saturating_add(size);
                    return Err(Flaw::torn(Evidence::EndsEarly { size: offset + done as u64, expected }));
                }
                Ok(count) => done += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(Flaw::unsure(Evidence::Unreadable { error: error.kind().to_string() }));
                }
            }
        }
        Ok(buffer)
    }

    /// Reads up to `size` bytes, fewer at the end of the window.
    pub(crate) fn read_some(&self, offset: u64, size: u64) -> Check<Vec<u8>> {
        self.read(offset.min(self.size), size.min(self.size.saturating_sub(offset)))
    }

    pub(crate) fn first_hole(&self, from: u64, to: u64) -> FirstHole {
        match self.file.first_hole(self.base.saturating_add(from), self.base.saturating_add(to)) {
            FirstHole::At(offset) => FirstHole::At(offset.saturating_sub(self.base)),
            other => other,
        }
    }

    pub(crate) fn cursor(self, at: u64) -> Cursor<'a> {
        Cursor { window: self, at, buffer: Vec::new(), start: 0, chunk: 4096 }
    }
}

/// Reads a window from front to back, in chunks that grow.
pub(crate) struct Cursor<'a> {
    window: Window<'a>,
    at: u64,
    buffer: Vec<u8>,
    /// Offset of the buffer's first byte.
    start: u64,
    chunk: u64,
}

impl Cursor<'_> {
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    pub(crate) fn left(&self) -> u64 {
        self.window.size.saturating_sub(self.at)
    }

    /// Moves on without reading; a flaw when the file ends before.
    pub(crate) fn skip(&mut self, count: u64) -> Check<()> {
        self.window.need(self.at, count)?;
        self.at += count;
        Ok(())
    }

    /// Returns the next bytes, which must be few enough for the budget.
    pub(crate) fn bytes(&mut self, count: u64) -> Check<&[u8]> {
        self.window.need(self.at, count)?;
        let buffered = self.at >= self.start && self.at + count <= self.start + self.buffer.len() as u64;
        if !buffered {
            let wanted = count.max(self.chunk.min(self.left())).min(self.window.left().max(count));
            self.buffer = self.window.read(self.at, wanted)?;
            self.start = self.at;
            self.chunk = (self.chunk * 2).min(256 << 10);
        }
        let from = usize::try_from(self.at - self.start).unwrap_or(usize::MAX);
        self.at += count;
        let length = usize::try_from(count).unwrap_or(usize::MAX);
        Ok(from.checked_add(length).and_then(|to| self.buffer.get(from..to)).unwrap_or_default())
    }

    /// Goes back to an offset that was passed.
    pub(crate) fn rewind(&mut self, at: u64) {
        self.at = at.min(self.at);
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Check<[u8; N]> {
        let bytes = self.bytes(N as u64)?;
        <[u8; N]>::try_from(bytes).map_err(|_| Flaw::broken("a fixed field is cut"))
    }

    pub(crate) fn u8(&mut self) -> Check<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Check<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Check<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Check<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }
}

/// Little-endian fields of a buffer that may be too short.
pub(crate) fn le(bytes: &[u8], offset: usize, width: usize) -> Option<u64> {
    let field = bytes.get(offset..offset.checked_add(width)?)?;
    Some(field.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte)))
}

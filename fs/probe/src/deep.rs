//! Reading everything: checksums of archives, streams to their end, structures without the limit of a header.

use std::io::{self, Read};

use crate::coverage::Coverage;
use crate::evidence::Evidence;
use crate::format::zip::{Zip, ZipEntry};
use crate::format::{Format, probe_file};
use crate::inflate;
use crate::report::FileReport;
use crate::source::ReadAt;
use crate::verdict::State;
use crate::window::{Budget, Flaw, Limits, Window};

const CHUNK: usize = 256 << 10;

/// Judges one file by reading all of it.
///
/// `progress` is told the bytes read so far and the size, after each 256 KiB at most; it stops the reading by
/// returning `false`, and the file is then [`State::Unknown`]. Checksums of zip entries are compared where the writer
/// stored them (torch may leave them out); compressed pickles are inflated; every byte is read once, so that a disk
/// that cannot return it is noticed. Memory stays bounded by `limits.objects` and by a chunk.
pub fn verify_deep(
    name: &str,
    file: &dyn ReadAt,
    coverage: Coverage,
    limits: Limits,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> FileReport {
    // Without the limit on bytes, what was too large for a header is judged as well.
    let unlimited = Limits { bytes: u64::MAX, reads: u32::MAX, ..limits };
    let mut report = probe_file(name, file, coverage, unlimited);
    let size = report.size;
    let outcome = match report.format {
        Format::TorchZip
        | Format::TorchScript
        | Format::TorchExport
        | Format::Npz
        | Format::Keras
        | Format::Zip => archive(file, size, unlimited, progress),
        Format::Joblib if is_zlib(file) => {
            let mut reader = Reader { file, at: 0, end: size, size, progress };
            let mut last = None;
            let mut note = |bytes: &[u8]| last = bytes.last().copied().or(last);
            let length = drain(&mut inflate::zlib(&mut reader), &mut note).map_err(fault);
            length.and_then(|_| match last {
                Some(b'.') => Ok(Vec::new()),
                _ => Err(Flaw::broken("the compressed pickle does not end")),
            })
        }
        _ => {
            let mut reader = Reader { file, at: 0, end: size, size, progress };
            drain(&mut reader, &mut |_| {}).map(|_| Vec::new()).map_err(fault)
        }
    };
    match outcome {
        Ok(evidence) => {
            let was_packed =
                report.format == Format::Joblib && report.state == State::Unknown && is_zlib(file);
            if was_packed && coverage.open_writers == 0 {
                report.state = State::Complete;
                report.evidence.push(Evidence::ChecksumsMatch { count: 1 });
            }
            report.evidence.extend(evidence);
        }
        Err(flaw) => {
            if report.state != State::InProgress {
                report.state = report.state.and(flaw.state);
            }
            report.evidence.push(flaw.evidence);
        }
    }
    report
}

fn is_zlib(file: &dyn ReadAt) -> bool {
    let mut first = [0];
    matches!(file.read_at(0, &mut first), Ok(1)) && first == [0x78]
}

fn fault(error: io::Error) -> Flaw {
    match error.kind() {
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            Flaw::broken(format!("the compressed data ends early or is wrong: {error}"))
        }
        kind => Flaw::unsure(Evidence::Unreadable { error: kind.to_string() }),
    }
}

/// Compares the checksum of every entry.
fn archive(
    file: &dyn ReadAt,
    size: u64,
    limits: Limits,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Vec<Evidence>, Flaw> {
    let budget = Budget::new(limits);
    let window = Window::new(file, &budget, size);
    let zip = Zip::read(window)?;
    let mut compared = 0;
    for entry in &zip.entries {
        let (start, end) = zip.place(entry)?;
        let mut reader = Reader { file, at: start, end, size, progress };
        let mut hasher = crc32fast::Hasher::new();
        let length = match entry.method {
            0 => drain(&mut reader, &mut |bytes| hasher.update(bytes)),
            8 => drain(&mut inflate::deflate(&mut reader), &mut |bytes| hasher.update(bytes)),
            method => {
                return Err(Flaw::unsure(Evidence::Unsupported { what: format!("zip method {method}") }));
            }
        };
        if length.map_err(fault)? != entry.size {
            return Err(Flaw::broken(format!("zip entry {:?} has another length", entry.name)));
        }
        compared += u64::from(compare(entry, hasher.finalize())?);
    }
    Ok(vec![Evidence::ChecksumsMatch { count: compared }])
}

/// Returns whether there was a checksum to compare: 0 stands for none where the content has another one.
fn compare(entry: &ZipEntry, found: u32) -> Result<bool, Flaw> {
    match entry.crc {
        0 => Ok(found == 0),
        crc if crc == found => Ok(true),
        _ => Err(Flaw::torn(Evidence::ChecksumDiffers { part: entry.name.clone() })),
    }
}

fn drain(source: &mut dyn Read, sink: &mut dyn FnMut(&[u8])) -> io::Result<u64> {
    let mut chunk = vec![0; CHUNK];
    let mut total = 0;
    loop {
        match source.read(&mut chunk) {
            Ok(0) => return Ok(total),
            Ok(count) => {
                sink(chunk.get(..count).unwrap_or_default());
                total += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A range of the file as a stream that reports how far it is.
struct Reader<'a> {
    file: &'a dyn ReadAt,
    at: u64,
    end: u64,
    size: u64,
    progress: &'a mut dyn FnMut(u64, u64) -> bool,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let length = left.min(buffer.len());
        let count = self.file.read_at(self.at, buffer.get_mut(..length).unwrap_or_default())?;
        self.at += count as u64;
        if !(self.progress)(self.at, self.size) {
            return Err(io::Error::other("stopped by the caller"));
        }
        Ok(count)
    }
}

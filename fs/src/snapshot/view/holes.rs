//! Where a file had holes.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;

use super::PastFile;
use crate::snapshot::archive::{Archive, ArchiveError};
use crate::snapshot::catalog::Source;
use crate::snapshot::record::Origin;

/// What is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sought {
    /// `SEEK_DATA`.
    Data,
    /// `SEEK_HOLE`.
    Hole,
}

impl PastFile {
    /// Returns where the next data or the next hole began, from `offset` on; the end of the file is a hole.
    ///
    /// # Errors
    /// `ENXIO` behind the end, or behind the last data; else as [`PastFile::read`].
    pub(crate) fn seek(&self, archive: &Archive, offset: u64, sought: Sought) -> Result<u64, ArchiveError> {
        if offset >= self.attributes.size {
            return Err(Errno::NXIO.into());
        }
        loop {
            let (appends, known) = self.pieces(archive)?;
            let mut found = None;
            for piece in known.content.pieces.iter().filter(|piece| piece.range.end > offset) {
                let range = piece.range.start.max(offset)..piece.range.end.min(self.attributes.size);
                found = self.seek_in(archive, piece.source, range, sought)?;
                if found.is_some() {
                    break;
                }
            }
            // As when reading: what was looked at may have been overwritten meanwhile.
            let (again, now) = self.pieces(archive)?;
            if again == appends || now.content.pieces == known.content.pieces {
                return match (found, sought) {
                    (Some(found), _) => Ok(found),
                    (None, Sought::Hole) => Ok(self.attributes.size),
                    (None, Sought::Data) => Err(Errno::NXIO.into()),
                };
            }
        }
    }

    fn seek_in(
        &self,
        archive: &Archive,
        source: Source,
        range: Range<u64>,
        sought: Sought,
    ) -> Result<Option<u64>, Errno> {
        let in_live = || seek_within(self.live.as_ref().ok_or(Errno::IO)?.as_fd(), range.clone(), sought);
        match source {
            Source::Live => in_live(),
            Source::Kept(row) => match archive.history().store().open_object(row.object, OFlags::RDONLY) {
                Ok(object) => seek_within(object.as_fd(), range, sought),
                Err(Errno::NOENT) if row.origin == Origin::TakenAway => in_live(),
                Err(_) => Err(Errno::IO),
            },
        }
    }
}

/// Beyond the end of the file is a hole.
fn seek_within(file: BorrowedFd<'_>, range: Range<u64>, sought: Sought) -> Result<Option<u64>, Errno> {
    if range.is_empty() {
        return Ok(None);
    }
    let from = match sought {
        Sought::Data => SeekFrom::Data(range.start),
        Sought::Hole => SeekFrom::Hole(range.start),
    };
    match rustix::fs::seek(file, from) {
        Ok(found) => Ok(Some(found).filter(|found| *found < range.end)),
        Err(Errno::NXIO) => Ok(match sought {
            Sought::Data => None,
            Sought::Hole => Some(range.start),
        }),
        Err(errno) => Err(errno),
    }
}

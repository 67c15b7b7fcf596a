//! The last lines that a worker logged, in a memory file that its keeper reads when it is dead.
//!
//! Everything is written to standard error as well, and first of all here: no line that the keeper shows can be one
//! that was not logged. Writing never waits for anybody. The file is a ring: word 0 counts the bytes that were ever
//! written, and is written last, so that a worker that dies in between leaves the lines before.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use parking_lot::Mutex;
use rustix::fs::MemfdFlags;
use rustix::io::Errno;

/// Bytes of the ring.
const RING_BYTES: usize = 4096;

/// Where the ring begins in the file.
const RING_START: u64 = 8;

/// As much as the keeper shows.
const MOST_LINES: usize = 5;
const MOST_BYTES: usize = 1024;

/// The keeper's end.
#[derive(Debug)]
pub(super) struct LastWords(OwnedFd);

impl LastWords {
    /// Makes an empty one.
    ///
    /// # Errors
    /// As memfd_create(2).
    pub(super) fn create() -> Result<Self, Errno> {
        rustix::fs::memfd_create("wsguard-log", MemfdFlags::CLOEXEC).map(Self)
    }

    /// Returns the last whole lines, oldest first, with control characters replaced.
    ///
    /// # Errors
    /// As pread(2).
    pub(super) fn lines(&self) -> Result<Vec<String>, Errno> {
        let mut file = vec![0; RING_START as usize + RING_BYTES];
        let length = rustix::io::pread(&self.0, &mut file, 0)?;
        Ok(lines(file.get(..length).unwrap_or_default()))
    }
}

impl AsFd for LastWords {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn lines(file: &[u8]) -> Vec<String> {
    let Some((word, ring)) = file.split_at_checked(RING_START as usize) else { return Vec::new() };
    let written = word.try_into().map_or(0, u64::from_ne_bytes);
    let kept = written.min(MOST_BYTES as u64);
    let bytes: Vec<u8> = (written - kept..written)
        .map(|position| ring.get(position_in_ring(position)).copied().unwrap_or(b'\n'))
        .collect();
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<&str> = text.lines().collect();
    // Its beginning is lost.
    if written > kept && lines.len() > 1 {
        lines.remove(0);
    }
    let skipped = lines.len().saturating_sub(MOST_LINES);
    lines.into_iter().skip(skipped).map(printable).collect()
}

fn printable(line: &str) -> String {
    line.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

fn position_in_ring(position: u64) -> usize {
    // Less than the ring's size, which is a usize.
    (position % RING_BYTES as u64) as usize
}

/// The worker's end, once its keeper has handed it over.
static OWN: OnceLock<Mutex<Ring>> = OnceLock::new();

struct Ring {
    file: OwnedFd,
    written: u64,
}

/// Keeps what is logged from now on in `file`, panics too.
pub(super) fn keep_in(file: OwnedFd) {
    if OWN.set(Mutex::new(Ring { file, written: 0 })).is_err() {
        // A worker gets one file in its life.
        return;
    }
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        append(format!("{panic}\n").as_bytes());
        usual(panic);
    }));
}

/// Adds what is logged, if there is a file to keep it.
pub(super) fn append(bytes: &[u8]) {
    let Some(ring) = OWN.get() else { return };
    // What is lost here is on standard error.
    ring.lock().append(bytes).ok();
}

impl Ring {
    fn append(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let (mut position, end) = (self.written, self.written + bytes.len() as u64);
        let mut rest = bytes;
        while !rest.is_empty() {
            let start = position_in_ring(position);
            let (part, after) = rest.split_at(rest.len().min(RING_BYTES - start));
            let length = rustix::io::pwrite(&self.file, part, RING_START + start as u64)?;
            position += length as u64;
            rest = if length == part.len() { after } else { rest.get(length..).unwrap_or_default() };
        }
        rustix::io::pwrite(&self.file, &end.to_ne_bytes(), 0)?;
        self.written = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair() -> (LastWords, Ring) {
        let words = LastWords::create().unwrap();
        let file = words.as_fd().try_clone_to_owned().unwrap();
        (words, Ring { file, written: 0 })
    }

    #[test]
    fn worker_that_said_nothing_leaves_nothing() {
        assert!(pair().0.lines().unwrap().is_empty());
    }

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        let (words, mut ring) = pair();
        ring.append(b"a\x1b[2Jb\n").unwrap();
        assert_eq!(words.lines().unwrap(), ["a\u{fffd}[2Jb"]);
    }

    proptest! {
        #[test]
        fn last_lines_are_those_that_were_written_last(
            written in prop::collection::vec("[a-zä]{0,300}", 1..60),
        ) {
            let (words, mut ring) = pair();
            for line in &written {
                ring.append(format!("{line}\n").as_bytes()).unwrap();
            }
            let lines = words.lines().unwrap();
            prop_assert!(!lines.is_empty() && lines.len() <= MOST_LINES);
            prop_assert!(lines.iter().map(|line| line.len() + 1).sum::<usize>() <= MOST_BYTES);
            prop_assert!(written.ends_with(&lines), "{lines:?}");
            let fit = written.iter().rev().take(MOST_LINES + 1).map(|line| line.len() + 1);
            let bytes: usize = fit.sum();
            if bytes <= MOST_BYTES {
                prop_assert_eq!(lines.len(), written.len().min(MOST_LINES));
            }
        }
    }
}

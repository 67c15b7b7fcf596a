//! The terminals of the containers that have a workspace.
//!
//! A container's root is hostile: it decides what lies at `/dev/pts` of its tree. So nothing is opened there but
//! pseudo terminals of a devpts that the host does not use, reached through no symbolic link, found by what the opened
//! inode is and not by its name, and neither the opening nor the write waits for anybody. Whether a filesystem that
//! could hang lies in the way is read from the mount table first, which asks no filesystem.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;

use super::{DeliveryError, Notice, Reached, Way};
use crate::mount_users;
use crate::mounting::mountinfo::{DeviceNumber, MountTable};
use crate::processes;

/// `statfs(2)` magic number of devpts.
const DEVPTS_MAGIC: i64 = 0x1cd1;

/// Device numbers of Unix98 pseudo terminals (`UNIX98_PTY_SLAVE_MAJOR` and the seven after it).
const PTY_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;

/// Who may write to a terminal: `mesg n` takes this bit away.
const WRITABLE_BY_OTHERS: u32 = 0o020;

/// Containers that one notice is written to at most, and terminals of each.
const MOST_CONTAINERS: usize = 64;
const MOST_TERMINALS: usize = 64;

/// Longest text, characters.
const LONGEST: usize = 400;

/// Filesystems that answer by themselves: the way to `/dev/pts` may lead through these only.
const LOCAL: [&str; 8] = ["overlay", "tmpfs", "devtmpfs", "devpts", "ext4", "xfs", "btrfs", "zfs"];

/// Why no terminal could be written to.
#[derive(Debug, thiserror::Error)]
pub(super) enum TerminalError {
    #[error("the mount table cannot be read")]
    MountTable(#[source] std::io::Error),
    #[error("none of {found} terminals takes a notice: {reason}")]
    Refused { found: usize, reason: String },
}

/// See the module.
pub(super) struct Terminals;

/// What came of one container.
#[derive(Debug, Default)]
struct Tally {
    found: usize,
    written: usize,
    /// Why the last one was not.
    refused: Option<String>,
}

impl Way for Terminals {
    fn deliver(&mut self, notice: &Notice) -> Result<Reached, DeliveryError> {
        if notice.places.is_empty() {
            return Ok(Reached::Nobody("it is about no workspace that is mounted"));
        }
        let devices: Vec<DeviceNumber> = notice.places.iter().map(|place| place.device).collect();
        let hosts = host_devpts().map_err(TerminalError::MountTable)?;
        let text = text(&notice.message);
        let (mut containers, mut sum) = (0, Tally::default());
        for pid in mount_users::containers(&devices).into_iter().take(MOST_CONTAINERS) {
            let tally = write_to_container(pid, text.as_bytes(), &hosts);
            sum.found += tally.found;
            sum.written += tally.written;
            sum.refused = tally.refused.or(sum.refused);
            containers += usize::from(tally.written > 0);
        }
        match sum {
            Tally { written: 0, refused: Some(reason), found } => {
                Err(TerminalError::Refused { found, reason }.into())
            }
            Tally { written: 0, refused: None, .. } => {
                Ok(Reached::Nobody("no container that has the workspace has a terminal"))
            }
            Tally { written, .. } => {
                Ok(Reached::Somebody(format!("terminals: {written}, of containers: {containers}")))
            }
        }
    }
}

/// On a line of its own, whatever a program has on the screen, in raw mode as well.
fn text(message: &str) -> String {
    let shown: String = message.chars().filter(|c| !c.is_control()).take(LONGEST).collect();
    format!("\r\nwsguard: {shown}\r\n")
}

/// Returns the superblocks of terminals that are the host's own.
fn host_devpts() -> std::io::Result<Vec<DeviceNumber>> {
    let table = MountTable::read()?;
    let entries = table.entries().iter().filter(|entry| entry.filesystem == "devpts");
    Ok(entries.map(|entry| entry.device).collect())
}

fn write_to_container(pid: u32, text: &[u8], hosts: &[DeviceNumber]) -> Tally {
    let mut tally = Tally::default();
    let result = terminals_of(pid, hosts).and_then(|directory| match directory {
        Some(directory) => write_to_all(&directory, text, &mut tally),
        None => Ok(()),
    });
    if let Err(errno) = result {
        tally.refused = Some(errno.to_string());
    }
    tally
}

/// Opens the directory with the terminals of a process's tree, or returns `None` if it has none of its own.
fn terminals_of(pid: u32, hosts: &[DeviceNumber]) -> Result<Option<OwnedFd>, Errno> {
    let process = processes::directory(pid);
    // One that has ended has no table.
    let Ok(table) = MountTable::read_from(&process.join("mountinfo")) else { return Ok(None) };
    let is_local = |path: &str| {
        table.containing(Path::new(path)).is_some_and(|entry| LOCAL.contains(&entry.filesystem.as_str()))
    };
    let is_devpts = table
        .containing(Path::new("/dev/pts"))
        .is_some_and(|entry| entry.filesystem == "devpts" && !hosts.contains(&entry.device));
    if !is_devpts || !is_local("/") || !is_local("/dev") {
        return Ok(None);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, process.join("root"), flags, Mode::empty())?;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let directory = rustix::fs::openat2(&root, "dev/pts", flags | OFlags::NOFOLLOW, Mode::empty(), inside)?;
    // The table may have changed since, and the process may be another one by now.
    let is_devpts = rustix::fs::fstatfs(&directory)?.f_type == DEVPTS_MAGIC;
    Ok((is_devpts && !hosts.contains(&device_of(directory.as_fd())?)).then_some(directory))
}

fn device_of(file: BorrowedFd<'_>) -> Result<DeviceNumber, Errno> {
    let device = rustix::fs::fstat(file)?.st_dev;
    Ok(DeviceNumber { major: rustix::fs::major(device), minor: rustix::fs::minor(device) })
}

fn write_to_all(directory: &OwnedFd, text: &[u8], tally: &mut Tally) -> Result<(), Errno> {
    for name in numbers_in(directory)? {
        match write_to_one(directory, &name, text) {
            Ok(true) => {
                tally.found += 1;
                tally.written += 1;
            }
            Ok(false) => {}
            // Closed meanwhile.
            Err(Errno::NOENT | Errno::IO | Errno::NXIO) => {}
            Err(errno) => {
                tally.found += 1;
                tally.refused = Some(match errno {
                    Errno::AGAIN => "its reader is stopped".to_owned(),
                    errno => errno.to_string(),
                });
            }
        }
    }
    Ok(())
}

/// Returns the names that terminals have.
fn numbers_in(directory: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let listed = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
    let mut buffer = Vec::with_capacity(8 * 1024);
    let mut entries = RawDir::new(&listed, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if entry.file_name().to_bytes().iter().all(u8::is_ascii_digit) && names.len() < MOST_TERMINALS {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Writes to one terminal. Returns whether it is one that wants to be written to.
fn write_to_one(directory: &OwnedFd, name: &CString, text: &[u8]) -> Result<bool, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve)?;
    let stat = rustix::fs::fstat(&found)?;
    let is_terminal = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && PTY_MAJORS.contains(&rustix::fs::major(stat.st_rdev))
        && stat.st_dev == rustix::fs::fstat(directory)?.st_dev;
    if !is_terminal || stat.st_mode & WRITABLE_BY_OTHERS == 0 {
        return Ok(false);
    }
    // The very inode that was looked at, whatever its name stands for by now.
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    rustix::io::write(&terminal, text)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn terminals_of_the_host_are_never_found() {
        let hosts = host_devpts().unwrap();
        assert!(terminals_of(std::process::id(), &hosts).unwrap().is_none());
    }

    #[test]
    fn control_characters_and_long_texts_do_not_reach_a_terminal() {
        assert_eq!(text("a\u{1b}[2Jb\u{9b}c\nd"), "\r\nwsguard: a[2Jbcd\r\n");
        assert!(text(&"x".repeat(10_000)).len() < LONGEST + 20);
    }

    #[test]
    fn what_is_no_terminal_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("0"), "untouched").unwrap();
        std::os::unix::fs::symlink("/dev/null", dir.path().join("1")).unwrap();
        rustix::fs::mknodat(CWD, dir.path().join("2"), FileType::Fifo, Mode::from_raw_mode(0o666), 0)
            .unwrap();
        let directory = OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
        let mut tally = Tally::default();
        write_to_all(&directory, b"x", &mut tally).unwrap();
        assert_eq!((tally.written, tally.found, tally.refused), (0, 0, None));
        assert_eq!(std::fs::read(dir.path().join("0")).unwrap(), b"untouched");
    }

    #[test]
    fn notice_about_no_mounted_workspace_reaches_nobody() {
        assert!(matches!(Terminals.deliver(&sample("x")), Ok(Reached::Nobody(_))));
    }
}

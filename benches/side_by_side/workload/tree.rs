//! Trees of small files: unpacking, walking, reading and removing them.

use std::{
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, Timespec, Timestamps};

use crate::{
    corpus::Tree,
    measure::{Measurement, time_job},
    site::Site,
};

/// Creates the tree the way an archiver does: directory by directory, each file written, dated and closed.
pub(crate) fn unpack(tree: &Tree, root: &Path) -> Result<()> {
    std::fs::create_dir(root).with_context(|| format!("cannot create {root:?}"))?;
    let root = open_dir(CWD, root)?;
    for directory in &tree.directories {
        rustix::fs::mkdirat(&root, directory.as_str(), Mode::from_raw_mode(0o755))?;
    }
    let date = Timespec { tv_sec: 1_700_000_000, tv_nsec: 0 };
    for file in &tree.files {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&root, file.path.as_str(), flags, Mode::from_raw_mode(0o644))?;
        let mut rest = tree.content(file);
        while !rest.is_empty() {
            let written = rustix::io::write(&fd, rest)?;
            rest = &rest[written..];
        }
        rustix::fs::futimens(&fd, &Timestamps { last_access: date, last_modification: date })?;
    }
    Ok(())
}

/// Unpacks the source tree where there is none.
pub(crate) fn untar(site: &Site) -> Result<Measurement> {
    let root = site.root.join(Site::TREE);
    time_job(|| unpack(&site.material.source, &root))
}

/// What a walk does with each file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Visit {
    /// Only its name is seen.
    Name,
    /// It is stated, opened and read to its end.
    Content,
}

/// Lists every name of the source tree.
pub(crate) fn find(site: &Site) -> Result<Measurement> {
    walk_source(site, Visit::Name)
}

/// Has the source tree there and walked once.
pub(crate) fn walked(site: &Site) -> Result<()> {
    site.ensure_tree()?;
    find(site).map(drop)
}

/// Reads every file of the source tree, as an archiver does.
pub(crate) fn tar_read(site: &Site) -> Result<Measurement> {
    walk_source(site, Visit::Content)
}

fn walk_source(site: &Site, visit: Visit) -> Result<Measurement> {
    let root = site.root.join(Site::TREE);
    let mut files = 0;
    let measurement = time_job(|| {
        let root = open_dir(CWD, &root)?;
        files = walk(&root, visit, &mut vec![0; 1 << 16])?;
        anyhow::Ok(())
    })?;
    let expected = site.material.source.files.len();
    ensure!(files >= expected, "the walk found {files} files instead of {expected}");
    Ok(measurement)
}

/// Walks the tree below `dir` and returns the number of files, `.git` not counted.
fn walk(dir: &OwnedFd, visit: Visit, buffer: &mut [u8]) -> Result<usize> {
    let mut names = Vec::new();
    let mut directories = Vec::new();
    let mut space = [MaybeUninit::uninit(); 32 << 10];
    let mut entries = RawDir::new(dir, &mut space);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        match (entry.file_name().to_bytes(), entry.file_type()) {
            (b"." | b".." | b".git", _) => {}
            (_, FileType::Directory) => directories.push(entry.file_name().to_owned()),
            _ => names.push(entry.file_name().to_owned()),
        }
    }
    let mut files = names.len();
    if visit == Visit::Content {
        for name in &names {
            let found = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let count = read_file(dir, name, buffer)?;
            ensure!(
                u64::try_from(found.st_size)? == count,
                "{name:?} has {} bytes, {count} were read",
                found.st_size
            );
        }
    }
    for name in &directories {
        files += walk(&open_dir(dir, name.as_c_str())?, visit, buffer)?;
    }
    Ok(files)
}

fn read_file(dir: &OwnedFd, name: impl rustix::path::Arg, buffer: &mut [u8]) -> Result<u64> {
    let file = rustix::fs::openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut total = 0;
    loop {
        match rustix::io::read(&file, &mut *buffer)? {
            0 => return Ok(total),
            count => total += count as u64,
        }
    }
}

fn open_dir<'fd>(parent: impl Into<Parent<'fd>>, name: impl rustix::path::Arg) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent.into().0, name, flags, Mode::empty())?)
}

/// A directory to look names up in: an open one, or the current one.
struct Parent<'fd>(BorrowedFd<'fd>);

impl<'fd> From<&'fd OwnedFd> for Parent<'fd> {
    fn from(fd: &'fd OwnedFd) -> Self {
        Self(std::os::fd::AsFd::as_fd(fd))
    }
}

impl<'fd> From<BorrowedFd<'fd>> for Parent<'fd> {
    fn from(fd: BorrowedFd<'fd>) -> Self {
        Self(fd)
    }
}

/// Has the package of modules read once.
pub(crate) fn warm_modules(site: &Site) -> Result<()> {
    site.ensure_modules()?;
    import(site).map(drop)
}

/// Reads a package as an interpreter imports it: for each module three names that are missing, then stat,
/// open, fstat and read of the file.
pub(crate) fn import(site: &Site) -> Result<Measurement> {
    let dir = site.open_dir(Site::MODULES)?;
    let tree = &site.material.modules;
    let mut buffer = vec![0; 1 << 16];
    time_job(|| {
        for file in &tree.files {
            for suffix in [".so", ".abi3.so", ".pyc"] {
                let missing = format!("{}{suffix}", file.path);
                let found = rustix::fs::statat(&dir, missing.as_str(), AtFlags::empty());
                ensure!(found.is_err(), "{missing} exists");
            }
            rustix::fs::statat(&dir, file.path.as_str(), AtFlags::empty())?;
            let count = read_file(&dir, file.path.as_str(), &mut buffer)?;
            let expected = tree.content(file).len() as u64;
            ensure!(count == expected, "{} has {expected} bytes, {count} were read", file.path);
        }
        Ok(())
    })
}

/// Removes the source tree.
pub(crate) fn remove(site: &Site) -> Result<Measurement> {
    time_job(|| std::fs::remove_dir_all(site.root.join(Site::TREE)).context("cannot remove the source tree"))
}

//! Single operations: the median and the 99th percentile of each.

use std::{
    ffi::CString,
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use anyhow::{Context, Result, ensure};
use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};

use crate::{
    corpus::Sequence,
    measure::{Measurement, time_operations},
    site::{Site, small_name},
};

const BLOCK: usize = 4096;

/// Reads 4 KiB at random places of the bulk file, opened for reading.
pub(crate) fn read_random(site: &Site) -> Result<Measurement> {
    read_blocks(site, OFlags::RDONLY)
}

/// Reads 4 KiB at random places of the bulk file, opened for reading and writing.
pub(crate) fn read_random_rdwr(site: &Site) -> Result<Measurement> {
    read_blocks(site, OFlags::RDWR)
}

fn read_blocks(site: &Site, access: OFlags) -> Result<Measurement> {
    let file = open_in_root(site, Site::BULK, access)?;
    let blocks = site.scale().bulk_bytes / BLOCK as u64;
    let mut sequence = Sequence::new(4);
    let mut buffer = [0_u8; BLOCK];
    time_operations(site.scale().operations, site.scale().budget, |_| {
        file.read_exact_at(&mut buffer, sequence.below(blocks) * BLOCK as u64).context("cannot read 4 KiB")
    })
}

/// The file that [`append`] creates.
pub(crate) const LOG: &str = "append.log";

/// Appends 100 bytes a call, as a training loop logs.
pub(crate) fn append(site: &Site) -> Result<Measurement> {
    let file = open_in_root(site, LOG, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE)?;
    let line = &site.material.block[..100];
    time_operations(site.scale().operations, site.scale().budget, |_| {
        let written = rustix::io::write(&file, line)?;
        ensure!(written == line.len(), "appended {written} bytes of {}", line.len());
        Ok(())
    })
}

/// The file that [`write_sequential`] creates.
pub(crate) const SEQUENTIAL: &str = "sequential";

/// Writes a new file 4 KiB a call.
pub(crate) fn write_sequential(site: &Site) -> Result<Measurement> {
    let file = open_in_root(site, SEQUENTIAL, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
    write_blocks(site, &file, |index, blocks| index as u64 % blocks)
}

/// Overwrites 4 KiB at random places of a file.
pub(crate) fn write_random(site: &Site) -> Result<Measurement> {
    let file = open_in_root(site, Site::BLOCKS, OFlags::WRONLY)?;
    let mut sequence = Sequence::new(5);
    write_blocks(site, &file, |_, blocks| sequence.below(blocks))
}

fn write_blocks(site: &Site, file: &File, mut place: impl FnMut(usize, u64) -> u64) -> Result<Measurement> {
    let blocks = site.scale().block_file_bytes / BLOCK as u64;
    let content = &site.material.block[..BLOCK];
    time_operations(site.scale().operations, site.scale().budget, |index| {
        file.write_all_at(content, place(index, blocks) * BLOCK as u64).context("cannot write 4 KiB")
    })
}

fn open_in_root(site: &Site, name: &str, access: OFlags) -> Result<File> {
    let path = site.root.join(name);
    let file = rustix::fs::open(&path, access | OFlags::CLOEXEC, Mode::from_raw_mode(0o644));
    Ok(File::from(file.with_context(|| format!("cannot open {path:?}"))?))
}

/// A directory of small files and their names, so that the timed loop only makes system calls.
struct SmallFiles {
    dir: OwnedFd,
    names: Vec<CString>,
}

impl SmallFiles {
    fn open(site: &Site, dir: &str, name: impl Fn(usize) -> String) -> Result<Self> {
        let names =
            (0..site.scale().small_files).map(|index| CString::new(name(index))).collect::<Result<_, _>>()?;
        Ok(Self { dir: site.open_dir(dir)?, names })
    }

    /// Cycles through the names.
    fn name(&self, index: usize) -> &CString {
        &self.names[index % self.names.len()]
    }

    fn stat_all(&self) -> Result<()> {
        for name in &self.names {
            self.stat(name)?;
        }
        Ok(())
    }

    fn stat(&self, name: &CString) -> Result<()> {
        let found = rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        ensure!(found.st_size == 1024, "{name:?} has {} bytes instead of 1024", found.st_size);
        Ok(())
    }

    fn stat_missing(&self, name: &CString) -> Result<()> {
        match rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot look up {name:?}")),
            Ok(_) => anyhow::bail!("{name:?} exists"),
        }
    }

    fn read(&self, name: &CString) -> Result<()> {
        let mut buffer = [0_u8; 1024];
        let file = rustix::fs::openat(&self.dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let count = rustix::io::read(&file, &mut buffer)?;
        ensure!(count == 1024, "read {count} bytes of {name:?} instead of 1024");
        Ok(())
    }

    fn create(&self, name: &CString, content: &[u8]) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dir, name, flags, Mode::from_raw_mode(0o644))?;
        let written = rustix::io::write(&file, content)?;
        ensure!(written == content.len(), "wrote {written} bytes of {}", content.len());
        Ok(())
    }

    fn unlink(&self, name: &CString) -> Result<()> {
        rustix::fs::unlinkat(self.dir.as_fd(), name, AtFlags::empty())?;
        Ok(())
    }
}

/// Has the small files there and their attributes cached.
pub(crate) fn warm_small(site: &Site) -> Result<()> {
    site.ensure_small_files()?;
    SmallFiles::open(site, Site::SMALL, small_name)?.stat_all()
}

/// Has the small files there and their data cached.
pub(crate) fn warm_small_data(site: &Site) -> Result<()> {
    site.ensure_small_files()?;
    let files = SmallFiles::open(site, Site::SMALL, small_name)?;
    files.names.iter().try_for_each(|name| files.read(name))
}

/// Stats existing files, again and again.
pub(crate) fn stat(site: &Site) -> Result<Measurement> {
    let files = SmallFiles::open(site, Site::SMALL, small_name)?;
    time_operations(site.scale().operations, site.scale().budget, |index| files.stat(files.name(index)))
}

/// Stats each existing file once.
pub(crate) fn stat_each(site: &Site) -> Result<Measurement> {
    let files = SmallFiles::open(site, Site::SMALL, small_name)?;
    time_operations(files.names.len(), site.scale().budget, |index| files.stat(files.name(index)))
}

fn missing_name(index: usize) -> String {
    format!("missing_{index:06}")
}

/// Has the missing names looked up once.
pub(crate) fn warm_missing(site: &Site) -> Result<()> {
    site.ensure_small_files()?;
    let files = SmallFiles::open(site, Site::SMALL, missing_name)?;
    files.names.iter().try_for_each(|name| files.stat_missing(name))
}

/// Stats names that do not exist, again and again.
pub(crate) fn stat_negative(site: &Site) -> Result<Measurement> {
    let files = SmallFiles::open(site, Site::SMALL, missing_name)?;
    time_operations(site.scale().operations, site.scale().budget, |index| {
        files.stat_missing(files.name(index))
    })
}

/// Opens a file, reads its 1 KiB and closes it.
pub(crate) fn open_read_close(site: &Site) -> Result<Measurement> {
    let files = SmallFiles::open(site, Site::SMALL, small_name)?;
    time_operations(site.scale().operations, site.scale().budget, |index| files.read(files.name(index)))
}

/// The directory that [`create`] fills and [`unlink`] empties.
pub(crate) const CREATED: &str = "created";

/// Has an empty directory for new files.
pub(crate) fn empty_created(site: &Site) -> Result<()> {
    site.remove_tree(CREATED)?;
    std::fs::create_dir(site.root.join(CREATED)).context("cannot create the directory for new files")
}

/// Creates a file, writes 1 KiB and closes it.
pub(crate) fn create(site: &Site) -> Result<Measurement> {
    let files = SmallFiles::open(site, CREATED, small_name)?;
    let content = &site.material.block[..1024];
    time_operations(files.names.len(), site.scale().budget, |index| files.create(files.name(index), content))
}

/// Has a directory full of new files.
pub(crate) fn fill_created(site: &Site) -> Result<()> {
    empty_created(site)?;
    let files = SmallFiles::open(site, CREATED, small_name)?;
    files.names.iter().try_for_each(|name| files.create(name, &site.material.block[..1024]))
}

/// Unlinks files of 1 KiB.
pub(crate) fn unlink(site: &Site) -> Result<Measurement> {
    let files = SmallFiles::open(site, CREATED, small_name)?;
    time_operations(files.names.len(), site.scale().budget, |index| files.unlink(files.name(index)))
}

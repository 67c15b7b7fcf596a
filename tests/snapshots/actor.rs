//! Random operations on a tree: everything that a program may do to names, bytes, attributes and mappings.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, PermissionsExt, symlink},
    },
    path::PathBuf,
};

use harness::{Mapping, Protection, Random};
use rustix::fs::{AtFlags, FallocateFlags, RenameFlags, Timespec, Timestamps, XattrFlags};

/// Longest file: some are larger than what is copied as a whole.
const LONGEST: u32 = 20;

/// Does random things below one directory.
pub(crate) struct Actor {
    /// Where from.
    pub(crate) random: Random,
    top: PathBuf,
    open: Vec<File>,
    maps: bool,
}

impl Actor {
    /// Works below `top`, which exists; with stores through mappings if it `maps`.
    pub(crate) fn new(seed: u64, top: PathBuf, maps: bool) -> Self {
        Self { random: Random::new(seed), top, open: Vec::new(), maps }
    }
    fn name(&mut self) -> PathBuf {
        const NAMES: [&[u8]; 8] =
            [b"a", b"b", b"c", b"notebook.ipynb", b"model.pt", b"\xff\xfe not utf-8", b"x\ny", b"data"];
        const DIRECTORIES: [&str; 6] = ["", "d", "e", "d/f", "e/g", "d/f/h"];
        let dir = DIRECTORIES[self.random.below(6) as usize];
        let name = std::ffi::OsStr::from_bytes(NAMES[self.random.below(8) as usize]);
        if dir.is_empty() { self.top.join(name) } else { self.top.join(dir).join(name) }
    }

    fn directory(&mut self) -> PathBuf {
        let name = ["d", "e", "d/f", "e/g", "d/f/h"][self.random.below(5) as usize];
        self.top.join(name)
    }

    fn length(&mut self) -> u64 {
        let largest = 1 << self.random.below(u64::from(LONGEST));
        1 + self.random.below(largest)
    }

    fn bytes(&mut self) -> Vec<u8> {
        let (length, first) = (self.length(), self.random.number());
        (0..length).map(|at| (first.wrapping_add(at.wrapping_mul(0x9e37_79b9)) >> 3) as u8).collect()
    }

    fn opened(&mut self) -> Option<usize> {
        let count = self.open.len() as u64;
        (count > 0).then(|| self.random.below(count) as usize)
    }

    /// Does one thing; whether it works depends on what is there.
    pub(crate) fn step(&mut self) -> io::Result<()> {
        match self.random.below(30) {
            0..=2 => {
                let bytes = self.bytes();
                fs::write(self.name(), bytes)?;
            }
            3..=4 => self.open_one()?,
            5..=8 => {
                let (Some(index), at, bytes) = (self.opened(), self.length() - 1, self.bytes()) else {
                    return Ok(());
                };
                self.open[index].write_all_at(&bytes, at)?;
            }
            9..=10 => {
                let (Some(index), size) = (self.opened(), self.length() - 1) else { return Ok(()) };
                self.open[index].set_len(size)?;
            }
            11..=12 => self.allocate()?,
            13 => self.copy()?,
            14 => {
                if let Some(index) = self.opened() {
                    self.open.swap_remove(index);
                }
            }
            15..=17 => fs::remove_file(self.name())?,
            18..=19 => fs::rename(self.name(), self.name())?,
            20 => fs::hard_link(self.name(), self.name())?,
            21..=22 => fs::create_dir(self.directory())?,
            23 => match self.random.below(3) {
                0 => fs::remove_dir_all(self.directory())?,
                1 => fs::rename(self.directory(), self.directory())?,
                _ => self.exchange()?,
            },
            24 => symlink(self.name(), self.name())?,
            25 => self.set_attribute()?,
            26 => {
                let path = self.name();
                let mode = 0o400 | self.random.below(0o400) as u32;
                fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            }
            27 => {
                let owner = 1000 + self.random.below(3) as u32;
                std::os::unix::fs::lchown(self.name(), Some(owner), Some(owner))?;
            }
            28 => {
                let time = |seconds| Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
                let when = self.random.below(2_000_000_000) as i64;
                let times = Timestamps { last_access: time(when), last_modification: time(when) };
                rustix::fs::utimensat(rustix::fs::CWD, self.name(), &times, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            _ => self.store()?,
        }
        Ok(())
    }

    fn open_one(&mut self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        match self.random.below(4) {
            0 => options.read(true).write(true).create(true).truncate(false),
            1 => options.write(true).create(true).truncate(false),
            2 => options.write(true).create(true).truncate(true),
            _ => options.append(true).create(true),
        };
        let file = options.open(self.name())?;
        if self.open.len() >= 6 {
            self.open.remove(0);
        }
        self.open.push(file);
        Ok(())
    }

    fn allocate(&mut self) -> io::Result<()> {
        let Some(index) = self.opened() else { return Ok(()) };
        let modes = [
            FallocateFlags::empty(),
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            FallocateFlags::ZERO_RANGE,
            FallocateFlags::COLLAPSE_RANGE,
        ];
        let mode = modes[self.random.below(4) as usize];
        let (mut offset, mut length) = (self.length(), self.length());
        if mode == FallocateFlags::COLLAPSE_RANGE {
            (offset, length) = (offset & !4095, length.next_multiple_of(4096));
        }
        rustix::fs::fallocate(&self.open[index], mode, offset, length)?;
        Ok(())
    }

    fn copy(&mut self) -> io::Result<()> {
        let source = File::open(self.name())?;
        let (Some(index), length) = (self.opened(), self.length()) else { return Ok(()) };
        let (mut from, mut to) = (0, self.length());
        let length = usize::try_from(length).expect("it is short");
        rustix::fs::copy_file_range(&source, Some(&mut from), &self.open[index], Some(&mut to), length)?;
        Ok(())
    }

    fn exchange(&mut self) -> io::Result<()> {
        let (from, to) = (self.name(), self.name());
        Ok(rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, RenameFlags::EXCHANGE)?)
    }

    fn set_attribute(&mut self) -> io::Result<()> {
        let value = vec![7; self.random.below(300) as usize];
        let path = if self.random.below(3) == 0 { self.directory() } else { self.name() };
        match self.random.below(3) {
            0 => rustix::fs::lremovexattr(path, "user.x")?,
            // A POSIX ACL: rw for the owner and uid 1001, r for the group, the mask and others nothing.
            1 => rustix::fs::lsetxattr(path, "system.posix_acl_access", &access_list(), XattrFlags::empty())?,
            _ => rustix::fs::lsetxattr(path, "user.x", &value, XattrFlags::empty())?,
        }
        Ok(())
    }

    /// Stores through a shared mapping.
    fn store(&mut self) -> io::Result<()> {
        if !self.maps {
            return Ok(());
        }
        let file = OpenOptions::new().read(true).write(true).open(self.name())?;
        let length = usize::try_from(file.metadata()?.len()).expect("it is short");
        if length > 0 {
            let mapping = Mapping::new(&file, length, Protection::ReadWrite)?;
            let at = self.random.below(length as u64) as usize;
            mapping.store(at, &[self.random.number() as u8]);
        }
        Ok(())
    }
}

/// linux/posix_acl_xattr.h: version 2, then tag, permissions and id of each entry, little-endian.
fn access_list() -> Vec<u8> {
    let mut list = 2_u32.to_le_bytes().to_vec();
    let nobody = u32::MAX;
    for (tag, permissions, id) in
        [(0x01_u16, 6_u16, nobody), (0x02, 6, 1001), (0x04, 4, nobody), (0x10, 6, nobody), (0x20, 0, nobody)]
    {
        list.extend_from_slice(&tag.to_le_bytes());
        list.extend_from_slice(&permissions.to_le_bytes());
        list.extend_from_slice(&id.to_le_bytes());
    }
    list
}

use std::{
    fs::{self, File},
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{Run, Scratch, require::note};

/// A filesystem that can be made on a loop device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsKind {
    /// ext4, which has no reflink.
    Ext4,
    /// xfs with reflink.
    Xfs,
    /// btrfs.
    Btrfs,
}

impl FsKind {
    /// Returns the name that mount(8) and mkfs know it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// Returns the facility that a test which uses it must require.
    pub fn facility(self) -> crate::Facility {
        match self {
            Self::Ext4 => crate::Facility::Ext4,
            Self::Xfs => crate::Facility::Xfs,
            Self::Btrfs => crate::Facility::Btrfs,
        }
    }
}

/// Where the plain files of a workspace lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// A directory on the machine's own filesystem (below `/tmp`).
    Directory,
    /// A tmpfs of this many bytes.
    Tmpfs(u64),
    /// A new filesystem on a sparse loop file of this many bytes (xfs needs 300 MiB, btrfs 110 MiB).
    Loop(FsKind, u64),
}

impl Backing {
    /// A loop filesystem of 1 GiB, sparse: enough for all tests of semantics.
    pub fn on(kind: FsKind) -> Self {
        Self::Loop(kind, 1 << 30)
    }

    /// Makes it.
    pub fn make(self) -> BackingDir {
        match self {
            Self::Directory => BackingDir::Directory(Scratch::new()),
            Self::Tmpfs(bytes) => BackingDir::Tmpfs(Tmpfs::new(bytes)),
            Self::Loop(kind, bytes) => BackingDir::Loop(LoopFs::new(kind, bytes)),
        }
    }
}

/// A [`Backing`] that exists; unmounted and removed on drop.
#[derive(Debug)]
pub enum BackingDir {
    /// See [`Backing::Directory`].
    Directory(Scratch),
    /// See [`Backing::Tmpfs`].
    Tmpfs(Tmpfs),
    /// See [`Backing::Loop`].
    Loop(LoopFs),
}

impl BackingDir {
    /// Returns its root, an empty directory that every user may enter.
    pub fn path(&self) -> &Path {
        match self {
            Self::Directory(scratch) => scratch.path(),
            Self::Tmpfs(tmpfs) => tmpfs.path(),
            Self::Loop(filesystem) => filesystem.path(),
        }
    }

    /// Returns the loop filesystem; panics for another kind.
    pub fn loop_fs(&self) -> &LoopFs {
        match self {
            Self::Loop(filesystem) => filesystem,
            Self::Directory(_) | Self::Tmpfs(_) => panic!("this backing is not a loop filesystem"),
        }
    }
}

/// A tmpfs of its own; unmounted on drop.
#[derive(Debug)]
pub struct Tmpfs {
    scratch: Scratch,
    root: PathBuf,
}

impl Tmpfs {
    /// Mounts a tmpfs of this many bytes.
    pub fn new(bytes: u64) -> Self {
        let scratch = Scratch::new();
        let root = scratch.dir("t");
        Run::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes},mode=755"), "wsguard-test"])
            .arg(&root)
            .ok();
        Self { scratch, root }
    }

    /// Returns where it is mounted.
    pub fn path(&self) -> &Path {
        debug_assert!(self.root.starts_with(self.scratch.path()));
        &self.root
    }
}

/// A filesystem of its own on a sparse file; unmounted and removed on drop.
#[derive(Debug)]
pub struct LoopFs {
    scratch: Scratch,
    root: PathBuf,
    image: PathBuf,
    kind: FsKind,
}

impl LoopFs {
    /// Makes and mounts a filesystem of this many bytes, of which only what is written takes space.
    pub fn new(kind: FsKind, bytes: u64) -> Self {
        let scratch = Scratch::new();
        let image = scratch.path().join("image");
        Self::make(scratch, image, kind, bytes)
    }

    /// The same with its image on another one, which is to be dropped later: a power cut of that one is a power cut of a
    /// disk with a volatile write cache for this.
    pub fn inside(outer: &Self, kind: FsKind, bytes: u64) -> Self {
        Self::make(Scratch::new(), outer.path().join("image"), kind, bytes)
    }

    fn make(scratch: Scratch, image: PathBuf, kind: FsKind, bytes: u64) -> Self {
        let file = File::create(&image).expect("an image file can be made");
        file.set_len(bytes).expect("an image file can be sparse");
        let quiet: &[&str] = match kind {
            // Without lazy initialisation nothing goes on writing in the background while a test measures.
            FsKind::Ext4 => &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
            FsKind::Xfs => &["-q", "-f"],
            FsKind::Btrfs => &["-q", "-f"],
        };
        Run::new(format!("mkfs.{}", kind.name())).args(quiet).arg(&image).ok();
        let filesystem = Self { root: scratch.dir("f"), scratch, image, kind };
        filesystem.mount();
        filesystem
    }

    /// Returns where it is mounted.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Returns which filesystem it is.
    pub fn kind(&self) -> FsKind {
        self.kind
    }

    /// Returns the file that holds it.
    pub fn image(&self) -> PathBuf {
        self.image.clone()
    }

    /// Cuts its power (ext4 and xfs): what is not on the image yet never gets there, and every operation fails.
    pub fn cut_power(&self) {
        let root = File::open(&self.root).expect("the root of a filesystem can be opened");
        crate::sys::shut_down(root.as_fd()).expect("the filesystem can be shut down");
    }

    /// Mounts it again after [`LoopFs::unmount`].
    pub fn mount(&self) {
        Run::new("mount").args(["-t", self.kind.name(), "-o", "loop"]).arg(self.image()).arg(&self.root).ok();
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o755))
            .expect("root owns the new filesystem");
    }

    /// Unmounts it; fails the test while something uses it.
    pub fn unmount(&self) {
        Run::new("umount").arg(&self.root).ok();
    }

    /// Unmounts it once nobody uses it any more; fails the test if that takes long.
    pub fn unmount_when_free(&self) {
        debug_assert!(self.root.starts_with(self.scratch.path()));
        crate::wait_until("the filesystem to be unmounted", Duration::from_secs(30), || {
            Run::new("umount").arg(&self.root).output().code == 0
        });
    }

    /// Makes the whole filesystem read-only, or writable again.
    pub fn set_read_only(&self, read_only: bool) {
        let options = if read_only { "remount,ro" } else { "remount,rw" };
        Run::new("mount").args(["-o", options]).arg(&self.root).ok();
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        let detached = Run::new("umount").arg("-l").arg(&self.root).output();
        if detached.code != 0 && !detached.stderr.contains("not mounted") {
            note(&format!("cannot unmount {}: {}", self.root.display(), detached.stderr.trim()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn works_and_leaves_nothing(kind: FsKind) {
        let filesystem = LoopFs::new(kind, 512 << 20);
        let (root, image) = (filesystem.path().to_path_buf(), filesystem.image());
        fs::write(root.join("file"), "content").unwrap();
        filesystem.unmount();
        filesystem.mount();
        assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "content");
        filesystem.set_read_only(true);
        let refused = fs::write(root.join("file"), "other").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        drop(filesystem);
        assert_eq!(crate::mounts_below(&root), []);
        assert!(!image.exists());
        let loops = Run::new("losetup").args(["-n", "-O", "BACK-FILE", "-l"]).ok();
        assert!(!loops.contains(image.to_str().unwrap()), "{loops}");
    }

    #[test]
    fn ext4_on_a_loop_file_works_and_leaves_nothing() {
        crate::require!(ext4);
        works_and_leaves_nothing(FsKind::Ext4);
    }

    #[test]
    fn xfs_on_a_loop_file_works_and_leaves_nothing() {
        crate::require!(xfs);
        works_and_leaves_nothing(FsKind::Xfs);
    }

    #[test]
    fn btrfs_on_a_loop_file_works_and_leaves_nothing() {
        crate::require!(btrfs);
        works_and_leaves_nothing(FsKind::Btrfs);
    }

    #[test]
    fn a_tmpfs_has_the_size_asked_for() {
        crate::require!(root);
        let tmpfs = Tmpfs::new(4 << 20);
        let full = fs::write(tmpfs.path().join("file"), vec![0; 5 << 20]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }
}

//! One variant's place: its root directory, and the files that rows expect to find there.
//!
//! Fixtures are written through the variant itself, once, outside all timing.

use std::{fs, io::Write, os::fd::OwnedFd, path::PathBuf, rc::Rc, time::Duration};

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags};

use crate::{corpus::Tree, workload::tree};

/// How much work one run of a row is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// The file that bulk reads and writes move.
    pub(crate) bulk_bytes: u64,
    /// The file that 4 KiB writes go to.
    pub(crate) block_file_bytes: u64,
    /// A saved model.
    pub(crate) checkpoint_bytes: u64,
    /// Operations of one latency run, at most.
    pub(crate) operations: usize,
    /// Time of one latency run, about at most.
    pub(crate) budget: Duration,
    /// Files of 1 KiB in one directory.
    pub(crate) small_files: usize,
    /// Files of the source tree.
    pub(crate) tree_files: usize,
    /// Files of the module tree.
    pub(crate) module_files: usize,
}

impl Scale {
    /// The scale that goals are stated for.
    pub(crate) const FULL: Self = Self {
        bulk_bytes: 256 << 20,
        block_file_bytes: 64 << 20,
        checkpoint_bytes: 256 << 20,
        operations: 50_000,
        budget: Duration::from_millis(300),
        small_files: 2_000,
        tree_files: 10_000,
        module_files: 1_500,
    };

    /// For trying out the benchmark itself; its numbers mean little.
    pub(crate) const QUICK: Self = Self {
        bulk_bytes: 64 << 20,
        block_file_bytes: 16 << 20,
        checkpoint_bytes: 64 << 20,
        operations: 5_000,
        budget: Duration::from_millis(100),
        small_files: 300,
        tree_files: 800,
        module_files: 200,
    };
}

/// What every variant works on: the same for all of them.
pub(crate) struct Material {
    /// How much work.
    pub(crate) scale: Scale,
    /// A source tree of small files.
    pub(crate) source: Tree,
    /// A package of modules.
    pub(crate) modules: Tree,
    /// 1 MiB that does not compress.
    pub(crate) block: Vec<u8>,
}

impl Material {
    /// Generates all content.
    pub(crate) fn new(scale: Scale) -> Self {
        let mut sequence = crate::corpus::Sequence::new(1);
        let block = (0..1 << 17).flat_map(|_| sequence.below(u64::MAX).to_le_bytes()).collect();
        Self {
            scale,
            source: Tree::source(scale.tree_files),
            modules: Tree::modules(scale.module_files),
            block,
        }
    }
}

/// Where one variant's rows run.
pub(crate) struct Site {
    /// The directory as an application sees it.
    pub(crate) root: PathBuf,
    /// Shared by all sites.
    pub(crate) material: Rc<Material>,
}

impl Site {
    /// The file of bulk reads, [`Scale::bulk_bytes`] long.
    pub(crate) const BULK: &'static str = "bulk";
    /// The file of 4 KiB overwrites, [`Scale::block_file_bytes`] long.
    pub(crate) const BLOCKS: &'static str = "blocks";
    /// The directory of 1 KiB files.
    pub(crate) const SMALL: &'static str = "small";
    /// The unpacked source tree.
    pub(crate) const TREE: &'static str = "tree";
    /// The package of modules.
    pub(crate) const MODULES: &'static str = "modules";

    /// How much work one run is.
    pub(crate) fn scale(&self) -> &Scale {
        &self.material.scale
    }

    /// Opens the root or a directory below it.
    pub(crate) fn open_dir(&self, name: &str) -> Result<OwnedFd> {
        let path = self.root.join(name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::empty()).with_context(|| format!("cannot open {path:?}"))
    }

    /// Removes a file that a row has written.
    pub(crate) fn remove_file(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.root.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context(format!("cannot remove {name}"))
            }
            _ => Ok(()),
        }
    }

    /// Removes a tree that a row has written.
    pub(crate) fn remove_tree(&self, name: &str) -> Result<()> {
        match fs::remove_dir_all(self.root.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context(format!("cannot remove {name}"))
            }
            _ => Ok(()),
        }
    }

    /// Has [`Self::BULK`] written and on disk.
    pub(crate) fn ensure_bulk(&self) -> Result<()> {
        self.ensure_file(Self::BULK, self.scale().bulk_bytes)
    }

    /// Has [`Self::BLOCKS`] written and on disk.
    pub(crate) fn ensure_blocks(&self) -> Result<()> {
        self.ensure_file(Self::BLOCKS, self.scale().block_file_bytes)
    }

    fn ensure_file(&self, name: &str, len: u64) -> Result<()> {
        let path = self.root.join(name);
        if fs::metadata(&path).is_ok_and(|found| found.len() == len) {
            return Ok(());
        }
        let mut file = fs::File::create(&path).with_context(|| format!("cannot create {path:?}"))?;
        for _ in 0..len / self.material.block.len() as u64 {
            file.write_all(&self.material.block)?;
        }
        file.sync_all().with_context(|| format!("cannot sync {path:?}"))
    }

    /// Has all of [`Self::SMALL`].
    pub(crate) fn ensure_small_files(&self) -> Result<()> {
        let dir = self.root.join(Self::SMALL);
        let last = dir.join(small_name(self.scale().small_files - 1));
        if last.exists() {
            return Ok(());
        }
        fs::create_dir_all(&dir)?;
        let content = &self.material.block[..1024];
        for index in 0..self.scale().small_files {
            fs::write(dir.join(small_name(index)), content)?;
        }
        Ok(())
    }

    /// Has the source tree unpacked.
    pub(crate) fn ensure_tree(&self) -> Result<()> {
        if self.root.join(Self::TREE).exists() {
            return Ok(());
        }
        tree::unpack(&self.material.source, &self.root.join(Self::TREE))
    }

    /// Has the package of modules unpacked.
    pub(crate) fn ensure_modules(&self) -> Result<()> {
        if self.root.join(Self::MODULES).exists() {
            return Ok(());
        }
        tree::unpack(&self.material.modules, &self.root.join(Self::MODULES))
    }
}

/// The name of the 1 KiB file of this index.
pub(crate) fn small_name(index: usize) -> String {
    format!("file_{index:06}")
}

//! A large file is overwritten in place after a snapshot, on ext4, where what goes has to be copied.

use std::{fs::OpenOptions, io::Read, os::unix::fs::FileExt, path::Path};

use anyhow::{Result, ensure};
use harness::FsKind;

use crate::{
    site::{Site, block_of, fill, timed},
    table::Measured,
};

/// Between two islands of a sparse file.
const ISLAND_STEP: u64 = 50;

pub(crate) fn measure(quick: bool) -> Result<Vec<Measured>> {
    let (dense, sparse) = if quick { (64, 1_000) } else { (2_048, 10_240) };
    Ok(vec![overwrite("dense", dense, 1)?, overwrite("sparse", sparse, ISLAND_STEP)?])
}

/// A file of so many MiB, of which one in `step` is there.
fn overwrite(kind: &str, mebibytes: u64, step: u64) -> Result<Measured> {
    let sites = Site::both(FsKind::Ext4, 8 << 30, |plain| {
        let path = plain.join("file");
        if step == 1 {
            fill(&path, mebibytes << 20, 1).expect("there is room");
        } else {
            islands(&path, mebibytes, step, 1).expect("there is room");
        }
    });
    let name = sites[0].snapshot("before")?;
    let mut times = Vec::new();
    for site in &sites {
        site.settle()?;
        let (took, ()) = timed(|| {
            islands(&site.at("file"), mebibytes, step, 2)?;
            Ok(rustix::fs::fsync(std::fs::File::open(site.at("file"))?)?)
        })?;
        times.push(took.as_secs_f64());
    }
    // Both versions, or the time is worth nothing.
    compare(&sites[0].at("file"), mebibytes, step, 2)?;
    compare(&sites[0].at(".snapshots").join(name).join("file"), mebibytes, step, 1)?;
    let bytes = ((mebibytes / step) << 20) as f64 / 1e6;
    Ok(Measured {
        what: format!("overwrite {} of {mebibytes} MiB, {kind}, fsync", mebibytes / step),
        unit: "MB/s",
        with: bytes / times[0],
        without: Some(bytes / times[1]),
        ratio: Some(times[0] / times[1]),
        note: "ext4; both versions compared".to_owned(),
    })
}

fn islands(path: &Path, mebibytes: u64, step: u64, seed: u64) -> Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    if file.metadata()?.len() < mebibytes << 20 {
        file.set_len(mebibytes << 20)?;
    }
    for block in (0..mebibytes).step_by(usize::try_from(step)?) {
        file.write_all_at(&block_of(seed, block), block << 20)?;
    }
    Ok(())
}

fn compare(path: &Path, mebibytes: u64, step: u64, seed: u64) -> Result<()> {
    let (mut file, mut found) = (std::fs::File::open(path)?, vec![0; 1 << 20]);
    for block in 0..mebibytes {
        file.read_exact(&mut found)?;
        let is_same = if block % step == 0 {
            found == block_of(seed, block)
        } else {
            found.iter().all(|byte| *byte == 0)
        };
        ensure!(is_same, "MiB {block} of {path:?} is not what was written");
    }
    Ok(())
}

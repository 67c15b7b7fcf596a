//! Large files: sequential reads and writes, a shared mapping, and saving a model.

use std::{
    fs::File,
    io::{Read, Write},
    time::Instant,
};

use anyhow::{Context, Result, ensure};

use crate::{measure::Measurement, site::Site, sys::Mapping};

const MIB: usize = 1 << 20;

/// Whether a write ends with fsync(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The data is in the page cache.
    Cached,
    /// The data is on disk.
    Synced,
}

/// Reads the bulk file into the page cache.
pub(crate) fn warm_bulk(site: &Site) -> Result<()> {
    site.ensure_bulk()?;
    read_bulk(site, 1).map(drop)
}

/// Reads the bulk file once, 1 MiB a call.
pub(crate) fn read_once(site: &Site) -> Result<Measurement> {
    read_bulk(site, 1)
}

/// Reads the bulk file three times, 1 MiB a call.
pub(crate) fn read_three_times(site: &Site) -> Result<Measurement> {
    read_bulk(site, 3)
}

fn read_bulk(site: &Site, passes: u64) -> Result<Measurement> {
    let mut buffer = vec![1_u8; MIB];
    let start = Instant::now();
    let mut total = 0_u64;
    for _ in 0..passes {
        let mut file = File::open(site.root.join(Site::BULK))?;
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                count => total += count as u64,
            }
        }
    }
    let elapsed = start.elapsed();
    ensure!(
        total == passes * site.scale().bulk_bytes,
        "read {total} bytes instead of {passes} times the file"
    );
    Ok(Measurement::bytes(total, elapsed))
}

/// Maps the bulk file and reads one byte of each page.
pub(crate) fn read_mapped(site: &Site) -> Result<Measurement> {
    let len = usize::try_from(site.scale().bulk_bytes)?;
    let start = Instant::now();
    let file = File::open(site.root.join(Site::BULK))?;
    let mapping = Mapping::new(&file, len).context("cannot map the bulk file")?;
    let sum = mapping.touch_pages();
    let elapsed = start.elapsed();
    std::hint::black_box(sum);
    Ok(Measurement::bytes(site.scale().bulk_bytes, elapsed))
}

/// The file that [`write_cached`] and [`write_synced`] create.
pub(crate) const WRITTEN: &str = "written";

/// Writes a new file, 1 MiB a call.
pub(crate) fn write_cached(site: &Site) -> Result<Measurement> {
    write_new(site, Durability::Cached)
}

/// Writes a new file, 1 MiB a call, and syncs it.
pub(crate) fn write_synced(site: &Site) -> Result<Measurement> {
    write_new(site, Durability::Synced)
}

fn write_new(site: &Site, durability: Durability) -> Result<Measurement> {
    let bytes = site.scale().bulk_bytes;
    let start = Instant::now();
    let mut file = File::create_new(site.root.join(WRITTEN))?;
    for _ in 0..bytes / MIB as u64 {
        file.write_all(&site.material.block)?;
    }
    if durability == Durability::Synced {
        file.sync_all()?;
    }
    drop(file);
    Ok(Measurement::bytes(bytes, start.elapsed()))
}

/// The file that [`save_cached`] and [`save_synced`] leave.
pub(crate) const CHECKPOINT: &str = "model.pt";

/// Saves a model as `torch.save` writes it, then renames it into place.
pub(crate) fn save_cached(site: &Site) -> Result<Measurement> {
    save_model(site, Durability::Cached)
}

/// Saves a model, syncs it, then renames it into place.
pub(crate) fn save_synced(site: &Site) -> Result<Measurement> {
    save_model(site, Durability::Synced)
}

/// A zip archive of tensors: for each, a few short headers, 16 MiB of data, and a descriptor.
fn save_model(site: &Site, durability: Durability) -> Result<Measurement> {
    const TENSOR_BYTES: u64 = 16 << 20;
    let block = &site.material.block;
    let temporary = site.root.join("model.pt.tmp");
    let mut total = 0_u64;
    let start = Instant::now();
    let mut file = File::create_new(&temporary)?;
    for tensor in 0..site.scale().checkpoint_bytes / TENSOR_BYTES {
        let header = 64 + usize::try_from(tensor)? * 1_000 / 16;
        for len in [header, 64, header] {
            file.write_all(&block[..len])?;
            total += len as u64;
        }
        for _ in 0..TENSOR_BYTES / MIB as u64 {
            file.write_all(block)?;
        }
        file.write_all(&block[..24])?;
        total += TENSOR_BYTES + 24;
    }
    if durability == Durability::Synced {
        file.sync_all()?;
    }
    drop(file);
    std::fs::rename(&temporary, site.root.join(CHECKPOINT))?;
    Ok(Measurement::bytes(total, start.elapsed()))
}

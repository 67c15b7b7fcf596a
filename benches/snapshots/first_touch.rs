//! The first change of something since the last snapshot, which is what has to be preserved.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
    time::Instant,
};

use anyhow::Result;
use harness::FsKind;

use crate::{
    site::{Site, fill, median},
    table::Measured,
};

/// Something that is done once to each of many files.
type Change = fn(&Path) -> std::io::Result<()>;

const CASES: [(&str, u64, Change); 6] = [
    ("open, write 4K of 64 KiB, close", 64 << 10, |path| write(path, false)),
    ("open, write 4K of 4 MiB, close", 4 << 20, |path| write(path, false)),
    ("open for both, write 4K of 4 MiB, close", 4 << 20, |path| write(path, true)),
    ("cut 1 MiB to nothing", 1 << 20, |path| File::create(path).map(drop)),
    ("chmod", 64 << 10, |path| fs::set_permissions(path, Permissions::from_mode(0o600))),
    ("unlink of 1 MiB", 1 << 20, |path| fs::remove_file(path)),
];

fn write(path: &Path, reads: bool) -> std::io::Result<()> {
    OpenOptions::new().read(reads).write(true).open(path)?.write_all_at(&[7; 4096], 8192)
}

pub(crate) fn measure(kind: FsKind, quick: bool) -> Result<Vec<Measured>> {
    let files = if quick { 10 } else { 100 };
    let mut all = Vec::new();
    for (what, size, change) in CASES {
        let sites = Site::both(kind, 4 << 30, |plain| {
            for number in 0..files {
                fill(&plain.join(number.to_string()), size, number).expect("there is room");
            }
        });
        let mut times = [Vec::new(), Vec::new()];
        sites[0].snapshot("before")?;
        for site in &sites {
            // Everything is known to both, so that only the change itself is measured.
            (0..files).try_for_each(|number| fs::metadata(site.at(number.to_string())).map(drop))?;
            site.settle()?;
        }
        for number in 0..files {
            for turn in 0..2 {
                let index = (usize::try_from(number)? + turn) % 2;
                let path = sites[index].at(number.to_string());
                let started = Instant::now();
                change(&path)?;
                times[index].push(started.elapsed().as_secs_f64() * 1e6);
            }
        }
        let [with, without] = &times;
        let ratios: Vec<f64> = with.iter().zip(without).map(|(with, without)| with / without).collect();
        all.push(Measured {
            what: format!("first: {what}"),
            unit: "µs",
            with: median(with),
            without: Some(median(without)),
            ratio: Some(median(&ratios)),
            note: format!("{}, {files} files", kind.name()),
        });
    }
    Ok(all)
}

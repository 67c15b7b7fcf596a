//! Writes into a file that the running epoch has preserved already, which is what nearly all writes are.

use std::{fs::OpenOptions, os::unix::fs::FileExt, time::Instant};

use anyhow::Result;
use harness::{FsKind, Random};

use crate::{
    site::{Site, fill, median},
    table::Measured,
};

const FILE_BYTES: u64 = 64 << 20;

pub(crate) fn measure(quick: bool) -> Result<Vec<Measured>> {
    let (rounds, operations) = if quick { (3, 500) } else { (31, 8_000) };
    let sites = Site::both(FsKind::Ext4, 2 << 30, |plain| {
        fill(&plain.join("file"), FILE_BYTES, 1).expect("there is room");
    });
    let mut all = Vec::new();
    for (what, length) in
        [("write 4K, random, preserved before", 4096), ("write 64K, random, preserved before", 65_536)]
    {
        let mut times = [Vec::new(), Vec::new()];
        for (site, name) in sites.iter().zip(["with", "without"]) {
            if name == "with" {
                site.snapshot(&format!("before-{length}"))?;
            }
            fill(&site.at("file"), FILE_BYTES, 2)?;
            // Not a new file: the same one, overwritten.
            let file = OpenOptions::new().write(true).open(site.at("file"))?;
            (0..FILE_BYTES >> 20).try_for_each(|block| file.write_all_at(&vec![3; 1 << 20], block << 20))?;
            site.settle()?;
        }
        for round in 0..rounds {
            for turn in 0..2 {
                let index = (round + turn) % 2;
                let (site, times) = (&sites[index], &mut times[index]);
                let file = OpenOptions::new().write(true).open(site.at("file"))?;
                let (mut random, bytes) = (Random::new(round as u64 + 1), vec![5; length]);
                let places = FILE_BYTES / length as u64;
                let started = Instant::now();
                for _ in 0..operations {
                    file.write_all_at(&bytes, random.below(places) * length as u64)?;
                }
                times.push(started.elapsed().as_secs_f64() * 1e6 / f64::from(operations));
            }
        }
        let [with, without] = &times;
        let ratios: Vec<f64> = with.iter().zip(without).map(|(with, without)| with / without).collect();
        all.push(Measured {
            what: what.to_owned(),
            unit: "µs",
            with: median(with),
            without: Some(median(without)),
            ratio: Some(median(&ratios)),
            note: format!("ext4, {rounds} rounds"),
        });
    }
    Ok(all)
}

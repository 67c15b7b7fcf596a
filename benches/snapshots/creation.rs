//! How long a snapshot takes, and how long it stops somebody who writes meanwhile.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use harness::FsKind;

use crate::{
    site::{Site, at_share, timed},
    table::Measured,
};

/// Files in a directory.
const FANOUT: u64 = 100;

pub(crate) fn measure(quick: bool) -> Result<Vec<Measured>> {
    let (sizes, snapshots): (&[u64], usize) =
        if quick { (&[1_000], 5) } else { (&[1_000, 30_000, 300_000], 60) };
    let mut all = Vec::new();
    for files in sizes {
        all.extend(of_tree(*files, snapshots)?);
    }
    Ok(all)
}

fn of_tree(files: u64, snapshots: usize) -> Result<Vec<Measured>> {
    let site = Site::with(FsKind::Ext4, 4 << 30, |plain| tree(plain, files));
    let (mut took, mut gaps) = (Vec::new(), Vec::new());
    for number in 0..snapshots {
        let is_over = AtomicBool::new(false);
        let path = site.at("written");
        let (created, gap) = thread::scope(|scope| {
            let writer = scope.spawn(|| longest_gap(&path, &is_over));
            thread::sleep(Duration::from_millis(30));
            let created = timed(|| {
                site.cli(&["snapshot", "create", "--name", &format!("n{number}")]).ok();
                Ok(())
            });
            is_over.store(true, Ordering::Relaxed);
            (created, writer.join())
        });
        took.push(created?.0.as_secs_f64() * 1e3);
        gaps.push(gap.map_err(|_| anyhow!("the writer panicked"))??);
    }
    took.sort_by(f64::total_cmp);
    gaps.sort_by(f64::total_cmp);
    let note = format!(
        "{snapshots} snapshots, the program's start included; longest {:.1} ms",
        at_share(&took, 1.0)
    );
    let stalls = format!(
        "the longest of each; of all {:.2} ms. Without a snapshot: {:.2} ms",
        at_share(&gaps, 1.0),
        quiet_gap(&site)?
    );
    Ok(vec![
        Measured::alone(format!("snapshot of {files} files"), "ms", at_share(&took, 0.5), note),
        Measured::alone(
            format!("… a writer of 4K waits (99 %), {files} files"),
            "ms",
            at_share(&gaps, 0.99),
            stalls,
        ),
    ])
}

/// The same without a snapshot, for as long: what the scheduler alone does to a writer.
fn quiet_gap(site: &Site) -> Result<f64> {
    let (is_over, path) = (AtomicBool::new(false), site.at("written"));
    let mut gaps = Vec::new();
    for _ in 0..20 {
        is_over.store(false, Ordering::Relaxed);
        let gap = thread::scope(|scope| {
            let writer = scope.spawn(|| longest_gap(&path, &is_over));
            thread::sleep(Duration::from_millis(60));
            is_over.store(true, Ordering::Relaxed);
            writer.join()
        });
        gaps.push(gap.map_err(|_| anyhow!("the writer panicked"))??);
    }
    gaps.sort_by(f64::total_cmp);
    Ok(at_share(&gaps, 0.99))
}

/// Writes until it is over; returns the longest time that one write took, in milliseconds.
fn longest_gap(path: &Path, is_over: &AtomicBool) -> std::io::Result<f64> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    let (mut longest, mut number) = (0.0_f64, 0_u64);
    while !is_over.load(Ordering::Relaxed) {
        let started = Instant::now();
        file.write_all_at(&[1; 4096], (number % 256) << 12)?;
        longest = longest.max(started.elapsed().as_secs_f64() * 1e3);
        number += 1;
    }
    Ok(longest)
}

fn tree(plain: &Path, files: u64) {
    for number in 0..files {
        let dir = plain.join(format!("d{}", number / FANOUT));
        if number % FANOUT == 0 {
            fs::create_dir(&dir).expect("a new directory");
        }
        File::create(dir.join(number.to_string())).expect("a new file");
    }
}

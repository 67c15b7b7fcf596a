//! How fast things come back.

use std::{fs, path::Path, process::Command};

use anyhow::{Result, ensure};
use harness::FsKind;

use crate::{
    site::{Site, fill, median, timed},
    table::Measured,
};

const FANOUT: u64 = 100;

pub(crate) fn measure(quick: bool) -> Result<Vec<Measured>> {
    let files = if quick { 1_000 } else { 30_000 };
    let site = Site::with(FsKind::Ext4, 4 << 30, |plain| {
        for number in 0..files {
            let dir = plain.join(format!("tree/d{}", number / FANOUT));
            if number % FANOUT == 0 {
                fs::create_dir_all(&dir).expect("a new directory");
            }
            fs::write(dir.join(number.to_string()), format!("file {number}\n")).expect("a new file");
        }
        fill(&plain.join("notebook"), 1 << 20, 1).expect("there is room");
    });
    let (mut undone, mut removed) = (Vec::new(), Vec::new());
    for _ in 0..if quick { 1 } else { 5 } {
        let (took, status) = timed(|| Ok(Command::new("rm").arg("-rf").arg(site.at("tree")).status()?))?;
        ensure!(status.success(), "rm failed");
        removed.push(took.as_secs_f64());
        let (took, _) = timed(|| Ok(site.cli(&["undo", "--yes"]).ok()))?;
        undone.push(took.as_secs_f64());
        ensure!(count(&site.at("tree"))? == files, "not all files came back");
    }
    let name = site.snapshot("all")?;
    let (mut restored, mut listed) = (Vec::new(), Vec::new());
    for number in 0..if quick { 3 } else { 20 } {
        let path = site.at("notebook");
        fs::remove_file(&path)?;
        let (took, _) = timed(|| Ok(site.cli(&["restore", "notebook", "--snapshot", "all"]).ok()))?;
        restored.push(took.as_secs_f64() * 1e3);
        ensure!(fs::metadata(&path)?.len() == 1 << 20, "the file did not come back whole");
        let dir = site.at(".snapshots").join(&name).join(format!("tree/d{number}"));
        let (took, entries) = timed(|| Ok(fs::read_dir(dir)?.count()))?;
        ensure!(entries as u64 == FANOUT, "{entries} files in a directory of the snapshot");
        listed.push(took.as_secs_f64() * 1e3);
    }
    Ok(vec![
        Measured::alone(
            format!("undo `rm -rf` of {files} files"),
            "s",
            median(&undone),
            format!("the removal itself took {:.2} s", median(&removed)),
        ),
        Measured::alone("restore one file of 1 MiB", "ms", median(&restored), "the program's start included"),
        Measured::alone("list a directory in a snapshot", "ms", median(&listed), "100 files, the first time"),
    ])
}

fn count(dir: &Path) -> Result<u64> {
    let mut files = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        files += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(files)
}

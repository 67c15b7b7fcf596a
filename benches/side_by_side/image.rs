//! The filesystem below all variants: a fresh ext4 in an image, so that every run starts from the same state.
//!
//! A private filesystem keeps other programs' files, an unusual mount option (`discard` makes each unlink wait
//! for the disk) and an aged free-space map out of the numbers. The image file has no name once it is attached,
//! and the loop device goes with its last mount: nothing is left, however the run ends.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// Three times what the variants hold at once.
const IMAGE_BYTES: u64 = 10 << 30;
/// Enough for the quick scale.
const QUICK_IMAGE_BYTES: u64 = 3 << 30;

/// How large the image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ImageSize {
    /// For the full scale.
    Full,
    /// For the quick scale.
    Quick,
}

impl ImageSize {
    fn bytes(self) -> u64 {
        match self {
            Self::Full => IMAGE_BYTES,
            Self::Quick => QUICK_IMAGE_BYTES,
        }
    }
}

/// Makes the image in `directory` and mounts it at `point`; `filler` is content that does not compress.
pub(crate) fn mount(directory: &Path, point: &Path, size: ImageSize, filler: &[u8]) -> Result<()> {
    let image = directory.join("image");
    fill(&image, size.bytes(), filler).context("cannot write the image of the test filesystem")?;
    // Direct I/O: no second page cache below the one that is measured.
    let device = run(Command::new("losetup").args(["--find", "--show", "--direct-io=on"]).arg(&image))?;
    let device = device.trim();
    let mounted = format_and_mount(device, point);
    // Still in use by the mount, the device only goes away with it.
    let detached = run(Command::new("losetup").args(["--detach", device]));
    fs::remove_file(&image)?;
    mounted?;
    detached.map(drop)
}

/// Writes all of the image: first writes to a hole would be slower than later ones.
fn fill(image: &Path, bytes: u64, filler: &[u8]) -> Result<()> {
    let mut file = File::create_new(image)?;
    for _ in 0..bytes / filler.len() as u64 {
        file.write_all(filler)?;
    }
    file.sync_all()?;
    // The loop device reads past the page cache; what lies there only takes room from what is measured.
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(())
}

fn format_and_mount(device: &str, point: &Path) -> Result<()> {
    fs::create_dir(point)?;
    let options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-E", options, device]))?;
    run(Command::new("mount").args(["-t", "ext4", "-o", "relatime", device]).arg(point)).map(drop)
}

fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output =
        output.with_context(|| format!("cannot run {name}; give a directory with --base to do without"))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{name} ended with {}: {}; give a directory with --base to do without",
            output.status,
            reason.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

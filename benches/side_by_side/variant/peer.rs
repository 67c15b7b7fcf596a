//! Filesystems by others, each with the options its users would choose for speed.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::{Mounted, spawn, version_of, wait_until};
use crate::cleanup::mounts_below;

/// Mounts the peer below `base` and waits until it is there.
pub(super) fn mount(name: &str, program: &Path, base: &Path) -> Result<Mounted> {
    let (backing, point, log) = (base.join("backing"), base.join("mount"), base.join("log"));
    std::fs::create_dir(&backing)?;
    std::fs::create_dir(&point)?;
    let mut command = Command::new(program);
    let version = match name {
        "passthrough_hp" => {
            command.arg("--foreground");
            version_of(program, "--version")?
        }
        "mergerfs" => {
            // Its 4 GiB of reserved space by default would make it refuse new files on a small filesystem.
            command.args(["-f", "-o", "cache.files=auto-full,minfreespace=1M"]);
            version_of(program, "--version")?
        }
        "bindfs" => {
            command.arg("-f");
            version_of(program, "--version")?
        }
        "gocryptfs" => {
            let password = base.join("password");
            std::fs::write(&password, "benchmark\n")?;
            initialise(program, &password, &backing)?;
            command.args(["-fg", "-quiet", "-passfile"]).arg(password);
            version_of(program, "--version")?
        }
        other => bail!("{other} is not a peer that this benchmark knows how to mount"),
    };
    command.arg(&backing).arg(&point);
    let (mut child, pid) = spawn(name, &mut command, &log, &point)?;
    wait_until(&mut child, &log, || Ok(!mounts_below(&point)?.is_empty()))?;
    Ok(Mounted { root: point, version: without_prefix(name, &version), daemons: vec![pid] })
}

fn initialise(program: &Path, password: &Path, backing: &Path) -> Result<()> {
    let output = Command::new(program)
        // A cheap key derivation: it runs once at mount and is not measured.
        .args(["-init", "-quiet", "-scryptn", "10", "-passfile"])
        .arg(password)
        .arg(backing)
        .stdin(Stdio::null())
        .output()
        .context("cannot run gocryptfs -init")?;
    if !output.status.success() {
        bail!(
            "gocryptfs -init ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Shortens "bindfs 1.14.7" and "mergerfs version: 2.33.5" to the number.
fn without_prefix(name: &str, version: &str) -> String {
    let rest = version.strip_prefix(name).unwrap_or(version).trim_start();
    let rest = rest.strip_prefix("version:").unwrap_or(rest).trim_start();
    rest.split([';', ' ']).next().unwrap_or(rest).to_owned()
}

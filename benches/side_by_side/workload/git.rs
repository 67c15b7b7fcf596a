//! git on the source tree, run as a user runs it.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{
    measure::{Measurement, time_job},
    site::Site,
};

/// Returns whether git is installed.
pub(crate) fn is_installed() -> bool {
    crate::variant::find_program("git").is_some()
}

fn git(site: &Site, arguments: &[&str]) -> Result<()> {
    let output = Command::new("git")
        .args([
            "-c",
            "gc.auto=0",
            "-c",
            "maintenance.auto=false",
            "-c",
            "user.name=bench",
            "-c",
            "user.email=bench@localhost",
        ])
        // A container's root meets files of any owner; without this git refuses the repository.
        .args(["-c", "safe.directory=*", "-c", "core.hooksPath=/dev/null"])
        .args(arguments)
        .current_dir(site.root.join(Site::TREE))
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .stdin(Stdio::null())
        .output()
        .context("cannot run git")?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!(
            "git {} ended with {}: {}",
            arguments.join(" "),
            output.status,
            reason.lines().next().unwrap_or("no message")
        );
    }
    Ok(())
}

/// Has the source tree there, without a repository.
pub(crate) fn without_repository(site: &Site) -> Result<()> {
    site.ensure_tree()?;
    site.remove_tree(&format!("{}/.git", Site::TREE))
}

/// Makes a repository and adds every file.
pub(crate) fn init_and_add(site: &Site) -> Result<Measurement> {
    time_job(|| {
        git(site, &["init", "--quiet"])?;
        git(site, &["add", "--all"])
    })
}

/// Has every file committed and the index fresh.
pub(crate) fn committed(site: &Site) -> Result<()> {
    site.ensure_tree()?;
    if !site.root.join(Site::TREE).join(".git").exists() {
        init_and_add(site)?;
    }
    if git(site, &["rev-parse", "--verify", "--quiet", "HEAD"]).is_err() {
        git(site, &["commit", "--quiet", "--message", "all"])?;
    }
    git(site, &["status", "--porcelain"])
}

/// Asks for the state of the work tree.
pub(crate) fn status(site: &Site) -> Result<Measurement> {
    time_job(|| git(site, &["status", "--porcelain"]))
}

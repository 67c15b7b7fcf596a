//! What the daemon says of itself and of what it holds.

use wsguard_api::{
    BackingInfo, Coherence, DaemonStatus, DataPath, DeliveryStatus, Workspace, WorkspaceState,
};

use crate::commands::doctor::check::Check;
use crate::output::count;

/// Above this share of its file descriptors the daemon is about to refuse opens.
const FD_WARNING_PERCENT: u64 = 80;

/// Looks at a daemon that answers.
pub(super) fn checks(status: &DaemonStatus) -> Vec<Check> {
    let mut checks = vec![version(status), descriptors(status)];
    for warning in &status.warnings {
        checks.push(Check::warning("daemon.warning", warning, "see the daemon's log"));
    }
    checks.extend(status.delivery.iter().filter(|channel| channel.is_enabled).map(delivery));
    checks.extend(status.workspaces.iter().flat_map(workspace));
    checks
}

fn version(status: &DaemonStatus) -> Check {
    const ID: &str = "daemon.version";
    let own = env!("CARGO_PKG_VERSION");
    if status.version == own {
        return Check::ok(
            ID,
            format!("{own} answers (keeper pid {}, worker pid {})", status.keeper_pid, status.worker_pid),
        );
    }
    Check::warning(
        ID,
        format!("the daemon is {}, this command is {own}", status.version),
        "restart the daemon with this binary",
    )
}

fn delivery(status: &DeliveryStatus) -> Check {
    const ID: &str = "daemon.delivery";
    let check = match (status.failed, status.dropped) {
        (0, 0) => Check::ok(ID, format!("{} delivered", count(status.delivered, "notice"))),
        (failed, dropped) => {
            let mut finding =
                format!("{failed} of {} did not get through", status.delivered + failed + dropped);
            if dropped > 0 {
                finding.push_str(&format!(", {dropped} were dropped because too many waited"));
            }
            if let Some(error) = &status.last_error {
                finding.push_str(&format!("; the last one: {error}"));
            }
            let advice = "correct [delivery] in the config, then try `wsguard quota notify --test`";
            Check::warning(ID, finding, advice)
        }
    };
    check.about(status.channel.word())
}

fn descriptors(status: &DaemonStatus) -> Check {
    const ID: &str = "daemon.descriptors";
    let finding = format!("{} of {} file descriptors are open", status.open_fds, status.fd_limit);
    if status.open_fds.saturating_mul(100) < status.fd_limit.saturating_mul(FD_WARNING_PERCENT) {
        return Check::ok(ID, finding);
    }
    Check::warning(ID, finding, "raise LimitNOFILE= of the daemon's service and restart it")
}

fn workspace(workspace: &Workspace) -> Vec<Check> {
    let mut checks = vec![state(workspace)];
    if matches!(workspace.state, WorkspaceState::Mounted) {
        checks.extend(workspace.data_path.as_ref().map(data_path));
        checks.extend(workspace.coherence.as_ref().map(coherence));
    }
    if let Some(found) = &workspace.backing {
        checks.extend(backing(found));
    }
    if let Some(changed) = &workspace.changed_outside {
        checks.push(Check::warning(
            "workspace.changed-outside",
            format!(
                "{} files or directories changed while nothing was mounted, since {}",
                changed.entries, changed.since
            ),
            "look at them; keep the daemon running, and `wsguard mount` what is to be guarded",
        ));
    }
    checks.into_iter().map(|check| check.about(&workspace.name)).collect()
}

fn state(workspace: &Workspace) -> Check {
    const ID: &str = "workspace.state";
    let place = workspace.mount_point.display();
    match &workspace.state {
        WorkspaceState::Mounted => Check::ok(ID, format!("mounted at {place}")),
        WorkspaceState::Unmounted => Check::info(ID, format!("{place} was unmounted on request")),
        WorkspaceState::Dead => Check::problem(
            ID,
            format!("the mount at {place} is dead: every access fails with ENOTCONN"),
            format!("restart the daemon, or run `wsguard umount {}` and mount it again", workspace.id),
        ),
        WorkspaceState::Failed { reason } => Check::problem(
            ID,
            format!("{place} could not be mounted: {reason}"),
            format!("remove the reason, then run `wsguard mount {}`", workspace.dir.display()),
        ),
    }
}

fn data_path(found: &DataPath) -> Check {
    const ID: &str = "workspace.data-path";
    match found {
        DataPath::Passthrough => Check::ok(ID, "passthrough"),
        DataPath::Cached { reason } => Check::warning(
            ID,
            format!("reads go through the daemon, several times slower: {reason}"),
            "run the daemon as root of the host, on a kernel 6.9 or later",
        ),
    }
}

fn coherence(found: &Coherence) -> Check {
    const ID: &str = "workspace.coherence";
    match found {
        Coherence::Watched { directories } => {
            Check::ok(ID, format!("{} watched", count(*directories, "directory")))
        }
        Coherence::Starting => Check::info(ID, "the watch is being set up"),
        Coherence::ShortTtl { reason } => Check::warning(
            ID,
            format!("attributes are trusted for a second only, which costs speed: {reason}"),
            "raise fs.inotify.max_user_watches, or the watch limit in the config",
        ),
    }
}

fn backing(found: &BackingInfo) -> Vec<Check> {
    const ID: &str = "workspace.backing";
    let abilities = [
        (found.reflink, "reflink"),
        (found.file_handles, "file handles"),
        (found.acl, "ACLs"),
        (found.xattr, "extended attributes"),
        (found.project_quota, "project quota"),
    ];
    let list = |wanted: bool| {
        let names: Vec<&str> =
            abilities.iter().filter(|(has, _)| *has == wanted).map(|(_, name)| *name).collect();
        if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
    };
    let mut checks =
        vec![Check::info(ID, format!("{} has {}; it lacks {}", found.filesystem, list(true), list(false)))];
    if found.read_only {
        checks.push(Check::warning(
            ID,
            format!("{} on {} is read-only", found.filesystem, found.device),
            "remount it read-write if it should not be; errors on the disk have this effect, see `dmesg`",
        ));
    }
    if !found.file_handles {
        checks.push(Check::warning(
            ID,
            format!("{} has no file handles: each known file holds a descriptor", found.filesystem),
            "keep large workspaces on ext4, xfs or btrfs",
        ));
    }
    if !(found.acl && found.xattr) {
        checks.push(Check::warning(
            ID,
            format!("{} loses ACLs or extended attributes", found.filesystem),
            "mount it with `acl,user_xattr`, or keep the workspace on ext4, xfs or btrfs",
        ));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::check::Level;
    use crate::commands::samples;

    fn worst(found: &Workspace) -> Level {
        let levels = workspace(found).into_iter().map(|check| check.level);
        levels.max_by_key(|level| *level as u8).unwrap()
    }

    #[test]
    fn a_healthy_workspace_raises_nothing() {
        assert_eq!(worst(&samples::workspace("bert")), Level::Info);
    }

    #[test]
    fn a_dead_mount_is_a_problem_and_an_unmounted_one_is_not() {
        let mut found = samples::workspace("bert");
        found.state = WorkspaceState::Dead;
        assert_eq!(worst(&found), Level::Problem);
        found.state = WorkspaceState::Unmounted;
        assert_eq!(worst(&found), Level::Info);
    }

    #[test]
    fn a_backing_without_handles_or_write_access_is_a_warning() {
        let mut found = samples::workspace("bert");
        found.backing.as_mut().unwrap().file_handles = false;
        assert_eq!(worst(&found), Level::Warning);
        found.backing.as_mut().unwrap().file_handles = true;
        found.backing.as_mut().unwrap().read_only = true;
        assert_eq!(worst(&found), Level::Warning);
    }
}

//! Directories below the configured roots: found, guarded, or listed with the reason why not.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use glob::{MatchOptions, Pattern};
use tracing::{info, warn};
use wsguard_api::{ApiError, MountAllFailure, MountAllReport, SCHEMA_VERSION, UnguardedDirectory, Workspace};

use super::driver::{Driver, Refusal, default_ownership, new_id};
use crate::catalog::{WantedState, WorkspaceRecord};
use crate::error_chain::one_line;
use crate::mounting::{self, check_form, check_name, check_overlap, check_own};

/// How long a directory that could not be guarded is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// Pause after a search as a multiple of the time that it looked around, so that a user who makes and removes
/// directories without end does not keep the driver from its other jobs.
const SEARCH_PAUSE: u32 = 9;

/// A hidden directory is matched by a pattern that names the dot only.
const MATCHING: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// Returns the entries that match an absolute pattern, sorted within each directory. `watch` is called with every
/// directory in which another one could appear, before it is looked into.
///
/// Not by the glob crate's own walk: that follows symbolic links, which users can set to anywhere, and panics on
/// a name that is not UTF-8 (0.3.4). Such a name is matched by its lossy form here.
fn expand(root: &str, mut watch: impl FnMut(&Path)) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/")];
    for part in root.split('/').filter(|part| !part.is_empty()) {
        // Checked when the config was read.
        let Ok(pattern) = Pattern::new(part) else { return Vec::new() };
        found = found.iter().flat_map(|dir| matching_entries(dir, part, &pattern, &mut watch)).collect();
    }
    found
}

fn matching_entries(
    dir: &Path,
    part: &str,
    pattern: &Pattern,
    watch: &mut impl FnMut(&Path),
) -> Vec<PathBuf> {
    let is_directory = |path: &Path| std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    if Pattern::escape(part) == part {
        let path = dir.join(part);
        // A home directory is busy; it is watched only until the one that counts is there.
        if !is_directory(&path) {
            watch(dir);
        }
        return vec![path];
    }
    // Also a user's link to a directory: what lies behind it is not theirs to have guarded.
    if !is_directory(dir) {
        return Vec::new();
    }
    watch(dir);
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let directories =
        entries.filter_map(Result::ok).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut names: Vec<_> = directories.map(|entry| entry.file_name()).collect();
    names.retain(|name| pattern.matches_with(&name.to_string_lossy(), MATCHING));
    names.sort_unstable();
    names.into_iter().map(|name| dir.join(name)).collect()
}

/// A directory that matches a root.
struct Candidate {
    dir: PathBuf,
    owner_uid: u32,
}

impl Driver {
    /// Guards every directory below the roots that is new, and notes why others are not guarded.
    pub(super) fn scan_roots(&mut self) {
        let mut unguarded = Vec::new();
        let mut guarded = Vec::new();
        for candidate in self.candidates() {
            if self.jobs.is_stopping() {
                return;
            }
            match self.known_reason(&candidate.dir) {
                Some(Known::Guarded) => {}
                Some(Known::Reason(reason)) => unguarded.push(listed(&candidate, reason)),
                None => match self.guard_candidate(&candidate.dir) {
                    Ok(workspace) => guarded.push(workspace.id),
                    Err(error) => {
                        warn!(dir = %candidate.dir.display(), reason = %error.message, "directory below a root is not guarded");
                        unguarded.push(listed(&candidate, error.message.clone()));
                        let retry_at = Instant::now() + RETRY_AFTER;
                        self.refusals.insert(candidate.dir, Refusal { reason: error.message, retry_at });
                    }
                },
            }
        }
        self.note_bypassing(&guarded);
        self.refusals.retain(|_, refusal| refusal.retry_at > Instant::now());
        self.registry.set_unguarded(unguarded);
    }

    /// Guards everything that is registered or matches a root, except for what was forgotten on request.
    pub(super) fn mount_all(&mut self) -> MountAllReport {
        let mut report =
            MountAllReport { schema: SCHEMA_VERSION, mounted: Vec::new(), already: 0, failed: Vec::new() };
        for id in self.registry.ids() {
            if self.registry.mounted(&id).is_some() {
                report.already += 1;
                continue;
            }
            let Ok(record) = self.registry.record(&id) else { continue };
            let dir = record.dir.clone();
            let result = self.mount_record(record);
            enter(&mut report, dir, result);
        }
        self.refusals.clear();
        for candidate in self.candidates() {
            if self.known_reason(&candidate.dir).is_none() {
                let result = self.guard_candidate(&candidate.dir);
                enter(&mut report, candidate.dir, result);
            }
        }
        self.scan_roots();
        let mounted: Vec<String> = report.mounted.iter().map(|workspace| workspace.id.clone()).collect();
        self.note_bypassing(&mounted);
        for workspace in &mut report.mounted {
            // Unmounted by nobody: this thread is the only one that does.
            if let Ok(now) = self.registry.view_of(&workspace.id) {
                *workspace = now;
            }
        }
        report
    }

    /// Shows a directory that lost its guard as unguarded if it lies below a root, without waiting for a search.
    pub(super) fn note_unguarded(&self, record: &WorkspaceRecord) {
        if self.matches_roots(&record.dir)
            && let Some(Known::Reason(reason)) = self.known_reason(&record.dir)
        {
            let candidate = Candidate { dir: record.dir.clone(), owner_uid: record.owner_uid };
            self.registry.note_unguarded(&record.dir, Some(listed(&candidate, reason)));
        }
    }

    /// Returns whether a directory matches a configured root.
    pub(super) fn matches_roots(&self, dir: &Path) -> bool {
        let matches =
            |root: &String| Pattern::new(root).is_ok_and(|pattern| pattern.matches_path_with(dir, MATCHING));
        self.config.roots.iter().any(matches)
    }

    fn candidates(&mut self) -> Vec<Candidate> {
        let mut found: Vec<Candidate> = Vec::new();
        for dir in self.expand_roots() {
            if found.iter().any(|candidate| candidate.dir == dir) {
                continue;
            }
            if let Some(owner_uid) = self.owner_if_directory(&dir) {
                found.push(Candidate { dir, owner_uid });
            }
        }
        found
    }

    fn expand_roots(&mut self) -> Vec<PathBuf> {
        let begun = Instant::now();
        let guarded = self.registry.occupied();
        let mut watch = |dir: &Path| {
            if !guarded.iter().any(|place| dir.starts_with(&place.mount_point)) {
                self.roots_watch.name(dir);
            }
        };
        let found = self.config.roots.iter().flat_map(|root| expand(root, &mut watch)).collect();
        self.roots_watch.finish_search();
        self.next_search = Instant::now() + begun.elapsed() * SEARCH_PAUSE;
        found
    }

    /// Asks the filesystem only about directories that we do not guard: no request to our own mounts.
    fn owner_if_directory(&self, dir: &Path) -> Option<u32> {
        if let Some(record) = self.registry.find_dir(dir) {
            return Some(record.owner_uid);
        }
        if self.registry.occupied().iter().any(|place| dir.starts_with(&place.mount_point)) {
            return None;
        }
        let metadata = std::fs::symlink_metadata(dir).ok()?;
        metadata.is_dir().then(|| metadata.uid())
    }

    fn known_reason(&self, dir: &Path) -> Option<Known> {
        if let Some(record) = self.registry.find_dir(dir) {
            if self.registry.mounted(&record.id).is_some() {
                return Some(Known::Guarded);
            }
            let reason = match record.wanted {
                WantedState::Unmounted => "unmounted on request; `wsguard mount` guards it again",
                WantedState::Mounted => "could not be mounted; see `wsguard ls`",
            };
            return Some(Known::Reason(reason.to_owned()));
        }
        match self.catalog.is_forgotten(dir) {
            Ok(true) => {
                return Some(Known::Reason(
                    "forgotten on request; `wsguard mount` guards it again".to_owned(),
                ));
            }
            Ok(false) => {}
            Err(error) => return Some(Known::Reason(one_line(&error))),
        }
        let refusal = self.refusals.get(dir).filter(|refusal| refusal.retry_at > Instant::now())?;
        Some(Known::Reason(refusal.reason.clone()))
    }

    fn guard_candidate(&mut self, dir: &Path) -> Result<Workspace, ApiError> {
        let record = self.candidate_record(dir)?;
        info!(dir = %dir.display(), "directory below a root found");
        self.mount_record(record)
    }

    fn candidate_record(&self, dir: &Path) -> Result<WorkspaceRecord, ApiError> {
        let check = || {
            let dir = check_form(dir)?;
            check_own(&dir, &[&self.config.state_dir, &self.config.runtime_dir])?;
            check_overlap(&dir, None, &self.registry.occupied())?;
            let owner = mounting::owner_of(&dir)?;
            Ok((dir, owner))
        };
        let (dir, owner) = check().map_err(|error: mounting::MountError| error.to_api())?;
        Ok(WorkspaceRecord {
            id: new_id()?,
            name: self.free_name(&dir, owner.uid).map_err(|error| error.to_api())?,
            dir,
            at: None,
            owner_uid: owner.uid,
            owner_gid: owner.gid,
            ownership: default_ownership(owner.uid),
            from_roots: true,
            wanted: WantedState::Mounted,
            created_at: jiff::Timestamp::now(),
            last_unmounted_at: None,
            last_alive_at: None,
            identity: None,
        })
    }

    /// Two users may have projects of one name: the second one's gets its owner's uid, then a number.
    pub(super) fn free_name(&self, dir: &Path, uid: u32) -> Result<String, mounting::MountError> {
        let plain = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        check_name(&plain)?;
        let occupied = self.registry.occupied();
        let is_free = |name: &String| !occupied.iter().any(|place| place.name == *name);
        let numbered = (2_u32..).map(|number| format!("{plain}-{uid}-{number}"));
        let mut names = [plain.clone(), format!("{plain}-{uid}")].into_iter().chain(numbered);
        Ok(names.find(is_free).unwrap_or(plain))
    }
}

enum Known {
    Guarded,
    Reason(String),
}

fn listed(candidate: &Candidate, reason: String) -> UnguardedDirectory {
    // The wire carries UTF-8; a path that is not is shown lossily and its reason says so.
    let dir = PathBuf::from(candidate.dir.to_string_lossy().into_owned());
    UnguardedDirectory { dir, owner_uid: candidate.owner_uid, reason }
}

fn enter(report: &mut MountAllReport, dir: PathBuf, result: Result<Workspace, ApiError>) {
    match result {
        Ok(workspace) => report.mounted.push(workspace),
        Err(error) => {
            let dir = PathBuf::from(dir.to_string_lossy().into_owned());
            report.failed.push(MountAllFailure { dir, error });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn pattern_matches_directories_of_any_name_but_follows_no_links() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path().canonicalize().unwrap();
        let odd = OsStr::from_bytes(b"odd\xff");
        for dir in ["u1/workspace/a", "u1/workspace/.hidden", "u1/other/x", "u2"] {
            std::fs::create_dir_all(base.join(dir)).unwrap();
        }
        std::fs::create_dir(base.join("u1/workspace").join(odd)).unwrap();
        std::os::unix::fs::symlink(base.join("u1/workspace"), base.join("u2/workspace")).unwrap();
        std::os::unix::fs::symlink(base.join("u1"), base.join("u3")).unwrap();
        std::os::unix::fs::symlink("/etc", base.join("u1/workspace/link")).unwrap();
        let workspace = base.join("u1/workspace");
        let mut watched = Vec::new();
        let found = expand(&format!("{}/*/workspace/*", base.display()), |dir| watched.push(dir.to_owned()));
        assert_eq!(found, [workspace.join("a"), workspace.join(odd)]);
        // `u2` because a directory may take the place of the link.
        assert_eq!(watched, [base.clone(), base.join("u2"), workspace]);
    }
}

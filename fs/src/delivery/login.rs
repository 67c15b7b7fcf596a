//! Login messages: a file for each user with the latest notices, `<runtime>/motd/<uid>`, which only the user may read.
//!
//! `wsguard quota shell-hook` prints what a login shell does with it. Lines look like those of `.wsguard/notices`.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use rustix::fs::Uid;

use super::{DeliveryError, Notice, Reached, Way};

/// The directory's name.
const DIRECTORY: &str = "motd";

/// Users reach their own file by its name; nobody sees whose there are.
const DIRECTORY_MODE: u32 = 0o711;

/// Notices that a file holds at most.
const KEPT: usize = 20;

/// How old they get.
const KEPT_FOR: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Why a login message was not stored.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the login message {path}", path = path.display())]
pub(super) struct LoginError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// See the module.
pub(super) struct LoginFiles {
    directory: PathBuf,
    kept: BTreeMap<u32, VecDeque<(Timestamp, String)>>,
}

impl LoginFiles {
    /// Begins with what was told before.
    pub(super) fn new(runtime_dir: &Path, past: &[Notice]) -> Self {
        let mut files = Self { directory: runtime_dir.join(DIRECTORY), kept: BTreeMap::new() };
        past.iter().for_each(|notice| {
            files.add(notice);
        });
        files
    }

    /// Returns the users whose files changed.
    fn add(&mut self, notice: &Notice) -> Vec<u32> {
        let mut readers = notice.readers.clone();
        if notice.is_for_admins {
            readers.push(0);
        }
        readers.sort_unstable();
        readers.dedup();
        for reader in &readers {
            let lines = self.kept.entry(*reader).or_default();
            if lines.len() == KEPT {
                lines.pop_front();
            }
            lines.push_back((notice.at, notice.message.clone()));
            let is_old = |at: Timestamp| notice.at.duration_since(at) > KEPT_FOR;
            while lines.front().is_some_and(|(at, _)| is_old(*at)) {
                lines.pop_front();
            }
        }
        readers
    }

    /// Replaces a file, so that a reader finds the old one or the new one.
    fn store(&self, uid: u32) -> Result<(), LoginError> {
        let path = self.directory.join(uid.to_string());
        let lines = self.kept.get(&uid).into_iter().flatten();
        let text: String = lines.map(|(at, message)| format!("{at} {message}\n")).collect();
        self.replace(&path, uid, text.as_bytes()).map_err(|source| LoginError { path, source })
    }

    fn replace(&self, path: &Path, uid: u32, text: &[u8]) -> std::io::Result<()> {
        match DirBuilder::new().mode(DIRECTORY_MODE).create(&self.directory) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // The directory is root's own, so the name is nobody else's; what an earlier worker left is taken away.
        let temporary = self.directory.join(format!(".{uid}"));
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&temporary)?;
        file.write_all(text)?;
        rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), None)?;
        std::fs::rename(&temporary, path)
    }
}

impl Way for LoginFiles {
    fn deliver(&mut self, notice: &Notice) -> Result<Reached, DeliveryError> {
        let readers = self.add(notice);
        if readers.is_empty() {
            return Ok(Reached::Nobody("it concerns no user"));
        }
        for reader in &readers {
            self.store(*reader)?;
        }
        let names: Vec<String> = readers.iter().map(|uid| format!("uid {uid}")).collect();
        Ok(Reached::Somebody(format!("the login message of {}", names.join(", "))))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::super::sample;
    use super::*;

    #[test]
    fn file_is_the_readers_own_and_holds_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = LoginFiles::new(dir.path(), &[sample("before the restart")]);
        for number in 0..KEPT {
            files.deliver(&sample(&format!("notice {number}"))).unwrap();
        }
        let uid = rustix::process::getuid().as_raw();
        let path = dir.path().join("motd").join(uid.to_string());
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), KEPT);
        assert_eq!(text.lines().next(), Some("2030-01-01T12:00:00Z notice 0"));
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (uid, 0o400));
        assert_eq!(std::fs::metadata(dir.path().join("motd")).unwrap().mode() & 0o7777, DIRECTORY_MODE);
    }

    #[test]
    fn what_is_a_week_old_goes_when_something_new_comes() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = LoginFiles::new(dir.path(), &[sample("old")]);
        let at = sample("").at.checked_add(KEPT_FOR + SignedDuration::from_secs(1)).unwrap();
        files.deliver(&Notice { at, ..sample("new") }).unwrap();
        let uid = rustix::process::getuid().as_raw();
        let text = std::fs::read_to_string(dir.path().join("motd").join(uid.to_string())).unwrap();
        assert!(text.ends_with(" new\n") && text.lines().count() == 1, "{text}");
    }

    #[test]
    fn directory_that_cannot_be_made_is_an_error_that_names_the_file() {
        let mut files = LoginFiles::new(Path::new("/nonexistent"), &[]);
        let error = files.deliver(&sample("x")).unwrap_err().to_string();
        assert!(error.starts_with("cannot write the login message /nonexistent/motd/"), "{error}");
        let nobody = Notice { readers: Vec::new(), ..sample("x") };
        assert!(matches!(files.deliver(&nobody), Ok(Reached::Nobody(_))));
    }
}

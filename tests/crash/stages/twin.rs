use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use harness::{Backing, Daemon, GuardMount, Scratch, wait_until};

use super::operations::Observed;

/// A worker that lives shorter counts towards a crash loop.
const OLD_ENOUGH: Duration = Duration::from_millis(560);

/// How long a worker may take to die where it was told to.
const DIES_WITHIN: Duration = Duration::from_secs(5);

/// How long the kernel may take to let go of everything.
const SETTLES_WITHIN: Duration = Duration::from_secs(20);

/// Whether the binary was built with fail points.
pub(super) fn has_fail_points() -> bool {
    cfg!(debug_assertions) || std::env::var("WSGUARD_FAIL_POINTS_BUILT").is_ok_and(|value| value == "1")
}

/// A mount whose workers kill themselves where they are told to, and a plain directory that goes through the same.
pub(super) struct Twin {
    mount: GuardMount,
    plain: Scratch,
    /// Where the workers look for what to do.
    list: PathBuf,
    trees: usize,
    last_death: Instant,
    deaths: u64,
}

impl Twin {
    pub(super) fn new(deadline: Duration) -> Self {
        Self::new_on(Backing::Directory, deadline)
    }

    pub(super) fn new_on(backing: Backing, deadline: Duration) -> Self {
        Self::configured(backing, deadline, "")
    }

    /// As [`Self::new_on`], with this config file.
    pub(super) fn configured(backing: Backing, deadline: Duration, config: &str) -> Self {
        let plain = Scratch::new();
        let list = plain.path().join("fail-points");
        let daemon = Daemon::builder()
            .config(config)
            .env("WSGUARD_FAIL_POINTS", list.to_str().unwrap())
            .deadline(deadline);
        let mount = GuardMount::builder().backing(backing).daemon(daemon).mount();
        let (trees, deaths, last_death) = (0, 0, Instant::now());
        Self { mount, plain, list, trees, last_death, deaths }
    }

    fn name(&self) -> String {
        format!("tree-{}", self.trees)
    }

    fn mounted(&self) -> PathBuf {
        self.mount.path().join(self.name())
    }

    fn unguarded(&self) -> PathBuf {
        self.plain.path().join(self.name())
    }

    /// Bytes that are used on the filesystem below.
    pub(super) fn used_bytes(&self) -> u64 {
        let space = rustix::fs::statvfs(self.mount.backing().path()).unwrap();
        (space.f_blocks - space.f_bfree) * space.f_frsize
    }

    /// Begins with an empty directory on both sides.
    pub(super) fn fresh_tree(&mut self) {
        self.trees += 1;
        for dir in [self.mounted(), self.unguarded()] {
            fs::create_dir(dir).unwrap();
        }
    }

    /// Lets the next worker die at the first stage of that request, its successor at the second, and so on.
    pub(super) fn arm(&mut self, request: &str, stages: &[&str]) {
        thread::sleep(OLD_ENOUGH.saturating_sub(self.last_death.elapsed()));
        let text: String = stages.iter().map(|stage| format!("{request} {stage}\n")).collect();
        let next = self.list.with_extension("new");
        fs::write(&next, text).unwrap();
        fs::rename(next, &self.list).unwrap();
    }

    /// Deaths that have not happened yet.
    fn due(&self) -> usize {
        fs::read_to_string(&self.list).map_or(0, |text| text.lines().count())
    }

    /// Takes back what has not happened; returns how many deaths there were of `armed`.
    pub(super) fn disarm(&mut self, armed: usize) -> usize {
        // One that comes after the answer is on its way.
        let started = Instant::now();
        while self.due() > 0 && started.elapsed() < Duration::from_millis(60) {
            thread::sleep(Duration::from_millis(2));
        }
        let died = armed - self.due();
        fs::write(&self.list, "").unwrap();
        self.note_deaths(died);
        died
    }

    fn note_deaths(&mut self, died: usize) {
        if died > 0 {
            self.last_death = Instant::now();
            self.deaths += died as u64;
        }
    }

    /// Waits until every death that was ordered has happened.
    pub(super) fn wait_for_deaths(&mut self, armed: usize) -> Result<(), String> {
        let started = Instant::now();
        while self.due() > 0 {
            if started.elapsed() > DIES_WITHIN {
                fs::write(&self.list, "").unwrap();
                return Err("no worker came to that stage".to_owned());
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.note_deaths(armed);
        Ok(())
    }

    /// Runs a step on both sides and compares what it observes.
    pub(super) fn in_both(&self, step: impl Fn(&Path) -> Observed) -> Result<(), String> {
        let expected = step(&self.unguarded());
        let found = step(&self.mounted());
        if found == expected { Ok(()) } else { Err(format!("returned {found:?} instead of {expected:?}")) }
    }

    /// Compares the trees through the mount and below it with the plain one.
    pub(super) fn compare(&self) -> Result<(), String> {
        let expected = picture(&self.unguarded());
        for (place, dir) in
            [("the mount", self.mounted()), ("the files below", self.mount.backing_path().join(self.name()))]
        {
            let found = picture(&dir);
            if found != expected {
                return Err(format!("{place} shows {found:#?} instead of {expected:#?}"));
            }
        }
        Ok(())
    }

    /// Checks that the workers left nothing behind and were as many as died.
    pub(super) fn finish(self) {
        for entry in fs::read_dir(self.mount.path()).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
        let daemon = self.mount.daemon();
        let id = &self.mount.workspace().id;
        wait_until("the last worker to answer commands", SETTLES_WITHIN, || daemon.cli(["status"]).code == 0);
        wait_until("everything to be closed", SETTLES_WITHIN, || daemon.workspace(id).open_handles == 0);
        assert_eq!(daemon.status().generation, self.deaths + 1, "one worker after each death");
    }
}

/// Everything that a tree shows, by path.
fn picture(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut ahead = vec![root.to_path_buf()];
    while let Some(path) = ahead.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let kind = stat.file_type();
        let shown = if kind.is_dir() {
            ahead.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else if kind.is_symlink() {
            format!("to {:?}", fs::read_link(&path).unwrap())
        } else if kind.is_file() {
            format!("{:?} {:?}", String::from_utf8_lossy(&fs::read(&path).unwrap()), attributes(&path))
        } else {
            format!("fifo {} device {}", kind.is_fifo(), stat.rdev())
        };
        let links = if kind.is_dir() { 0 } else { stat.nlink() };
        let text = format!("{:o} {links} links, {}:{}, {shown}", stat.mode(), stat.uid(), stat.gid());
        found.insert(path.strip_prefix(root).unwrap().to_path_buf(), text);
    }
    found
}

fn attributes(path: &Path) -> Vec<String> {
    let mut names = [0; 1024];
    let length = rustix::fs::listxattr(path, &mut names[..]).unwrap();
    let names = names[..length].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user."));
    let mut found: Vec<String> = names
        .map(|name| {
            let name = std::str::from_utf8(name).unwrap();
            let mut value = [0; 64];
            let length = rustix::fs::getxattr(path, name, &mut value[..]).unwrap();
            format!("{name}={}", String::from_utf8_lossy(&value[..length]))
        })
        .collect();
    found.sort();
    found
}

//! Cuts at random points.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::ffi::OsStrExt,
    panic,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use harness::{Facility, FsKind, Random};
use wsguard_api::SnapshotSafety;

use super::{
    actor::Actor,
    machine::{Cache, Care, Machine},
    picture::Picture,
};

/// The last moment at which the power goes, after the first operation, milliseconds. Filesystems write their journals
/// back every five seconds, and bytes every thirty.
const LATEST_MS: u64 = 12_000;

/// How many cuts there are in all.
fn cuts() -> u64 {
    std::env::var("WSGUARD_POWER_CUTS")
        .map_or(6, |text| text.parse().expect("WSGUARD_POWER_CUTS is a number"))
}

/// How many cuts there are in the strict mode.
fn strict_cuts() -> u64 {
    std::env::var("WSGUARD_STRICT_POWER_CUTS")
        .map_or(1, |text| text.parse().expect("WSGUARD_STRICT_POWER_CUTS is a number"))
}

fn first_seed() -> u64 {
    std::env::var("WSGUARD_SEED")
        .map_or_else(|_| Random::seed_of_now(), |text| text.parse().expect("WSGUARD_SEED is a number"))
}

/// A snapshot of which it is known what it shows.
struct Taken {
    name: String,
    picture: Picture,
    /// When it was known to be durable.
    durable: Option<Instant>,
}

/// A file that was written, and synchronised with its directory.
struct Synced {
    name: String,
    content: Vec<u8>,
    at: Instant,
}

/// What was done until the power went.
struct Story<'a> {
    machine: &'a Machine,
    top: &'a Path,
    actor: Actor,
    taken: Vec<Taken>,
    synced: Vec<Synced>,
}

impl Story<'_> {
    /// Takes a snapshot in one of three ways.
    fn take(&mut self) {
        let Ok(picture) = Picture::of(self.top) else { return };
        let name = format!("s{}", self.taken.len());
        let is_synced = self.actor.random.below(3) == 0;
        let command = |options: &[&str]| {
            let command = self.machine.daemon().command().args(["snapshot", "create", "--name", &name]);
            command.args(options).arg(self.machine.path()).output().code == 0
        };
        let is_taken = if is_synced {
            command(&["--sync"])
        } else {
            match fs::create_dir(self.machine.path().join(".snapshots").join(&name)) {
                Ok(()) => true,
                // There were too many in a short time.
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => command(&[]),
                Err(_) => false,
            }
        };
        if !is_taken {
            return;
        }
        let now = Instant::now();
        self.taken.push(Taken { name, picture, durable: None });
        if is_synced {
            // The older ones are with it.
            self.taken.iter_mut().for_each(|taken| taken.durable = taken.durable.or(Some(now)));
        }
    }

    /// Asks which snapshots the daemon itself has made durable.
    fn ask(&mut self) {
        let Some(list) = self.machine.list() else { return };
        let now = Instant::now();
        for taken in &mut self.taken {
            let is_durable = list.items.iter().any(|snapshot| {
                snapshot.name.as_ref() == Some(&taken.name) && snapshot.safety == SnapshotSafety::Durable
            });
            if is_durable {
                taken.durable = taken.durable.or(Some(now));
            }
        }
    }

    fn write_synced(&mut self) {
        let name = format!("synced-{}", self.synced.len() % 5);
        let length = 1 + self.actor.random.below(100_000);
        let seed = self.actor.random.number();
        let content: Vec<u8> = (0..length).map(|at| (seed >> (at % 56)) as u8).collect();
        let write = || {
            let mut file = File::create(self.top.join(&name))?;
            file.write_all(&content)?;
            file.sync_all()?;
            File::open(self.top)?.sync_all()
        };
        // What was there until now may be gone from here on.
        self.synced.retain(|synced| synced.name != name);
        if write().is_ok() {
            self.synced.push(Synced { name, content, at: Instant::now() });
        } else {
            // Numbers go on, so that no older one is looked for under this name.
            self.synced.push(Synced { name: String::new(), content, at: Instant::now() });
        }
    }

    fn step(&mut self) {
        // Errors are answers as well.
        drop(self.actor.step());
        match self.actor.random.below(60) {
            0..4 => self.take(),
            4..8 => self.write_synced(),
            8 => self.ask(),
            9..12 => {
                let pause = self.actor.random.below(100);
                thread::sleep(Duration::from_millis(pause));
            }
            // Long enough for the journal to be written back.
            12 if self.actor.random.below(4) == 0 => thread::sleep(Duration::from_secs(5)),
            _ => {}
        }
    }
}

fn cut(seed: u64, kind: FsKind, cache: Cache, care: Care) {
    let context = format!("seed {seed}, {kind:?}, cache {cache:?}, {care:?}");
    let mut machine = Machine::new(kind, cache, care);
    let top = machine.path().join("tree");
    fs::create_dir(&top).expect("a directory can be made");
    let mut random = Random::new(seed ^ 0x5eed);
    let moment = Duration::from_millis(random.below(LATEST_MS));
    let is_cut = AtomicBool::new(false);
    let actor = Actor::new(seed, top.clone(), kind != FsKind::Ext4);
    let mut story = Story { machine: &machine, top: &top, actor, taken: Vec::new(), synced: Vec::new() };
    let mut cut_at = Instant::now();
    thread::scope(|scope| {
        let cutter = scope.spawn(|| {
            thread::sleep(moment);
            let at = Instant::now();
            machine.source_of_power().cut_power();
            is_cut.store(true, Ordering::Release);
            at
        });
        while !is_cut.load(Ordering::Acquire) {
            story.step();
        }
        cut_at = cutter.join().expect("the power can be cut");
    });
    let Story { taken, synced, actor, .. } = story;
    // Its open files hold the filesystem.
    drop(actor);
    machine.start_again();
    check_snapshots(&machine, &top, &taken, cut_at, &context);
    for file in synced.iter().filter(|file| !file.name.is_empty() && file.at < cut_at) {
        let found = fs::read(top.join(&file.name));
        assert!(
            found.as_ref().is_ok_and(|found| *found == file.content),
            "{context}: {} was synchronised",
            file.name
        );
    }
    check_store(&machine, &taken, cut_at, &context);
    // Life goes on: everything is deleted, and the worker dies as well.
    match fs::remove_dir_all(&top) {
        Ok(()) => {}
        // Made too shortly before the cut.
        Err(error)
            if error.kind() == std::io::ErrorKind::NotFound
                && taken.iter().all(|taken| taken.durable.is_none()) => {}
        Err(error) => panic!("{context}: the tree cannot be removed: {error}"),
    }
    fs::create_dir(machine.path().join(".snapshots/after")).expect("a snapshot can be taken");
    harness::kill(machine.daemon().worker_pid(), rustix::process::Signal::KILL);
    check_snapshots(&machine, &top, &taken, cut_at, &format!("{context}, after the tree was removed"));
    check_store(&machine, &taken, cut_at, &context);
}

/// Durable snapshots are as they were; others too, if they are there.
fn check_snapshots(machine: &Machine, top: &Path, taken: &[Taken], cut_at: Instant, context: &str) {
    let list = machine.list().unwrap_or_else(|| panic!("{context}: snapshots cannot be listed"));
    let mut durable = 0;
    let mut problems = Vec::new();
    for taken in taken {
        let must_be_there = taken.durable.is_some_and(|at| at < cut_at);
        durable += usize::from(must_be_there);
        let kind = if must_be_there { "durable" } else { "sealed" };
        let listed = list.items.iter().find(|snapshot| snapshot.name.as_ref() == Some(&taken.name));
        let Some(listed) = listed else {
            if must_be_there {
                problems.push(format!("{kind} snapshot {} is not there", taken.name));
            }
            continue;
        };
        let place =
            machine.path().join(".snapshots").join(&taken.name).join(top.file_name().expect("it has one"));
        let is_told = matches!(listed.safety, SnapshotSafety::Incomplete | SnapshotSafety::Degraded);
        match Picture::of(&place) {
            Ok(found) => {
                let differences = taken.picture.differences(&found);
                // What is not durable is as it was, or said to be incomplete.
                let is_told = !must_be_there && is_told;
                if !differences.is_empty() && !is_told {
                    problems.push(format!(
                        "{kind} snapshot {} ({:?}) of {} entries is not what the workspace was:\n{}",
                        taken.name,
                        listed.safety,
                        taken.picture.len(),
                        differences.join("\n")
                    ));
                }
            }
            Err(_) if !must_be_there && is_told => {}
            Err(error) => problems.push(format!("{kind} snapshot {} cannot be read: {error}", taken.name)),
        }
    }
    eprintln!("{context}: {} snapshots, {durable} of them durable", taken.len());
    assert!(problems.is_empty(), "{context}:\n{}", problems.join("\n"));
}

/// The catalog was not torn, and no object is damaged that a durable snapshot needs.
fn check_store(machine: &Machine, taken: &[Taken], cut_at: Instant, context: &str) {
    for entry in fs::read_dir(machine.store()).expect("the store can be listed") {
        let name = entry.expect("the store can be listed").file_name();
        assert!(!name.as_bytes().starts_with(b"catalog.sqlite.damaged"), "{context}: the catalog is damaged");
    }
    let verified = machine.daemon().command().args(["verify", "--deep"]).arg(machine.path()).output();
    let list = machine.list().unwrap_or_else(|| panic!("{context}: snapshots cannot be listed"));
    let is_durable = |name: &str| {
        taken.iter().any(|taken| taken.name == name && taken.durable.is_some_and(|at| at < cut_at))
    };
    for snapshot in list.items.iter().filter(|snapshot| snapshot.safety == SnapshotSafety::Degraded) {
        let name = snapshot.name.as_deref().unwrap_or_default();
        assert!(!is_durable(name), "{context}: {name} is damaged: {}{}", verified.stdout, verified.stderr);
    }
    if verified.code != 0 {
        eprintln!("{context}: damaged, and told: {}", verified.stdout);
    }
}

/// Cuts the power as often as was asked for, in all ways one after the other.
fn cut_often(care: Care, cuts: u64, ways: &[(FsKind, Cache)]) {
    if !Facility::Fuse.check() {
        return;
    }
    let (first, mut failed) = (first_seed(), Vec::new());
    for (seed, (kind, cache)) in (first..first + cuts).zip(ways.iter().copied().cycle()) {
        if !kind.facility().check() || !Facility::Ext4.check() {
            continue;
        }
        // One that fails has said why, and is no reason not to look at the others.
        if panic::catch_unwind(|| cut(seed, kind, cache, care)).is_err() {
            failed.push((seed, kind, cache));
        }
    }
    assert!(failed.is_empty(), "{} of {cuts} power cuts lost something: {failed:?}", failed.len());
}

#[test]
fn what_is_durable_survives_a_power_cut() {
    let ways = [
        (FsKind::Ext4, Cache::None),
        (FsKind::Xfs, Cache::None),
        (FsKind::Btrfs, Cache::Volatile),
        (FsKind::Ext4, Cache::Volatile),
        (FsKind::Xfs, Cache::Volatile),
        (FsKind::Ext4, Cache::None),
    ];
    cut_often(Care::Default, cuts(), &ways);
}

#[test]
fn nothing_is_lost_where_each_change_waits_for_the_disk() {
    cut_often(Care::Strict, strict_cuts(), &[(FsKind::Ext4, Cache::None), (FsKind::Ext4, Cache::Volatile)]);
}

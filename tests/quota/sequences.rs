//! Random operations by several threads, under kills of the worker and of the whole daemon: once everything is quiet
//! the books are exact, and at no time they pass the limit.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use harness::{Mapping, Protection, Random, kill, wait_until};
use rustix::{
    fs::{FallocateFlags, XattrFlags},
    process::Signal,
};
use wsguard_api::QuotaState;

use super::ground::{Below, EndOnDrop, Ground, on_every_filesystem};

on_every_filesystem!(random_operations_under_kills_end_exactly);

const THREADS: u64 = 4;
/// What the project may use: little enough that threads meet it.
const LIMIT: u64 = 24 << 20;
/// By how much an operation under way may take more than it reserved: blocks of metadata.
const SLOP: u64 = 64 * 1024 * THREADS;

/// How many sequences there are for each filesystem: of `WSGUARD_SEQUENCES` a quarter.
fn sequences() -> u64 {
    std::env::var("WSGUARD_SEQUENCES").map_or(5, |text| {
        let all: u64 = text.parse().expect("WSGUARD_SEQUENCES is a number");
        all.div_ceil(4)
    })
}

/// What the worker is done to while the threads work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kills {
    None,
    Worker,
    Everything,
}

impl Kills {
    /// Most sequences have one; the whole daemon takes the longest to come back.
    fn of(number: u64) -> Self {
        match number % 12 {
            2 => Self::Everything,
            number if number % 2 == 1 => Self::Worker,
            _ => Self::None,
        }
    }
}

/// One thread's files: its own directory, and one that all of them use.
struct Actor {
    random: Random,
    dirs: [PathBuf; 2],
    open: Vec<File>,
    /// They outlive the descriptors that they were made from.
    mapped: Vec<Mapping>,
}

impl Actor {
    fn new(seed: u64, ground: &Path, number: u64) -> Self {
        let dirs = [ground.join(number.to_string()), ground.join("shared")];
        let random = Random::new(seed.wrapping_add(number));
        Self { random, dirs, open: Vec::new(), mapped: Vec::new() }
    }

    fn name(&mut self) -> PathBuf {
        let dir = self.random.below(2) as usize;
        let name = self.random.below(12);
        let dir = &self.dirs[dir];
        // Some below another directory, which may be there or not.
        if name < 9 { dir.join(name.to_string()) } else { dir.join("d").join(name.to_string()) }
    }

    fn length(&mut self) -> u64 {
        let largest = 1 << self.random.below(21);
        1 + self.random.below(largest)
    }

    fn opened(&mut self) -> Option<usize> {
        let count = self.open.len() as u64;
        (count > 0).then(|| self.random.below(count) as usize)
    }

    /// Does one thing. Whether it works depends on the others and on the limit.
    fn step(&mut self) -> io::Result<()> {
        match self.random.below(24) {
            0..=3 => self.open_one()?,
            4..=8 => {
                let (Some(index), at) = (self.opened(), self.length() - 1) else { return Ok(()) };
                let bytes = vec![7; self.length() as usize];
                self.open[index].write_at(&bytes, at)?;
            }
            9 => {
                let (Some(index), size) = (self.opened(), self.length()) else { return Ok(()) };
                self.open[index].set_len(size)?;
            }
            10..=11 => {
                let Some(index) = self.opened() else { return Ok(()) };
                let modes = [
                    FallocateFlags::empty(),
                    FallocateFlags::KEEP_SIZE,
                    FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    FallocateFlags::ZERO_RANGE,
                ];
                let mode = modes[self.random.below(4) as usize];
                let (offset, length) = (self.length(), self.length());
                rustix::fs::fallocate(&self.open[index], mode, offset, length)?;
            }
            12 => self.store()?,
            13 => self.copy()?,
            14..=15 => {
                if let Some(index) = self.opened() {
                    self.open.swap_remove(index);
                }
                if self.random.below(4) == 0 {
                    self.mapped.pop();
                }
            }
            16..=17 => fs::remove_file(self.name())?,
            18..=19 => fs::rename(self.name(), self.name())?,
            20 => fs::hard_link(self.name(), self.name())?,
            21 => match self.random.below(4) {
                0 => fs::create_dir(self.dirs[0].join("d"))?,
                1 => fs::create_dir(self.dirs[1].join("d"))?,
                2 => fs::remove_dir_all(self.dirs[0].join("d"))?,
                _ => symlink("target", self.name())?,
            },
            22 => {
                let bytes = vec![7; self.random.below(3_500) as usize];
                rustix::fs::setxattr(self.name(), "user.x", &bytes, XattrFlags::empty())?;
            }
            _ => {
                let Some(index) = self.opened() else { return Ok(()) };
                self.open[index].sync_all()?;
            }
        }
        Ok(())
    }

    fn open_one(&mut self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        match self.random.below(5) {
            0 => options.read(true).write(true).create(true).truncate(false),
            1 => options.write(true).create(true).truncate(false),
            2 => options.write(true).create(true).truncate(true),
            3 => options.append(true).create(true),
            _ => options.read(true),
        };
        let file = options.open(self.name())?;
        if self.open.len() >= 6 {
            self.open.remove(0);
        }
        self.open.push(file);
        Ok(())
    }

    fn store(&mut self) -> io::Result<()> {
        // Where no other thread can cut it while it is mapped, which would end this process.
        let name = self.dirs[0].join(self.random.below(9).to_string());
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(name)?;
        let length = self.length();
        file.set_len(length)?;
        let length = length as usize;
        let mapping = Mapping::new(&file, length, Protection::ReadWrite)?;
        (0..length).step_by(8192).for_each(|at| mapping.store(at, b"x"));
        if self.mapped.len() >= 3 {
            self.mapped.remove(0);
        }
        self.mapped.push(mapping);
        Ok(())
    }

    fn copy(&mut self) -> io::Result<()> {
        let from = File::open(self.name())?;
        let to = OpenOptions::new().write(true).create(true).truncate(false).open(self.name())?;
        let length = self.length() as usize;
        rustix::fs::copy_file_range(&from, Some(&mut 0), &to, Some(&mut 4096), length)?;
        Ok(())
    }
}

/// Lets the threads work for a while, with a kill somewhere in it. The worker comes back by itself, the whole daemon is
/// started again.
fn disturb(ground: &mut Ground, kills: Kills, random: &mut Random) {
    thread::sleep(Duration::from_millis(150 + random.below(450)));
    match kills {
        Kills::None => {}
        Kills::Worker => {
            let worker = ground.mount.daemon().worker_pid();
            kill(worker, Signal::KILL);
            wait_until("another worker", Duration::from_secs(20), || {
                let output = ground.mount.daemon().cli(["status", "--json"]);
                output.code == 0 && ground.mount.daemon().status().worker_pid != worker
            });
        }
        Kills::Everything => {
            ground.mount.daemon_mut().kill_all();
            ground.mount.daemon_mut().start_again();
            let path = ground.path().to_owned();
            // Its own start mounts what was mounted.
            wait_until("the workspace to be mounted again", Duration::from_secs(20), || {
                fs::read_dir(&path).is_ok() && ground.mount.is_mounted()
            });
        }
    }
    thread::sleep(Duration::from_millis(150 + random.below(150)));
}

fn run(ground: &mut Ground, kills: Kills, seed: u64) {
    let must_end = AtomicBool::new(false);
    let root = ground.path().to_owned();
    (0..THREADS).for_each(|number| fs::create_dir_all(root.join(number.to_string())).unwrap());
    fs::create_dir_all(root.join("shared")).unwrap();
    thread::scope(|scope| {
        let must_end = &must_end;
        let _end = EndOnDrop(must_end);
        for number in 0..THREADS {
            let root = &root;
            scope.spawn(move || {
                let mut actor = Actor::new(seed, root, number);
                while !must_end.load(Ordering::Relaxed) {
                    match actor.step() {
                        // The mount is dead, and with it every open file.
                        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
                            actor.open.clear();
                            actor.mapped.clear();
                            thread::sleep(Duration::from_millis(20));
                        }
                        // Most mistakes are part of the game.
                        Ok(()) | Err(_) => {}
                    }
                }
            });
        }
        let mut random = Random::new(seed ^ 0x5eed);
        disturb(ground, kills, &mut random);
    });
    let used = ground.walked();
    assert!(used.bytes <= LIMIT + SLOP, "seed {seed}: {used:?} used of {LIMIT}");
}

/// Compares once no recount is due any more.
fn assert_exact_when_quiet(ground: &Ground, kills: Kills, seed: u64) {
    ground.wait_until_counted();
    let row = ground.row();
    assert_ne!(row.state, QuotaState::Estimated);
    // The filesystem decides about blocks of metadata when it writes back; see AFTERGLOW in the books.
    let (drift, counted) = ground.check();
    assert_eq!(drift, (0, 0), "seed {seed} with kills of {kills:?} on {:?}: {counted:?}", ground.below);
    if let Some(difference) = ground.difference() {
        panic!("seed {seed} with kills of {kills:?} on {:?}: {difference}", ground.below);
    }
    // What a mapping held that ended a moment ago is given back within two seconds.
    let nothing = wsguard_api::Usage { bytes: 0, inodes: 0 };
    wait_until("reservations to end", Duration::from_secs(8), || ground.row().reserved == nothing);
}

fn random_operations_under_kills_end_exactly(ground: &mut Ground) {
    ground.set(&["24M", "--headroom", "256K", "--inodes", "200"]);
    for number in 0..sequences() {
        let (kills, seed) = (Kills::of(number), Random::seed_of_now());
        run(ground, kills, seed);
        assert_exact_when_quiet(ground, kills, seed);
    }
}

#[test]
fn a_daemon_that_is_killed_while_idle_leaves_exact_books() {
    if !Below::Ext4.is_there() {
        return;
    }
    let mut ground = Ground::new(Below::Ext4);
    fs::write(ground.at("file"), vec![1; 3 << 20]).unwrap();
    ground.assert_exact("a write");
    ground.mount.daemon_mut().kill_all();
    // The kernel cannot reach the files by the dead mount; somebody changes them below it.
    fs::write(ground.below_at("other"), vec![1; 1 << 20]).unwrap();
    fs::remove_file(ground.below_at("file")).unwrap();
    ground.mount.daemon_mut().start_again();
    wait_until("the workspace to be mounted again", Duration::from_secs(20), || ground.mount.is_mounted());
    ground.wait_until_counted();
    ground.assert_exact("a start after changes below the dead mount");
}

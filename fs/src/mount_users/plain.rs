//! Who is in a plain directory and gets past the guard that is mounted over it.
//!
//! A working directory, descriptor or mapping from before the mount goes on leading to the plain files, and so
//! does a bind of the directory in a container that was started before. Which directory something lies in is
//! told by the id of the mount that it was opened through: the mount table of its namespace says which part of
//! which filesystem that mount shows. Paths alone would not do, because a container sees others; neither would
//! `st_dev`, of which btrfs has one for each subvolume.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, OFlags, StatxFlags};
use wsguard_api::MountUser;

use super::MOST_USERS;
use crate::mounting::mountinfo::{DeviceNumber, MountEntry, MountTable};
use crate::processes;

/// A directory by its place in its filesystem, which every mount namespace agrees on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlainDirectory {
    device: DeviceNumber,
    path: PathBuf,
}

impl PlainDirectory {
    /// Finds the directory below all wsguard mounts at `dir`, a path without symbolic links.
    pub(crate) fn locate(dir: &Path, table: &MountTable) -> Option<Self> {
        let below_guards = || {
            let is_plain = |entry: &&MountEntry| entry.mount_point == dir && !entry.is_wsguard();
            table.entries().iter().rfind(is_plain).or_else(|| table.containing(dir.parent()?))
        };
        let mount = match table.containing(dir)? {
            entry if entry.is_wsguard() && entry.mount_point == dir => below_guards()?,
            entry => entry,
        };
        Some(Self { device: mount.device, path: inside(mount, dir)? })
    }

    /// Returns the path relative to this directory of something in its filesystem, if it is in it.
    fn contains(&self, device: DeviceNumber, path: &Path) -> Option<PathBuf> {
        let relative = (device == self.device).then(|| path.strip_prefix(&self.path).ok())??;
        Some(if relative.as_os_str().is_empty() { ".".into() } else { relative.to_path_buf() })
    }

    /// Returns the mount of `table` through which this directory or a part of it is seen, without a guard.
    fn shown_by<'a>(&self, table: &'a MountTable) -> Option<&'a MountEntry> {
        table.of_device(self.device).find(|entry| {
            let place = match self.path.strip_prefix(&entry.root) {
                Ok(below) => entry.mount_point.join(below),
                Err(_) if entry.root.starts_with(&self.path) => entry.mount_point.clone(),
                Err(_) => return false,
            };
            // `join` leaves a slash behind if nothing is below.
            let place: PathBuf = place.components().collect();
            table.containing(&place).is_some_and(|top| top.id == entry.id)
        })
    }
}

/// Returns the place in its filesystem of what `mount` shows at `path`.
fn inside(mount: &MountEntry, path: &Path) -> Option<PathBuf> {
    let below = path.strip_prefix(&mount.mount_point).ok()?;
    Some(mount.root.join(below).components().collect())
}

/// A process that can change plain files without another open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Writer {
    pub(crate) pid: u32,
    pub(crate) command: String,
    pub(crate) container: Option<String>,
    /// How many files it has open for writing or mapped writable.
    pub(crate) files: usize,
    /// One of them, relative to the directory.
    pub(crate) path: PathBuf,
}

/// Everybody who is in one plain directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bypassing {
    /// One for each process and kind of thing that it holds.
    pub(crate) users: Vec<MountUser>,
    /// Those among them whose writes bypass the guard.
    pub(crate) writers: Vec<Writer>,
}

/// Returns for each of `directories` who is in it, in the same order. The processes in `but` are left out.
///
/// Reads `/proc` and asks no filesystem. A process that starts meanwhile may be missed, and a file without a
/// name is nobody's business: what is written to it is gone when it is closed.
pub(crate) fn bypassing(directories: &[PlainDirectory], but: &[u32]) -> Vec<Bypassing> {
    let mut search = Search {
        directories,
        mounts: HashMap::new(),
        mapped: HashMap::new(),
        found: vec![Bypassing::default(); directories.len()],
    };
    let mut pids = processes::all();
    pids.retain(|pid| !but.contains(pid));
    let namespaces = search.read_namespaces(&pids);
    for pid in pids {
        search.look_at(pid, &namespaces);
    }
    search.found
}

/// What a process holds, by the worst use that can be made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Hold {
    WorkingDirectory,
    Root,
    OpenDirectory,
    OpenFile,
    Map,
    Namespace,
    OpenForWriting,
    WritableMap,
}

impl Hold {
    fn words(self) -> &'static str {
        match self {
            Self::WorkingDirectory => "working directory",
            Self::Root => "root",
            Self::OpenDirectory => "open directory",
            Self::OpenFile => "open file",
            Self::Map => "memory map",
            Self::Namespace => "mount in its namespace",
            Self::OpenForWriting => "file open for writing",
            Self::WritableMap => "writable memory map",
        }
    }

    fn writes(self) -> bool {
        matches!(self, Self::OpenForWriting | Self::WritableMap)
    }
}

/// The part of a filesystem that a mount shows.
#[derive(Debug)]
struct Shown {
    device: DeviceNumber,
    root: PathBuf,
    mount_point: PathBuf,
}

/// Where something lies, and what it is.
struct Found {
    device: DeviceNumber,
    path: PathBuf,
    kind: FileType,
    has_name: bool,
}

/// Device and inode as maps shows them.
type MappedFile = (Vec<u8>, Vec<u8>);

/// For each kind of hold on one directory: how often, and the first path.
type Holds = BTreeMap<Hold, (usize, PathBuf)>;

struct Search<'a> {
    directories: &'a [PlainDirectory],
    /// Mounts of all namespaces that show one of the filesystems, by their id, which is unique in the system.
    mounts: HashMap<u64, Shown>,
    /// The places of mapped inodes: every process maps the same libraries.
    mapped: HashMap<MappedFile, Option<(DeviceNumber, PathBuf)>>,
    found: Vec<Bypassing>,
}

impl Search<'_> {
    /// Reads each mount namespace once. Returns for one process of each other one which directories it shows
    /// without a guard, by index.
    fn read_namespaces(&mut self, pids: &[u32]) -> HashMap<u32, Vec<usize>> {
        let own = std::fs::read_link("/proc/self/ns/mnt").ok();
        if let Ok(table) = MountTable::read() {
            self.add_mounts(&table);
        }
        let mut seen: Vec<PathBuf> = own.into_iter().collect();
        let mut unguarded = HashMap::new();
        for pid in pids {
            let process = processes::directory(*pid);
            let Ok(namespace) = std::fs::read_link(process.join("ns/mnt")) else { continue };
            if seen.contains(&namespace) {
                continue;
            }
            // One that just ends has none; another process may show the same namespace.
            let Ok(table) = MountTable::read_from(&process.join("mountinfo")) else { continue };
            seen.push(namespace);
            self.add_mounts(&table);
            let shown = |directory: &PlainDirectory| directory.shown_by(&table).is_some();
            let indexes: Vec<usize> =
                self.directories.iter().enumerate().filter(|(_, dir)| shown(dir)).map(|(i, _)| i).collect();
            unguarded.insert(*pid, indexes);
        }
        unguarded
    }

    fn add_mounts(&mut self, table: &MountTable) {
        for entry in table.entries() {
            if self.directories.iter().any(|directory| directory.device == entry.device) {
                self.mounts.entry(entry.id).or_insert_with(|| Shown {
                    device: entry.device,
                    root: entry.root.clone(),
                    mount_point: entry.mount_point.clone(),
                });
            }
        }
    }

    fn look_at(&mut self, pid: u32, namespaces: &HashMap<u32, Vec<usize>>) {
        let process = processes::directory(pid);
        let mut holds: Vec<Holds> = vec![Holds::new(); self.directories.len()];
        for (link, hold) in [("cwd", Hold::WorkingDirectory), ("root", Hold::Root), ("exe", Hold::Map)] {
            if let Some(found) = self.find(&process.join(link)) {
                self.add(&mut holds, hold, found.device, &found.path);
            }
        }
        self.look_at_descriptors(&process, &mut holds);
        self.look_at_maps(&process, &mut holds);
        for index in namespaces.get(&pid).into_iter().flatten() {
            if let Some(holds) = holds.get_mut(*index) {
                holds.insert(Hold::Namespace, (1, ".".into()));
            }
        }
        for (holds, found) in holds.into_iter().zip(&mut self.found) {
            report(pid, &process, holds, found);
        }
    }

    fn look_at_descriptors(&self, process: &Path, holds: &mut [Holds]) {
        let Ok(fds) = std::fs::read_dir(process.join("fd")) else { return };
        for fd in fds.filter_map(Result::ok) {
            let Some(found) = self.find(&fd.path()) else { continue };
            let hold = match found.kind {
                FileType::Directory => Hold::OpenDirectory,
                FileType::RegularFile
                    if found.has_name
                        && is_open_for_writing(&process.join("fdinfo").join(fd.file_name())) =>
                {
                    Hold::OpenForWriting
                }
                _ => Hold::OpenFile,
            };
            self.add(holds, hold, found.device, &found.path);
        }
    }

    /// Lines of maps are `start-end perms offset device inode path`; `map_files/start-end` leads to the file.
    fn look_at_maps(&mut self, process: &Path, holds: &mut [Holds]) {
        let Ok(text) = std::fs::read(process.join("maps")) else { return };
        let mut devices: Vec<DeviceNumber> = self.directories.iter().map(|dir| dir.device).collect();
        devices.sort_unstable();
        devices.dedup();
        let devices: Vec<String> =
            devices.iter().map(|device| format!("{:02x}:{:02x}", device.major, device.minor)).collect();
        for line in text.split(|byte| *byte == b'\n') {
            let mut fields = line.split(|byte| *byte == b' ').filter(|field| !field.is_empty());
            let (Some(range), Some(permissions)) = (fields.next(), fields.next()) else { continue };
            let (Some(_), Some(device), Some(inode)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            if !devices.iter().any(|wanted| wanted.as_bytes() == device) {
                continue;
            }
            let key = (device.to_vec(), inode.to_vec());
            if !self.mapped.contains_key(&key) {
                let link = map_file(range).map(|name| process.join("map_files").join(name));
                let found = link.and_then(|link| self.find(&link)).filter(|found| found.has_name);
                self.mapped.insert(key.clone(), found.map(|found| (found.device, found.path)));
            }
            let Some(Some((device, path))) = self.mapped.get(&key) else { continue };
            let is_writable = permissions.get(1) == Some(&b'w') && permissions.get(3) == Some(&b's');
            let hold = if is_writable { Hold::WritableMap } else { Hold::Map };
            self.add(holds, hold, *device, path);
        }
    }

    /// With DONT_SYNC the kernel answers from what it has, so a filesystem that hangs is no danger.
    fn find(&self, link: &Path) -> Option<Found> {
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        let wanted = StatxFlags::MNT_ID | StatxFlags::TYPE | StatxFlags::NLINK;
        let stat = rustix::fs::statx(CWD, link, flags, wanted).ok()?;
        let shown = self.mounts.get(&stat.stx_mnt_id)?;
        let target = std::fs::read_link(link).ok()?;
        // The table of a process with another root has shorter paths than the link: then only what the mount
        // shows is known.
        let below = target.strip_prefix(&shown.mount_point).unwrap_or(Path::new(""));
        Some(Found {
            device: shown.device,
            path: shown.root.join(below).components().collect(),
            kind: FileType::from_raw_mode(u32::from(stat.stx_mode)),
            has_name: stat.stx_nlink > 0,
        })
    }

    fn add(&self, holds: &mut [Holds], hold: Hold, device: DeviceNumber, path: &Path) {
        for (directory, holds) in self.directories.iter().zip(holds) {
            if let Some(relative) = directory.contains(device, path) {
                holds.entry(hold).or_insert((0, relative)).0 += 1;
            }
        }
    }
}

fn report(pid: u32, process: &Path, holds: Holds, found: &mut Bypassing) {
    if holds.is_empty() {
        return;
    }
    let Some(command) = processes::command(process) else { return };
    let container = processes::container(process);
    let mut writing = holds.iter().filter(|(hold, _)| hold.writes()).map(|(_, place)| place).peekable();
    if let Some((_, path)) = writing.peek() {
        found.writers.push(Writer {
            pid,
            command: command.clone(),
            container: container.clone(),
            path: path.clone(),
            files: writing.map(|(count, _)| count).sum(),
        });
    }
    for hold in holds.keys().take(MOST_USERS.saturating_sub(found.users.len())) {
        found.users.push(MountUser {
            pid,
            command: command.clone(),
            container: container.clone(),
            holds: hold.words().to_owned(),
        });
    }
}

/// The line `flags:` of fdinfo holds the open flags, octal. Without them the worst is assumed.
fn is_open_for_writing(fdinfo: &Path) -> bool {
    let Ok(text) = std::fs::read_to_string(fdinfo) else { return false };
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let Some(bits) = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()) else { return true };
    let flags = OFlags::from_bits_retain(bits);
    !flags.contains(OFlags::PATH) && flags.intersects(OFlags::WRONLY | OFlags::RDWR)
}

/// The names in map_files have no leading zeros, the ranges in maps have.
fn map_file(range: &[u8]) -> Option<String> {
    let text = std::ffi::OsStr::from_bytes(range).to_str()?;
    let (start, end) = text.split_once('-')?;
    let number = |digits| u64::from_str_radix(digits, 16).ok();
    Some(format!("{:x}-{:x}", number(start)?, number(end)?))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;

    use super::*;

    const TABLE: &[u8] = b"21 1 254:0 / / rw shared:1 - ext4 /dev/vda rw\n\
        22 21 254:1 /@home /home rw - btrfs /dev/vdb rw\n\
        30 22 0:40 / /home/u/p rw - fuse.wsguard wsguard:p rw\n";

    #[test]
    fn directory_is_located_in_its_filesystem_also_below_a_guard() {
        let table = MountTable::parse(TABLE);
        let device = DeviceNumber { major: 254, minor: 1 };
        let located = |path: &str| PlainDirectory::locate(Path::new(path), &table).unwrap();
        assert_eq!(located("/home/u/p"), PlainDirectory { device, path: "/@home/u/p".into() });
        assert_eq!(located("/home/u/q").path, Path::new("/@home/u/q"));
        assert_eq!(located("/srv/q").path, Path::new("/srv/q"));
    }

    #[test]
    fn namespace_without_the_guard_is_told_from_one_with_it_or_without_the_directory() {
        let directory =
            PlainDirectory { device: DeviceNumber { major: 254, minor: 1 }, path: "/@home/u/p".into() };
        let is_shown = |text: &[u8]| directory.shown_by(&MountTable::parse(text)).is_some();
        assert!(!is_shown(TABLE));
        let bind =
            b"40 1 0:50 / / rw - overlay overlay rw\n41 40 254:1 /@home/u/p /workspace rw - btrfs x rw\n";
        assert!(is_shown(bind));
        let parent = b"40 1 0:50 / / rw - overlay overlay rw\n41 40 254:1 /@home /h rw - btrfs x rw\n";
        assert!(is_shown(parent));
        let other = b"40 1 0:50 / / rw - overlay overlay rw\n41 40 254:1 /@home/v /h rw - btrfs x rw\n";
        assert!(!is_shown(other));
        let hidden = b"40 1 254:1 / / rw - btrfs x rw\n41 40 0:60 / /@home rw - tmpfs x rw\n";
        assert!(!is_shown(hidden));
    }

    #[test]
    fn writers_are_told_from_those_who_only_look() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        fs::write(path.join("log"), b"x").unwrap();
        let plain = PlainDirectory::locate(&path, &MountTable::read().unwrap()).unwrap();
        let look = || {
            let mut found = bypassing(std::slice::from_ref(&plain), &[]).pop().unwrap();
            found.users.retain(|user| user.pid == std::process::id());
            found
        };
        assert_eq!(look(), Bypassing::default());

        let reader = File::open(path.join("log")).unwrap();
        let directory = File::open(&path).unwrap();
        let found = look();
        let holds: Vec<&str> = found.users.iter().map(|user| user.holds.as_str()).collect();
        assert_eq!(holds, ["open directory", "open file"]);
        assert_eq!(found.writers, []);
        drop((reader, directory));

        let file = File::options().append(true).open(path.join("log")).unwrap();
        let other = File::create(path.join("other")).unwrap();
        let [writer] = look().writers.try_into().unwrap();
        assert_eq!((writer.pid, writer.files), (std::process::id(), 2));
        assert!(["log", "other"].map(Path::new).contains(&writer.path.as_path()), "{writer:?}");
        drop((file, other));

        let nameless = File::create(path.join("gone")).unwrap();
        fs::remove_file(path.join("gone")).unwrap();
        assert_eq!(look().writers, []);
        drop(nameless);
    }

    #[test]
    fn writable_mapping_of_a_closed_file_makes_a_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let file = File::create_new(path.join("store")).unwrap();
        drop(file);
        let file = File::options().read(true).write(true).open(path.join("store")).unwrap();
        let mapping = crate::sys::shared_memory::SharedMemory::map(file.as_fd(), 4096).unwrap();
        drop(file);
        let plain = PlainDirectory::locate(&path, &MountTable::read().unwrap()).unwrap();
        let [writer] = bypassing(&[plain], &[]).pop().unwrap().writers.try_into().unwrap();
        assert_eq!((writer.files, writer.path.as_path()), (1, Path::new("store")));
        drop(mapping);
    }

    #[test]
    fn ranges_become_names() {
        assert_eq!(map_file(b"00400000-00452000").as_deref(), Some("400000-452000"));
        assert_eq!(map_file(b"[stack]"), None);
    }
}

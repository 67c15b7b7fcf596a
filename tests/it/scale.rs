//! Large directories with few file descriptors and bounded memory.

use std::{
    fs::{self, File},
    path::Path,
    time::Duration,
};

use harness::{Daemon, GuardMount, Run, open_fds, require, resident_bytes, wait_until};

/// The hard limit that many machines set; a descriptor for each inode would hit it.
const NOFILE: u64 = 20_000;
const MOST_FDS: usize = 4_096;
const MOST_RESIDENT: u64 = 200 << 20;

/// Makes `count` empty files below `dir`, in the plain directory.
fn fill(dir: &Path, count: u32) {
    for index in 0..count {
        File::create(dir.join(format!("file-{index:07}"))).unwrap();
    }
}

fn mount_with_files(count: u32, deadline: Duration) -> GuardMount {
    let daemon = Daemon::builder().nofile(NOFILE).deadline(deadline);
    GuardMount::builder().daemon(daemon).mount_prepared(|dir| fill(dir, count))
}

/// Lists every name with its attributes, as `ls -l` does, and returns how many there are.
fn list(dir: &Path) -> usize {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap())
        .filter(fs::Metadata::is_file)
        .count()
}

#[test]
fn twenty_five_thousand_entries_are_listed_with_few_descriptors() {
    require!(fuse);
    let mount = mount_with_files(25_000, Duration::from_secs(180));
    let worker = mount.daemon().worker_pid();
    assert_eq!(list(mount.path()), 25_000);
    let lines = Run::shell("ls -l \"$1\" | wc -l", [mount.path()]).ok();
    assert_eq!(lines.trim(), "25001");
    assert!(open_fds(worker) < MOST_FDS, "{} descriptors are open", open_fds(worker));
    // Every file can be opened as well, one after the other and many at once.
    let open: Vec<File> =
        (0..3_000).map(|index| File::open(mount.path().join(format!("file-{index:07}"))).unwrap()).collect();
    assert_eq!(open.len(), 3_000);
}

#[test]
fn forgotten_inodes_give_their_memory_and_descriptors_back() {
    require!(fuse);
    let mount = mount_with_files(25_000, Duration::from_secs(180));
    let worker = mount.daemon().worker_pid();
    let base = (mount.daemon().workspace(&mount.workspace().id).inodes_known, open_fds(worker));
    assert_eq!(list(mount.path()), 25_000);
    assert!(mount.daemon().workspace(&mount.workspace().id).inodes_known >= 25_000);
    wait_until(
        "the inode table and the descriptors to be back at their base",
        Duration::from_secs(30),
        || {
            fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
            let known = mount.daemon().workspace(&mount.workspace().id).inodes_known;
            known <= base.0 + 2 && open_fds(worker) <= base.1 + 16
        },
    );
}

#[test]
fn a_million_entries_fit_into_the_bounds() {
    require!(fuse, long);
    let mount = mount_with_files(1_000_000, Duration::from_secs(1_800));
    let worker = mount.daemon().worker_pid();
    let base = (mount.daemon().workspace(&mount.workspace().id).inodes_known, open_fds(worker));
    for round in 1..=3 {
        assert_eq!(list(mount.path()), 1_000_000);
        let (fds, resident) = (open_fds(worker), resident_bytes(worker));
        assert!(fds < MOST_FDS, "round {round}: {fds} descriptors are open");
        assert!(resident <= MOST_RESIDENT, "round {round}: {} MiB are resident", resident >> 20);
        wait_until("the inode table to be back at its base", Duration::from_secs(120), || {
            fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
            let known = mount.daemon().workspace(&mount.workspace().id).inodes_known;
            known <= base.0 + 2 && open_fds(worker) <= base.1 + 16
        });
    }
}

#[test]
fn a_deep_tree_can_be_walked_and_removed() {
    require!(fuse);
    let mount = GuardMount::new();
    let script = "
        cd \"$1\"
        for i in $(seq 300); do mkdir d && cd d; done
        echo bottom >file
        cd \"$1\" && test \"$(find . -name file | wc -l)\" = 1
        rm -rf d && test -z \"$(ls -A)\"
    ";
    Run::shell(script, [mount.path()]).ok();
    assert_eq!(fs::read_dir(mount.backing_path()).unwrap().count(), 0);
}

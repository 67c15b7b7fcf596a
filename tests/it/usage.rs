//! `wsguard usage` follows what happens in a mount, and `wsguard clean` removes what it shows.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use harness::{GuardMount, Run, kill, require, wait_until};
use rustix::process::Signal;
use wsguard_api::{CleanPlan, Coherence, ForecastReport, IndexState, UsageReport};

const OWNER: u32 = 1000;
const PATIENCE: Duration = Duration::from_secs(60);

/// Charge and number of inodes below and including a plain directory; an inode with several names counts once.
fn counted(dir: &Path) -> (u64, u64) {
    let (mut bytes, mut seen) = (0, std::collections::HashSet::new());
    let mut ahead: Vec<PathBuf> = vec![dir.to_path_buf()];
    while let Some(path) = ahead.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        if seen.insert(metadata.ino()) && metadata.is_file() {
            bytes += (metadata.blocks() * 512).next_multiple_of(4096);
        }
        if metadata.is_dir() {
            ahead.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    (bytes, seen.len() as u64)
}

fn usage(mount: &GuardMount, path: &Path) -> Option<UsageReport> {
    let output = mount.daemon().command().args(["usage", "--json"]).arg(path).output();
    serde_json::from_str(&output.stdout).ok()
}

/// Waits until the index says what is in the plain directory.
fn settled(mount: &GuardMount) -> UsageReport {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let report = usage(mount, mount.path());
        let now = counted(mount.backing_path());
        match report {
            Some(report) if (report.bytes, report.inodes) == now && report.state == IndexState::Current => {
                return report;
            }
            report => assert!(Instant::now() < deadline, "{now:?} are there, and usage says {report:#?}"),
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn age(path: &Path, days: u64) {
    let time = SystemTime::now() - Duration::from_secs(days * 86_400);
    File::open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn usage_follows_everything_that_happens_in_a_mount() {
    require!(fuse);
    let mount = GuardMount::builder().mount_prepared(|dir| {
        fs::create_dir_all(dir.join("before/deep")).unwrap();
        fs::write(dir.join("before/deep/x.pt"), vec![1; 3_000_000]).unwrap();
    });
    let report = settled(&mount);
    assert_eq!(report.largest_files[0].path, "before/deep/x.pt");
    let script = "
        cd \"$1\"
        mkdir -p runs/a runs/b && head -c 5000000 /dev/zero >runs/a/step-1.pt
        ln runs/a/step-1.pt runs/b/same.pt && ln -s nowhere link && mkfifo pipe
        mv before after && head -c 700000 /dev/zero >>after/deep/x.pt
        for i in $(seq 200); do echo $i >runs/b/$i.txt; done
        rm -r runs/b/1*.txt && truncate -s 100 runs/b/2.txt && mv runs/b/3.txt after/3.log
        cp -r runs/b runs/c && mv runs/c/same.pt runs/a/step-1.pt
        cd after && mkdir -p __pycache__ && echo x >__pycache__/x.pyc
    ";
    Run::shell(script, [mount.path()]).ok();
    let report = settled(&mount);
    let largest: Vec<_> = report.largest_files.iter().take(2).map(|file| file.path.as_str()).collect();
    assert_eq!(largest.len(), 2);
    assert!(report.growing.iter().any(|growth| growth.path.starts_with("runs")), "{:?}", report.growing);
    assert_eq!(report.caches[0].rule, "python-bytecode");
    let below = usage(&mount, &mount.path().join("after/deep")).unwrap();
    assert_eq!(below.bytes, counted(&mount.backing_path().join("after/deep")).0);
    // The worker after it knows nothing of what the one before was about to note.
    fs::write(mount.path().join("last"), vec![1; 50_000]).unwrap();
    kill(mount.daemon().worker_pid(), Signal::KILL);
    fs::write(mount.path().join("later"), vec![1; 50_000]).unwrap();
    settled(&mount);
    Run::shell("rm -rf \"$1\"/*", [mount.path()]).ok();
    assert_eq!(settled(&mount).inodes, 1);
}

#[test]
fn changes_below_the_mount_are_counted_at_the_next_mount() {
    require!(fuse);
    let mount = GuardMount::new();
    fs::write(mount.path().join("x"), vec![1; 50_000]).unwrap();
    settled(&mount);
    let daemon = mount.daemon();
    daemon.cli(["umount", &mount.workspace().id]).ok();
    fs::write(mount.path().join("y"), vec![1; 90_000]).unwrap();
    let unwatched = usage(&mount, mount.path()).unwrap();
    assert_eq!(unwatched.state, IndexState::Unwatched);
    assert_eq!(unwatched.inodes, 2);
    assert_eq!(unwatched.forecast.available_bytes, None);
    daemon.mount(mount.path());
    assert_eq!(settled(&mount).inodes, 3);
}

#[test]
fn edits_below_the_mount_are_followed_while_they_are_watched() {
    require!(fuse);
    let mount = GuardMount::builder().mount_prepared(|dir| fs::create_dir(dir.join("sub")).unwrap());
    settled(&mount);
    wait_until("the tree to be watched", PATIENCE, || {
        let workspace = mount.daemon().workspace(&mount.workspace().id);
        matches!(workspace.coherence, Some(Coherence::Watched { .. }))
    });
    fs::write(mount.backing_path().join("sub/new"), vec![1; 70_000]).unwrap();
    assert_eq!(settled(&mount).inodes, 3);
    fs::rename(mount.backing_path().join("sub"), mount.backing_path().join("moved")).unwrap();
    wait_until("the rename to be followed", PATIENCE, || settled(&mount).entries[0].path == "moved");
    Run::shell("truncate -s 0 \"$1\"/moved/new", [mount.backing_path()]).ok();
    assert_eq!(settled(&mount).bytes, 0);
}

#[test]
fn usage_of_others_and_of_files_is_refused_with_a_reason() {
    require!(fuse);
    let mount = GuardMount::builder().owner(OWNER).mount();
    fs::write(mount.path().join("file"), b"x").unwrap();
    settled(&mount);
    let ask = |path: &Path, uid| mount.daemon().command().args(["usage"]).arg(path).user(uid, uid).output();
    ask(mount.path(), OWNER).expect_code(0);
    for command in ["usage", "clean"] {
        let output = mount.daemon().command().arg(command).arg(mount.path()).user(1001, 1001).output();
        assert!(matches!(output.code, 3 | 9), "{output:?}");
    }
    let output = ask(&mount.path().join("file"), OWNER).expect_code(3);
    assert!(output.stderr.contains("name a directory"), "{output:?}");
    let output = mount.daemon().command().args(["usage", "/usr"]).output().expect_code(3);
    assert!(output.stderr.contains("not in a workspace"), "{output:?}");
}

fn plan(mount: &GuardMount) -> CleanPlan {
    let output = mount.daemon().command().args(["clean", "--dry-run", "--json"]).arg(mount.path()).output();
    serde_json::from_str(&output.ok()).unwrap()
}

/// Makes what the rules find, as the owner would through the mount.
fn litter(mount: &GuardMount) {
    settled(mount);
    let script = "
        cd \"$1\" && mkdir -p src/__pycache__ .cache/pip/http run
        echo code >src/train.py && echo pyc >src/__pycache__/train.pyc
        head -c 400000 /dev/zero >.cache/pip/http/wheel
        head -c 90000 /dev/zero >run/model.pt && head -c 70000 /dev/zero >run/model.pt.tmp
        head -c 70000 /dev/zero >run/open.pt.tmp && echo done >run/train.log
    ";
    Run::shell(script, [mount.path()]).user(OWNER, OWNER).ok();
    for old in [".cache/pip/http/wheel", "run/model.pt.tmp", "run/open.pt.tmp", "run/train.log"] {
        age(&mount.path().join(old), 40);
    }
}

#[test]
fn clean_removes_what_its_dry_run_shows_and_nothing_else() {
    require!(fuse);
    let mount = GuardMount::builder().owner(OWNER).mount();
    litter(&mount);
    // Being written to: its time is old because the writer has only just begun.
    let open = OpenOptions::new().append(true).open(mount.path().join("run/open.pt.tmp")).unwrap();
    wait_until("the plan to be complete", PATIENCE, || {
        let plan = plan(&mount);
        plan.items.len() == 4 && plan.in_use == 1
    });
    let items: Vec<String> = plan(&mount).items.into_iter().map(|item| item.path).collect();
    assert_eq!(items, ["src/__pycache__", ".cache/pip", "run/model.pt.tmp", "run/train.log"]);
    assert!(mount.path().join("run/model.pt.tmp").exists());

    let clean = |arguments: &[&str]| {
        let command = mount.daemon().command().arg("clean").arg(mount.path());
        command.args(arguments).user(OWNER, OWNER).output()
    };
    let refused = clean(&[]).expect_code(2);
    assert!(refused.stderr.contains("--yes"), "{refused:?}");
    clean(&["--yes", "--only", "old-logs"]).expect_code(0);
    assert!(!mount.path().join("run/train.log").exists());
    let output = clean(&["--yes"]).expect_code(0);
    assert!(output.stdout.contains("freed"), "{output:?}");
    for gone in ["src/__pycache__", ".cache/pip", "run/model.pt.tmp"] {
        assert!(!mount.backing_path().join(gone).exists(), "{gone}");
    }
    for kept in ["src/train.py", "run/model.pt", "run/open.pt.tmp", ".cache"] {
        assert!(mount.backing_path().join(kept).exists(), "{kept}");
    }
    drop(open);
    settled(&mount);
    let log = mount.daemon().cli(["log", "--deleted", &mount.path().to_string_lossy()]).ok();
    assert!(log.contains("model.pt.tmp"), "removals are not tracked:\n{log}");
}

#[test]
fn clean_stops_at_links_and_permissions() {
    require!(fuse);
    let mount = GuardMount::builder().owner(OWNER).mount();
    let outside = mount.daemon().make_dir("outside");
    fs::write(outside.join("kept"), b"kept").unwrap();
    litter(&mount);
    wait_until("the plan to be complete", PATIENCE, || plan(&mount).items.len() == 5);
    // Between plan and removal a container puts a link in place of a cache. The plan that is made anew does not name
    // it, so that both are tried: the index may be a moment behind.
    Run::shell(
        "mv \"$1\"/.cache/pip \"$1\"/moved && ln -s \"$2\" \"$1\"/.cache/pip",
        [mount.path(), &outside],
    )
    .ok();
    // Not the owner's to remove: the directory is root's and read-only for others.
    let run = mount.backing_path().join("run");
    chown(&run, Some(0), Some(0)).unwrap();
    let output = mount
        .daemon()
        .command()
        .args(["clean", "--yes", "--json"])
        .arg(mount.path())
        .user(OWNER, OWNER)
        .output()
        .expect_code(1);
    assert!(output.stderr.contains("run/model.pt.tmp stays: Permission denied"), "{output:?}");
    assert!(outside.join("kept").exists());
    assert!(mount.path().join("moved/http/wheel").exists());
    assert!(mount.path().join("run/model.pt.tmp").exists());
    assert!(!mount.path().join("src/__pycache__").exists());
}

/// The body of an answer of the control API.
fn get(mount: &GuardMount, route: &str) -> String {
    let mut stream = UnixStream::connect(mount.daemon().socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET /v1{route} HTTP/1.1\r\nHost: wsguard\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[test]
fn forecast_tells_use_space_and_what_grew_of_every_workspace() {
    require!(fuse);
    let mount = GuardMount::new();
    settled(&mount);
    fs::create_dir(mount.path().join("run")).unwrap();
    fs::write(mount.path().join("run/step-1.pt"), vec![1; 4_000_000]).unwrap();
    let used = settled(&mount).bytes;
    let report: ForecastReport = serde_json::from_str(&get(&mount, "/usage/forecast?days=1")).unwrap();
    let [item] = report.items.as_slice() else { panic!("{report:?}") };
    assert_eq!(item.workspace, mount.workspace().id);
    let forecast = item.forecast.as_ref().unwrap();
    assert_eq!(forecast.used_bytes, used);
    assert!(forecast.available_bytes.unwrap() > 0);
    assert_eq!(forecast.checkpoint_bytes, Some(4_001_792));
    assert_eq!(item.growing[0].path, "run");
    let error = get(&mount, "/usage/forecast?days=0");
    assert!(error.contains("invalid-request"), "{error}");
}

#[test]
fn what_is_left_is_what_the_tightest_of_quota_and_disk_leaves() {
    require!(fuse);
    let mount = GuardMount::new();
    settled(&mount);
    let id = mount.workspace().id.clone();
    let quota = |arguments: &[&str]| mount.daemon().command().arg("quota").args(arguments).ok();
    quota(&["set", &format!("project:{id}"), "64M"]);
    fs::write(mount.path().join("step-1.pt"), vec![1; 4 << 20]).unwrap();
    let used = settled(&mount).bytes;
    let forecast = |arguments: &[&str]| {
        let text = quota(&[&["forecast", "--json"], arguments].concat());
        let list: serde_json::Value = serde_json::from_str(&text).unwrap();
        let items = list["items"].as_array().unwrap().clone();
        items.into_iter().find(|item| item["scope"]["id"] == id.as_str()).unwrap()
    };
    let own = forecast(&[&format!("project:{id}")]);
    let left = own["available_bytes"].as_u64().unwrap();
    // The headroom is for small files only.
    assert!(left <= (64 << 20) - used && left > 0, "{left} is left with {used} used");
    assert_eq!(own["checkpoint_bytes"], 4 << 20);
    assert_eq!(own["checkpoints_fit"], left >> 22);
    quota(&["set", &format!("project:{id}"), "4M", "--allow-over"]);
    assert_eq!(forecast(&[])["seconds_to_full"], 0);
    let top = quota(&["top"]);
    assert!(top.contains("Workspaces, largest first"), "{top}");
}

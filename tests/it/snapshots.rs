//! Snapshots: taken by hand and by themselves, listed, compared, deleted, kept within bounds and checked.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use harness::{Backing, Daemon, FsKind, GuardMount, Run, require, wait_for, wait_until};
use serde::de::DeserializeOwned;
use wsguard_api::{
    DifferenceKind, DifferenceReport, Event, EventKind, EventList, HistoryState, HistoryStatus,
    RetentionPreview, Snapshot, SnapshotList, SnapshotSafety, SnapshotTaken, VerifyReport, VersionCertainty,
    VersionReport,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// No automatic snapshot comes in between.
fn quiet() -> GuardMount {
    GuardMount::builder().daemon(Daemon::builder().config("[snapshots]\nauto-seconds = 3600\n")).mount()
}

fn json<T: DeserializeOwned>(mount: &GuardMount, arguments: &[&str]) -> T {
    let text = run(mount, arguments).arg("--json").output().ok();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{text}"))
}

fn run(mount: &GuardMount, arguments: &[&str]) -> Run {
    mount.daemon().command().args(arguments).current_dir(mount.path())
}

fn create(mount: &GuardMount, arguments: &[&str]) -> u32 {
    json::<SnapshotTaken>(mount, &[&["snapshot", "create"], arguments].concat()).id
}

fn list(mount: &GuardMount) -> SnapshotList {
    json(mount, &["snapshot", "ls"])
}

fn snapshots(mount: &GuardMount) -> Vec<Snapshot> {
    list(mount).items
}

fn status(mount: &GuardMount) -> HistoryStatus {
    let workspace = mount.daemon().workspace(&mount.workspace().id);
    workspace.history.unwrap_or_else(|| panic!("no history is shown: {:?}", workspace.state))
}

fn wait_for_history(mount: &GuardMount) {
    wait_until("history to be opened", PATIENCE, || status(mount).state == HistoryState::On);
}

fn events(mount: &GuardMount, kind: EventKind) -> Vec<Event> {
    let list: EventList =
        serde_json::from_str(&mount.daemon().cli(["events", "--json", "-n", "1000"]).ok()).unwrap();
    list.events.into_iter().filter(|event| event.kind == kind).collect()
}

/// Returns the store's directory of the workspace.
fn store(mount: &GuardMount) -> PathBuf {
    let own = mount.daemon().dir().join("p").join(&mount.workspace().id);
    if own.exists() {
        return own;
    }
    mount.backing().path().join(".wsguard").join(&mount.workspace().id)
}

fn objects(mount: &GuardMount) -> Vec<PathBuf> {
    let dirs = fs::read_dir(store(mount).join("objects")).unwrap();
    dirs.flat_map(|dir| fs::read_dir(dir.unwrap().path()).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect()
}

#[test]
fn a_snapshot_has_a_number_a_name_and_a_reason_to_be_kept() {
    require!(fuse);
    let mount = quiet();
    fs::write(mount.path().join("a"), "one").unwrap();
    let first = create(&mount, &["--name", "paper", "--note", "before the deadline", "--hold"]);
    let second = create(&mount, &[]);
    assert!(second > first);
    let found = snapshots(&mount);
    assert_eq!(found.iter().map(|snapshot| snapshot.id).collect::<Vec<_>>(), [first, second]);
    assert_eq!(
        (found[0].name.as_deref(), found[0].note.as_deref()),
        (Some("paper"), Some("before the deadline"))
    );
    assert!(found[0].held && found[0].kept_because.contains(&"hold".to_owned()), "{:?}", found[0]);
    assert!(found[1].kept_because.contains(&"newest".to_owned()), "{:?}", found[1]);
    assert_eq!(found[1].reason, "manual");
    let shown = run(&mount, &["snapshot", "show", "paper"]).output().ok();
    assert!(shown.contains("before the deadline") && shown.contains(&first.to_string()), "{shown}");
    let again = run(&mount, &["snapshot", "create", "--name", "paper"]).output().expect_code(4);
    assert!(again.stderr.contains("is called"), "{}", again.stderr);
    run(&mount, &["snapshot", "create", "--name", "17"]).output().expect_code(2);
    run(&mount, &["snapshot", "show", "nothing"]).output().expect_code(3);
}

#[test]
fn a_snapshot_that_is_synced_is_durable_and_others_become_so() {
    require!(fuse);
    let mount = quiet();
    fs::write(mount.path().join("a"), "one").unwrap();
    let taken: SnapshotTaken = json(&mount, &["snapshot", "create", "--sync"]);
    assert_eq!(taken.safety, SnapshotSafety::Durable);
    fs::write(mount.path().join("a"), "two").unwrap();
    create(&mount, &[]);
    wait_until("the second to become durable", PATIENCE, || {
        snapshots(&mount).iter().all(|snapshot| snapshot.safety == SnapshotSafety::Durable)
    });
}

#[test]
fn a_comparison_says_what_was_added_removed_renamed_and_written() {
    require!(fuse);
    let mount = quiet();
    let at = |name: &str| mount.path().join(name);
    fs::create_dir_all(at("src/old")).unwrap();
    for name in ["written", "removed", "moved", "src/old/x", "same", "mode", "replaced"] {
        fs::write(at(name), name).unwrap();
    }
    let first = create(&mount, &[]).to_string();
    fs::write(at("written"), "something else").unwrap();
    fs::remove_file(at("removed")).unwrap();
    fs::rename(at("moved"), at("src/here")).unwrap();
    fs::rename(at("src/old"), at("src/new")).unwrap();
    fs::write(at("added"), "x").unwrap();
    fs::write(at("temporary"), "x").unwrap();
    fs::remove_file(at("temporary")).unwrap();
    let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
    fs::set_permissions(at("mode"), mode).unwrap();
    fs::write(at(".new"), "other").unwrap();
    fs::rename(at(".new"), at("replaced")).unwrap();
    let second = create(&mount, &[]).to_string();
    fs::write(at("later"), "x").unwrap();
    use DifferenceKind::{Added, Attributes, Modified, Removed, Renamed, Replaced};
    let expected = [
        (Added, "added", None),
        (Attributes, "mode", None),
        (Removed, "removed", None),
        (Replaced, "replaced", None),
        (Renamed, "src/here", Some("moved")),
        (Renamed, "src/new", Some("src/old")),
        (Modified, "written", None),
    ];
    let told = |report: &DifferenceReport| {
        let item = |item: &wsguard_api::SnapshotDifference| (item.kind, item.path.clone(), item.from.clone());
        report.items.iter().map(item).collect::<Vec<_>>()
    };
    let expected: Vec<_> = expected
        .iter()
        .map(|(kind, path, from)| (*kind, (*path).to_owned(), from.map(|from: &str| from.to_owned())))
        .collect();
    let between: DifferenceReport = json(&mount, &["snapshot", "diff", &first, &second]);
    assert_eq!(told(&between), expected);
    let now: DifferenceReport = json(&mount, &["snapshot", "diff", &first]);
    assert!(told(&now).contains(&(Added, "later".to_owned(), None)), "{now:?}");
    let below: DifferenceReport = json(&mount, &["snapshot", "diff", &first, "now", "src"]);
    let paths: Vec<String> = below.items.iter().map(|item| item.path.clone()).collect();
    assert!(paths.iter().all(|path| path.starts_with("src")), "{paths:?}");
    let text = run(&mount, &["snapshot", "diff", &first, &second]).output().ok();
    assert!(text.contains("R moved → src/here\n") && text.contains("- removed\n"), "{text}");
    run(&mount, &["snapshot", "diff", &second, &first]).output().expect_code(2);
}

#[test]
fn a_snapshot_that_is_deleted_gives_back_what_only_it_needs() {
    require!(fuse);
    let config = "[snapshots]\nauto-seconds = 3600\n[snapshots.retention]\ntrash-days = 0\n";
    let mount = GuardMount::builder().daemon(Daemon::builder().config(config)).mount();
    fs::write(mount.path().join("a"), vec![7; 1 << 20]).unwrap();
    let first = create(&mount, &[]).to_string();
    fs::remove_file(mount.path().join("a")).unwrap();
    let second = create(&mount, &["--hold"]).to_string();
    let kept = snapshots(&mount);
    assert_eq!(kept[1].unique_bytes, 0, "{kept:?}");
    assert_eq!(objects(&mount).len(), 1);
    let ino = fs::metadata(&objects(&mount)[0]).unwrap();
    assert_eq!(ino.size(), 1 << 20);
    let refused = run(&mount, &["snapshot", "rm", &second, "--yes"]).output().expect_code(4);
    assert!(refused.stderr.contains("unhold"), "{}", refused.stderr);
    run(&mount, &["snapshot", "rm", &first]).output().expect_code(2);
    assert_eq!(snapshots(&mount).len(), 2, "nobody could be asked");
    run(&mount, &["snapshot", "rm", &first, "--yes"]).output().ok();
    // What is in the trash for more than no days goes as well.
    wait_until("the object to go", PATIENCE, || objects(&mount).is_empty());
    run(&mount, &["snapshot", "unhold", &second]).output().ok();
    run(&mount, &["snapshot", "rm", &second, "--yes"]).output().ok();
    assert!(snapshots(&mount).is_empty());
}

#[test]
fn a_file_that_was_made_just_before_a_snapshot_is_in_it() {
    require!(fuse);
    let mount = quiet();
    for round in 1..=30 {
        let path = mount.path().join(format!("f{round}"));
        fs::write(&path, "x").unwrap();
        create(&mount, &[]);
        fs::remove_file(&path).unwrap();
        assert_eq!(objects(&mount).len(), round);
    }
}

#[test]
fn snapshots_are_taken_by_themselves_while_something_changes_and_not_otherwise() {
    require!(fuse);
    let mount =
        GuardMount::builder().daemon(Daemon::builder().config("[snapshots]\nauto-seconds = 1\n")).mount();
    wait_for_history(&mount);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(snapshots(&mount), [], "nothing was changed");
    fs::write(mount.path().join("a"), "one").unwrap();
    wait_until("a snapshot", PATIENCE, || !snapshots(&mount).is_empty());
    std::thread::sleep(Duration::from_secs(3));
    let found = snapshots(&mount);
    assert_eq!(found.len(), 1, "one change, one snapshot: {found:?}");
    assert_eq!(found[0].reason, "auto");
    wait_until("status to tell of it", PATIENCE, || {
        status(&mount).last_automatic == Some(found[0].at.clone())
    });
    assert_eq!(status(&mount).snapshots, 1);
}

#[test]
fn many_deletions_at_once_end_the_epoch() {
    require!(fuse);
    let mount = quiet();
    wait_for_history(&mount);
    for n in 0..600 {
        fs::write(mount.path().join(format!("f{n}")), "x").unwrap();
    }
    create(&mount, &[]);
    std::thread::sleep(Duration::from_secs(3));
    for n in 0..600 {
        fs::remove_file(mount.path().join(format!("f{n}"))).unwrap();
    }
    wait_until("a snapshot because of the burst", PATIENCE, || {
        snapshots(&mount).iter().any(|snapshot| snapshot.reason == "burst")
    });
}

#[test]
fn a_clean_end_leaves_a_snapshot_that_the_next_mount_knows() {
    require!(fuse);
    let mut mount = quiet();
    wait_for_history(&mount);
    fs::write(mount.path().join("a"), "one").unwrap();
    mount.daemon_mut().terminate();
    mount.daemon_mut().start_again();
    wait_for_history(&mount);
    let found = snapshots(&mount);
    assert_eq!(found.iter().map(|snapshot| snapshot.reason.as_str()).collect::<Vec<_>>(), ["service"]);
}

#[test]
fn versions_of_a_file_are_found_when_it_is_there_deleted_and_renamed() {
    require!(fuse);
    let mount = quiet();
    let at = |name: &str| mount.path().join(name);
    fs::create_dir(at("d")).unwrap();
    fs::write(at("d/a"), "one").unwrap();
    let first = create(&mount, &[]);
    fs::write(at("d/a"), "second").unwrap();
    let second = create(&mount, &[]);
    fs::write(at("d/.a.new"), "the third").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    fs::rename(at("d/.a.new"), at("d/a")).unwrap();
    create(&mount, &[]);
    Run::new("rm").arg(at("d/a")).ok();
    fs::remove_dir(at("d")).unwrap();
    let report: VersionReport = json(&mount, &["versions", "d/a"]);
    assert!(!report.exists);
    // A file that was made in the tick after a snapshot has an empty version of its own, under its first name.
    let here: Vec<_> = report.items.iter().filter(|version| version.path.is_none()).collect();
    let sizes: Vec<Option<u64>> = here.iter().map(|version| version.size).collect();
    assert_eq!(&sizes[..3], [Some(9), Some(6), Some(3)], "{report:?}");
    assert!(report.items.iter().all(|version| version.certainty == VersionCertainty::Exact), "{report:?}");
    assert_eq!(report.items[0].ended_by.as_deref(), Some("delete"));
    wait_until("the command to be recorded", PATIENCE, || {
        json::<VersionReport>(&mount, &["versions", "d/a"]).items[0].command.as_deref() == Some("rm")
    });
    assert!(here[2].snapshots.contains(&first) && !here[2].snapshots.contains(&second));
    fs::write(at("b"), "before").unwrap();
    create(&mount, &[]);
    fs::write(at("b"), "after!!").unwrap();
    create(&mount, &[]);
    fs::rename(at("b"), at("c")).unwrap();
    let renamed: VersionReport = json(&mount, &["versions", "c"]);
    let shown: Vec<_> = renamed.items.iter().map(|version| (version.size, version.path.as_deref())).collect();
    assert!(shown.contains(&(Some(7), None)) && shown.contains(&(Some(6), Some("b"))), "{renamed:?}");
    run(&mount, &["versions", "never"]).output().expect_code(3);
}

#[test]
fn others_see_and_change_nothing() {
    require!(fuse);
    let mount = GuardMount::builder().owner(1000).mount();
    fs::write(mount.path().join("a"), "x").unwrap();
    let binary = harness::wsguard_binary();
    let socket = mount.daemon().socket();
    let as_user = |uid: u32, arguments: &[&str]| {
        Run::new(&binary)
            .args(arguments)
            .arg("--json")
            .env("WSGUARD_SOCKET", &socket)
            .user(uid, uid)
            .current_dir("/")
            .output()
    };
    let path = mount.path().to_str().unwrap();
    let create = ["snapshot", "create", path];
    let own = as_user(1000, &create);
    assert!(own.code == 0 || own.stderr.contains("no permission"), "{own:?}");
    let list = ["snapshot", "ls", path];
    as_user(1001, &list).expect_code(3);
    as_user(1001, &["snapshot", "rm", "1", "--yes", "-w", path]).expect_code(3);
    as_user(1001, &["verify", path]).expect_code(3);
    assert_eq!(as_user(1000, &list).code, 0);
}

#[test]
fn a_flipped_byte_is_found_marked_and_never_shown() {
    require!(fuse);
    let mount = quiet();
    fs::write(mount.path().join("a"), vec![7; 100_000]).unwrap();
    let id = create(&mount, &[]);
    fs::write(mount.path().join("a"), "changed").unwrap();
    create(&mount, &[]);
    let checked: VerifyReport = json(&mount, &["verify", "--deep"]);
    assert_eq!((checked.damaged.len(), checked.objects), (0, 1));
    let object = objects(&mount).pop().unwrap();
    OpenOptions::new().write(true).open(&object).unwrap().write_all_at(&[8], 50_000).unwrap();
    assert_eq!(json::<VerifyReport>(&mount, &["verify"]).damaged.len(), 0, "the size is right");
    let found = run(&mount, &["verify", "--deep", "--json"]).output().expect_code(11);
    let report: VerifyReport = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!(report.damaged.len(), 1);
    assert_eq!(report.damaged[0].path.as_deref(), Some("a"));
    assert!(report.damaged[0].snapshots.contains(&id), "{report:?}");
    let degraded = snapshots(&mount).into_iter().find(|snapshot| snapshot.id == id).unwrap();
    assert_eq!(degraded.safety, SnapshotSafety::Degraded);
    let versions: VersionReport = json(&mount, &["versions", "a"]);
    assert!(
        versions.items.iter().any(|version| version.certainty == VersionCertainty::Damaged),
        "{versions:?}"
    );
    fs::remove_file(&object).unwrap();
    run(&mount, &["verify"]).output().expect_code(11);
}

#[test]
fn what_was_taken_away_is_hashed_in_the_background() {
    require!(fuse);
    let mount = quiet();
    let path = mount.path().join("a");
    fs::write(&path, vec![7; 100_000]).unwrap();
    let old = std::time::SystemTime::now() - Duration::from_secs(100);
    File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    create(&mount, &[]);
    fs::remove_file(&path).unwrap();
    create(&mount, &[]);
    assert_eq!(json::<VerifyReport>(&mount, &["verify"]).unhashed, 1);
    wait_until("the object to be hashed", Duration::from_secs(60), || {
        json::<VerifyReport>(&mount, &["verify"]).unhashed == 0
    });
    assert_eq!(json::<VerifyReport>(&mount, &["verify", "--deep"]).bytes, 100_000);
}

#[test]
fn retention_can_be_seen_before_it_acts() {
    require!(fuse);
    let mount = quiet();
    fs::write(mount.path().join("a"), "one").unwrap();
    let id = create(&mount, &[]);
    let preview: RetentionPreview = json(&mount, &["retention", "preview"]);
    assert_eq!(preview.items.len(), 1);
    assert_eq!(preview.items[0].id, id);
    assert!(preview.items[0].kept_because.contains(&"newest".to_owned()), "{preview:?}");
    let text = run(&mount, &["retention", "preview"]).output().ok();
    assert!(text.contains("BECAUSE") && text.contains("yes"), "{text}");
}

#[test]
fn a_damaged_catalog_is_set_aside_and_made_again_from_the_log() {
    require!(fuse);
    for damage in ["truncated", "garbage"] {
        let mut mount = quiet();
        wait_for_history(&mount);
        fs::write(mount.path().join("a"), "one").unwrap();
        let id = create(&mount, &["--name", "kept"]);
        wait_until("the snapshot to be durable", PATIENCE, || {
            snapshots(&mount).iter().all(|snapshot| snapshot.safety == SnapshotSafety::Durable)
        });
        // Then the catalog is written back as well.
        std::thread::sleep(Duration::from_secs(1));
        mount.daemon_mut().kill_all();
        let catalog = store(&mount).join("catalog.sqlite");
        let bytes = fs::read(&catalog).unwrap();
        match damage {
            "truncated" => fs::write(&catalog, &bytes[..bytes.len().min(5_000)]).unwrap(),
            _ => fs::write(&catalog, vec![0x5a; 20_000]).unwrap(),
        }
        for suffix in ["-wal", "-shm"] {
            drop(fs::remove_file(store(&mount).join(format!("catalog.sqlite{suffix}"))));
        }
        mount.daemon_mut().start_again();
        fs::write(mount.path().join("b"), "the data path is untouched").unwrap();
        wait_for_history(&mount);
        let found = snapshots(&mount);
        assert!(found.iter().any(|snapshot| snapshot.id == id), "{damage}: {found:?}");
        let told = wait_for(damage, PATIENCE, || events(&mount, EventKind::HistoryDamaged).pop());
        assert!(told.message.contains("made again"), "{told:?}");
        let aside = fs::read_dir(store(&mount)).unwrap();
        let names: Vec<_> = aside.map(|entry| entry.unwrap().file_name()).collect();
        assert!(names.iter().any(|name| name.to_string_lossy().contains("damaged-")), "{names:?}");
    }
}

#[test]
fn what_was_decided_about_snapshots_outlives_the_catalog() {
    require!(fuse);
    let mut mount = quiet();
    wait_for_history(&mount);
    let mut ids = Vec::new();
    for name in ["held", "removed", "plain"] {
        fs::write(mount.path().join("a"), name).unwrap();
        ids.push(create(&mount, &["--name", name]));
    }
    let cli = |mount: &GuardMount, arguments: &[&str]| {
        mount.daemon().command().current_dir(mount.path()).args(arguments).ok()
    };
    cli(&mount, &["snapshot", "hold", "held"]);
    cli(&mount, &["snapshot", "rm", "removed", "--yes"]);
    mount.daemon_mut().kill_all();
    for suffix in ["", "-wal", "-shm"] {
        drop(fs::remove_file(store(&mount).join(format!("catalog.sqlite{suffix}"))));
    }
    mount.daemon_mut().start_again();
    wait_for_history(&mount);
    let found = snapshots(&mount);
    let known = |id| found.iter().find(|snapshot| snapshot.id == id);
    assert!(known(ids[0]).is_some_and(|snapshot| snapshot.held), "{found:?}");
    assert!(known(ids[1]).is_none(), "{found:?}");
    assert!(known(ids[2]).is_some_and(|snapshot| !snapshot.held), "{found:?}");
    let read = |name: &str| fs::read_to_string(mount.path().join(".snapshots").join(name).join("a")).unwrap();
    assert_eq!((read("held"), read("plain")), ("held".to_owned(), "plain".to_owned()));
}

#[test]
fn without_a_store_a_workspace_works_and_says_why_it_has_no_history() {
    require!(fuse, ext4);
    let file: fn(&Path) = |store| fs::write(store, "in its place").unwrap();
    let foreign: fn(&Path) = |store| {
        fs::create_dir(store).unwrap();
        std::os::unix::fs::chown(store, Some(1000), Some(1000)).unwrap();
    };
    for (what, spoil) in [("a file", file), ("somebody's directory", foreign)] {
        let mount = GuardMount::builder()
            .backing(Backing::Loop(FsKind::Ext4, 64 << 20))
            .mount_prepared(|dir| spoil(&dir.ancestors().nth(2).unwrap().join(".wsguard")));
        fs::write(mount.path().join("a"), "works").unwrap();
        fs::remove_file(mount.path().join("a")).unwrap();
        wait_until(what, PATIENCE, || {
            let workspace = mount.daemon().workspace(&mount.workspace().id);
            workspace.history.is_some_and(|history| matches!(history.state, HistoryState::Off { .. }))
        });
        let text = mount.daemon().cli(["status"]).ok();
        assert!(text.contains("no history:"), "{what}: {text}");
        let refused = run(&mount, &["snapshot", "create"]).output().expect_code(7);
        assert!(refused.stderr.contains("no history"), "{what}: {}", refused.stderr);
        let told = wait_for("an event", PATIENCE, || events(&mount, EventKind::HistoryOff).pop());
        assert!(told.message.contains(".wsguard"), "{what}: {told:?}");
    }
}

#[test]
fn a_full_disk_evicts_trash_and_lets_users_go_on() {
    require!(fuse, ext4);
    let mount = GuardMount::builder()
        .backing(Backing::Loop(FsKind::Ext4, 256 << 20))
        .daemon(
            Daemon::builder().config("[snapshots]\nauto-seconds = 3600\n[quota]\nmin-free-mebibytes = 0\n"),
        )
        .mount();
    wait_for_history(&mount);
    let free = |mount: &GuardMount| {
        let stat = rustix::fs::statvfs(mount.backing().path()).unwrap();
        stat.f_bavail * stat.f_frsize
    };
    let size = 60 << 20;
    // Twice what the disk holds goes through it. What is deleted within two seconds is not kept.
    for round in 0..9 {
        let path = mount.path().join(format!("f{round}"));
        fs::write(&path, vec![round as u8; size]).unwrap_or_else(|error| panic!("round {round}: {error}"));
        std::thread::sleep(Duration::from_millis(2_200));
        fs::remove_file(&path).unwrap_or_else(|error| panic!("round {round}: {error}"));
    }
    let told = wait_for("an event", PATIENCE, || events(&mount, EventKind::HistoryEvicted).pop());
    assert!(told.message.contains("gave up"), "{told:?}");
    wait_until("a tenth of the disk to be free", PATIENCE, || free(&mount) > 20 << 20);
    assert!(fs::read_to_string(mount.path().join(".wsguard/notices")).unwrap().contains("gave up"));
    // Old trash went, the newest is there.
    let newest: VersionReport = json(&mount, &["versions", "f8"]);
    assert_eq!(newest.items[0].size, Some(size as u64));
    run(&mount, &["versions", "f0"]).output().expect_code(3);
}

#[test]
fn a_worker_that_dies_while_it_collects_garbage_leaves_nothing_wrong() {
    require!(fuse, ext4);
    if !cfg!(debug_assertions) {
        println!("SKIPPED: needs fail points, see tests/README.md");
        return;
    }
    let scratch = harness::Scratch::new();
    let list = scratch.path().join("deaths");
    let config = "[snapshots]\nauto-seconds = 3600\n[snapshots.retention]\ntrash-days = 0\n";
    let daemon = Daemon::builder().config(config).env("WSGUARD_FAIL_POINTS", list.to_str().unwrap());
    let mount = GuardMount::builder().backing(Backing::on(FsKind::Ext4)).daemon(daemon).mount();
    wait_for_history(&mount);
    // Rows are condemned and objects there; objects gone and rows there; both gone.
    for stage in ["prepared", "effect", "noted"] {
        let at = |name: &str| mount.path().join(format!("{stage}-{name}"));
        fs::write(at("kept"), "kept").unwrap();
        create(&mount, &["--hold"]);
        for n in 0..8 {
            fs::write(at(&format!("f{n}")), format!("{stage} {n}")).unwrap();
        }
        let id = create(&mount, &[]).to_string();
        for n in 0..8 {
            fs::remove_file(at(&format!("f{n}"))).unwrap();
        }
        fs::write(at("kept"), "new").unwrap();
        let held = create(&mount, &["--hold"]);
        let before = objects(&mount).len();
        let worker = mount.daemon().worker_pid();
        // One that has just begun is not started again at once.
        std::thread::sleep(Duration::from_millis(600));
        fs::write(&list, format!("collect {stage}\n")).unwrap();
        run(&mount, &["snapshot", "rm", &id, "--yes"]).output().ok();
        wait_until("the worker to die", PATIENCE, || mount.daemon().worker_pid() != worker);
        wait_for_history(&mount);
        wait_until("the garbage to go", PATIENCE, || objects(&mount).len() + 8 == before);
        let report: VerifyReport = json(&mount, &["verify"]);
        assert!(report.damaged.is_empty(), "{stage}: {report:?}");
        assert!(snapshots(&mount).iter().any(|snapshot| snapshot.id == held));
        let shown = mount.path().join(".snapshots").join((id.parse::<u32>().unwrap() - 1).to_string());
        assert_eq!(fs::read(shown.join(format!("{stage}-kept"))).unwrap(), b"kept", "{stage}");
    }
}

#[test]
fn collected_garbage_leaves_the_disk_and_the_store() {
    require!(fuse, ext4);
    let config = "[snapshots]\nauto-seconds = 3600\n[snapshots.retention]\ntrash-days = 0\n";
    let mount = GuardMount::builder()
        .backing(Backing::Loop(FsKind::Ext4, 256 << 20))
        .daemon(Daemon::builder().config(config))
        .mount();
    wait_for_history(&mount);
    let used = |mount: &GuardMount| {
        Run::new("sync").arg("-f").arg(mount.backing().path()).ok();
        let stat = rustix::fs::statvfs(mount.backing().path()).unwrap();
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    };
    create(&mount, &["--hold"]);
    let before = used(&mount);
    for n in 0..20 {
        fs::write(mount.path().join(format!("f{n}")), vec![n; 1 << 20]).unwrap();
    }
    let id = create(&mount, &[]).to_string();
    for n in 0..20 {
        fs::remove_file(mount.path().join(format!("f{n}"))).unwrap();
    }
    create(&mount, &["--hold"]);
    assert_eq!(objects(&mount).len(), 20);
    assert!(used(&mount) >= before + (20 << 20));
    let plan = run(&mount, &["snapshot", "rm", &id, "--dry-run", "--json"]).output().ok();
    run(&mount, &["snapshot", "rm", &id, "--yes"]).output().ok();
    wait_until("the objects to go", PATIENCE, || objects(&mount).is_empty());
    let after = used(&mount);
    assert!(after <= before + (2 << 20), "{before} before, {after} after; {plan}");
}

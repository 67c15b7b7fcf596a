//! The daemon goes on with another program while programs work on the mount.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use harness::{
    Backing, Daemon, DaemonBuilder, GuardMount, Run, children, command_line, is_alive, kill, mounts, require,
    require_tool, run_as, wait_until, wsguard_binary,
};
use rustix::process::Signal;
use wsguard_api::{DaemonStatus, UpgradeOutcome};

use super::{
    ground::{Ground, alone},
    load::{Load, make_listed_files},
    stall::StallProbe,
};

/// Longer than a worker counts as young.
const OLD: Duration = Duration::from_millis(700);

/// Another file with the same program.
fn copy_of_program(path: &Path) -> PathBuf {
    fs::copy(wsguard_binary(), path).unwrap();
    path.to_path_buf()
}

/// A program that says which versions it works with, and then does something else.
fn program_that(daemon: &Daemon, name: &str, script: &str) -> PathBuf {
    let real = wsguard_binary();
    let text = format!(
        "#!/bin/sh\nreal={}\ncase \" $* \" in *' --versions '*) exec \"$real\" \"$@\";; esac\n{script}\n",
        real.display()
    );
    script_file(&daemon.dir().join(name), &text)
}

fn script_file(path: &Path, text: &str) -> PathBuf {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_path_buf()
}

fn upgrade(daemon: &Daemon, binary: &Path) -> Run {
    daemon.command().args(["daemon", "upgrade", "--binary"]).arg(binary)
}

/// What must not change: the superblocks, by their device numbers.
fn guarded(daemon: &Daemon) -> Vec<(PathBuf, String)> {
    let ours = mounts().into_iter().filter(|mount| mount.mount_point.starts_with(daemon.runtime_dir()));
    ours.map(|mount| (mount.mount_point, mount.device)).collect()
}

fn outcome(status: &DaemonStatus) -> &UpgradeOutcome {
    &status.upgrades.last().expect("there was an upgrade").outcome
}

/// fio writes and reads back in a directory of the mount until `work` has ended; not one error.
fn under_fio(ground: &Ground, work: impl FnOnce()) {
    let Some(fio) = require_tool("fio") else { return };
    let (dir, _, log) = ground.dirs("fio");
    let stop = log.join("stop");
    // Each run ends by itself; the loop around it, by the file.
    let script = "n=0; while [ ! -e \"$3\" ]; do \"$1\" --name=verify --directory=\"$2\" --rw=randwrite --bs=4k \
                  --size=4m --numjobs=2 --ioengine=psync --fsync=32 --verify=crc32c --verify_fatal=1 \
                  --verify_backlog=64 --do_verify=1 --verify_state_save=0 --group_reporting >&2; n=$((n+1)); done; echo $n";
    thread::scope(|scope| {
        let run = scope.spawn(|| {
            Run::shell(script, [fio.as_os_str(), dir.as_os_str(), stop.as_os_str()])
                .timeout(Duration::from_secs(100))
                .output()
        });
        thread::sleep(Duration::from_millis(500));
        work();
        thread::sleep(Duration::from_millis(500));
        File::create(&stop).unwrap();
        let output = run.join().unwrap().expect_code(0);
        assert!(
            output.stderr.contains("err= 0") && !output.stderr.contains("verify: bad"),
            "{}",
            output.stderr
        );
        println!("fio: {} runs", output.stdout.trim());
    });
}

fn ground_with(daemon: DaemonBuilder) -> Ground {
    Ground::with_daemon(Backing::Directory, daemon.deadline(Duration::from_secs(150)), make_listed_files)
}

#[test]
fn daemon_is_upgraded_while_fio_writes_and_verifies() {
    require!(fuse);
    let _alone = alone();
    let ground = ground_with(Daemon::builder());
    let daemon = ground.daemon();
    let (before, mounted) = (daemon.status(), guarded(daemon));
    let probe = StallProbe::start(&ground.dirs("probe").0.join("probe"));
    under_fio(&ground, || {
        for number in 1..=3 {
            let program = copy_of_program(&daemon.dir().join(format!("wsguard-{number}")));
            let output = upgrade(daemon, &program).output().expect_code(0);
            assert!(output.stdout.contains(&format!("generation  {}\n", number + 1)), "{}", output.stdout);
            let status = daemon.status();
            assert_eq!((status.generation, status.restarts), (number + 1, 0), "{status:?}");
            assert_eq!(fs::read_link(format!("/proc/{}/exe", status.worker_pid)).unwrap(), program);
            println!("upgrade {number}: {:?}, worst call {:?}", outcome(&status), probe.take_worst());
        }
    });
    probe.finish();
    let after = daemon.status();
    assert_eq!(after.keeper_pid, before.keeper_pid);
    assert_eq!((guarded(daemon), after.events.len(), after.upgrades.len()), (mounted, 0, 3));
    assert_eq!(after.keeper, before.keeper);
    assert_eq!(after.worker.unwrap().path, daemon.dir().join("wsguard-3"));
}

#[test]
fn every_program_goes_on_over_upgrades() {
    require!(fuse);
    let _alone = alone();
    let ground = ground_with(Daemon::builder());
    let load = Load::start(&ground);
    for generation in 2..=6 {
        thread::sleep(Duration::from_millis(400));
        let text = upgrade(ground.daemon(), &wsguard_binary()).arg("--json").ok();
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(report["generation"], generation, "{text}");
        assert!(report["stall_ms"].is_u64() && report["to"]["version"].is_string(), "{text}");
    }
    println!("five upgrades: {}", load.finish());
    assert_eq!(ground.daemon().status().restarts, 0);
}

#[test]
fn program_that_dies_at_its_start_makes_room_for_the_old_one() {
    require!(fuse);
    let _alone = alone();
    let ground = ground_with(Daemon::builder());
    let daemon = ground.daemon();
    let (worker, mounted) = (daemon.status().worker.unwrap(), guarded(daemon));
    let program = program_that(daemon, "dies", "echo out of order >&2; exit 3");
    under_fio(&ground, || {
        let output = upgrade(daemon, &program).output().expect_code(1);
        assert!(output.stderr.contains("did not come up"), "{}", output.stderr);
        assert!(
            output.stderr.contains("serves on") && output.stderr.contains("exit status: 3"),
            "{}",
            output.stderr
        );
    });
    let status = daemon.status();
    assert_eq!((status.generation, status.restarts, &status.worker), (3, 1, &Some(worker)));
    assert!(matches!(outcome(&status), UpgradeOutcome::Failed { .. }), "{:?}", status.upgrades);
    assert_eq!(guarded(daemon), mounted);
    let text = daemon.cli(["status"]).ok();
    assert!(text.contains("failed, exit status: 3"), "{text}");
}

#[test]
fn program_that_hangs_makes_room_for_the_old_one_with_all_its_children() {
    require!(fuse);
    let _alone = alone();
    let ground = ground_with(Daemon::builder().config("[daemon]\nupgrade-seconds = 1\n"));
    let daemon = ground.daemon();
    let program = program_that(daemon, "hangs", "sleep 987654; exit 0");
    under_fio(&ground, || {
        let output = upgrade(daemon, &program).output().expect_code(1);
        assert!(output.stderr.contains("did not take over within 1 s"), "{}", output.stderr);
    });
    assert_eq!(daemon.status().generation, 3);
    let sleeping = fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let pid = entry.file_name().to_string_lossy().parse().unwrap_or(0);
        pid != 0 && command_line(pid) == "sleep 987654" && is_alive(pid)
    });
    assert!(!sleeping, "a child of the program is left over");
}

#[test]
fn program_that_cannot_take_over_is_refused_before_anything_changes() {
    require!(fuse);
    let _alone = alone();
    let ground = ground_with(Daemon::builder());
    let daemon = ground.daemon();
    let before = daemon.status();
    let real = wsguard_binary();
    let with = |name: &str, edit: &str| {
        let text = format!("#!/bin/sh\n{} \"$@\" | sed '{edit}'\n", real.display());
        script_file(&daemon.dir().join(name), &text)
    };
    let text_file = daemon.dir().join("text");
    fs::write(&text_file, "no program").unwrap();
    let cases = [
        (PathBuf::from("/bin/false"), "it does not answer `daemon --versions` (exit status: 1)", 2),
        (PathBuf::from("/bin/true"), "it does not say which versions it works with", 2),
        (with("layout", r#"s/"state_layouts":\[[0-9]*\]/"state_layouts":[99]/"#), "layout 99", 2),
        (with("protocol", r#"s/"keeper_protocols":\[[0-9]*\]/"keeper_protocols":[98]/"#), "version 98", 2),
        (with("catalog", r#"s/"catalog_format":[0-9]*/"catalog_format":0/"#), "up to format 0", 2),
        (script_file(&daemon.dir().join("slow"), "#!/bin/sh\nsleep 987653\n"), "within 5 s", 2),
        (text_file, "cannot be executed", 2),
        (daemon.dir().to_path_buf(), "not a regular file", 2),
    ];
    for (program, reason, code) in cases {
        let output = upgrade(daemon, &program).output().expect_code(code);
        assert!(
            output.stderr.contains(reason) && output.stderr.contains("hint: "),
            "{reason}: {}",
            output.stderr
        );
    }
    upgrade(daemon, Path::new("/nonexistent/wsguard")).output().expect_code(3);
    let after = daemon.status();
    assert_eq!((after.generation, after.worker_pid), (1, before.worker_pid));
    assert!(after.upgrades.is_empty(), "{:?}", after.upgrades);
}

#[test]
fn program_whose_workers_die_soon_after_makes_room_for_the_old_one() {
    require!(fuse);
    let _alone = alone();
    let ground = ground_with(Daemon::builder());
    let daemon = ground.daemon();
    let flag = daemon.dir().join("broken");
    let script = format!("[ -e {} ] && exit 4\nexec \"$real\" \"$@\"", flag.display());
    let program = program_that(daemon, "fails-later", &script);
    let file = File::options().create(true).append(true).open(ground.mount.path().join("file")).unwrap();
    upgrade(daemon, &program).output().expect_code(0);
    assert_eq!(daemon.status().worker.unwrap().path, program);
    thread::sleep(OLD);
    File::create(&flag).unwrap();
    children(daemon.keeper_pid()).into_iter().for_each(|worker| kill(worker, Signal::KILL));
    rustix::io::write(&file, b"waited").unwrap();
    let mut content = [0; 6];
    File::open(ground.mount.path().join("file")).unwrap().read_exact_at(&mut content, 0).unwrap();
    assert_eq!(&content, b"waited");
    let status = daemon.status();
    assert_eq!((status.generation, status.restarts), (5, 3));
    let UpgradeOutcome::RolledBack { reason } = outcome(&status) else { panic!("{:?}", status.upgrades) };
    assert!(reason.contains("3 of its workers died") && reason.contains("exit status: 4"), "{reason}");
    assert_eq!(status.worker, status.keeper);
}

#[test]
fn program_that_was_installed_meanwhile_is_taken_and_survives_a_kill() {
    require!(fuse);
    let _alone = alone();
    let bin = harness::Scratch::new();
    let installed = copy_of_program(&bin.path().join("wsguard"));
    let mount = GuardMount::builder().daemon(Daemon::builder().program(&installed)).mount();
    let daemon = mount.daemon();
    let new = copy_of_program(&bin.path().join("new"));
    fs::rename(&new, &installed).unwrap();
    let exe = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    assert!(exe(daemon.worker_pid()).to_string_lossy().ends_with(" (deleted)"));
    daemon.cli(["daemon", "upgrade"]).ok();
    assert_eq!(exe(daemon.worker_pid()), installed);
    assert!(
        exe(daemon.keeper_pid()).to_string_lossy().ends_with(" (deleted)"),
        "the keeper stays what it is"
    );
    thread::sleep(OLD);
    fs::remove_file(&installed).unwrap();
    kill(daemon.worker_pid(), Signal::KILL);
    fs::write(mount.path().join("file"), "waited").unwrap();
    let status = daemon.status();
    assert_eq!((status.generation, status.restarts), (3, 1));
    // There is no file any more, and nothing has changed by that.
    daemon.cli(["daemon", "upgrade"]).expect_code(3);
    assert_eq!(daemon.status().worker_pid, status.worker_pid);
}

#[test]
fn only_root_may_upgrade() {
    require!(fuse);
    let _alone = alone();
    let ground = ground_with(Daemon::builder());
    let program = copy_of_program(&ground.daemon().dir().join("wsguard"));
    let output = run_as(1000, 1000, &[], &program)
        .args(["daemon", "upgrade", "--socket"])
        .arg(ground.daemon().socket())
        .output()
        .expect_code(9);
    assert!(output.stderr.contains("only root may do this"), "{}", output.stderr);
    assert_eq!(ground.daemon().status().generation, 1);
}

#[test]
fn daemon_that_is_told_to_stop_during_an_upgrade_unmounts_everything() {
    require!(fuse);
    let _alone = alone();
    let mut mount = GuardMount::builder()
        .daemon(Daemon::builder().config("[daemon]\nupgrade-seconds = 60\nwatchdog-seconds = 0\n"))
        .mount();
    let program = program_that(mount.daemon(), "hangs", "sleep 987652; exit 0");
    let keeper = mount.daemon().keeper_pid();
    let stopped = thread::scope(|scope| {
        let command = upgrade(mount.daemon(), &program);
        let asking = scope.spawn(move || command.output());
        wait_until("the new program to be tried", Duration::from_secs(20), || {
            children(keeper)
                .into_iter()
                .any(|pid| children(pid).into_iter().any(|child| command_line(child) == "sleep 987652"))
        });
        let stopped = mount.daemon_mut().terminate();
        assert_ne!(asking.join().unwrap().code, 0);
        stopped
    });
    assert_eq!(stopped.code, 0, "after {:?}; log:\n{}", stopped.elapsed, mount.daemon().log());
    assert_eq!(guarded(mount.daemon()), [], "everything is unmounted");
}

//! The browser in a real terminal, with a real daemon. What it shows in each state is compared in `cli/src/browse`.

use std::{
    ffi::OsStr,
    fs,
    io::{Read, Write},
    os::unix::{ffi::OsStrExt, fs::MetadataExt, net::UnixStream},
    time::Duration,
};

use harness::{Daemon, GuardMount, Run, Terminal, as_user, require, wait_until};
use wsguard_api::SnapshotTaken;

const PATIENCE: Duration = Duration::from_secs(20);

/// A workspace that takes no snapshot by itself, and a snapshot of it.
fn workspace() -> GuardMount {
    let mount =
        GuardMount::builder().daemon(Daemon::builder().config("[snapshots]\nauto-seconds = 3600\n")).mount();
    fs::write(mount.path().join("notes.txt"), "first line\nsecond line\n").unwrap();
    fs::create_dir(mount.path().join("dir")).unwrap();
    fs::write(mount.path().join("dir/kept.txt"), "kept").unwrap();
    mount
}

fn take_snapshot(mount: &GuardMount, name: &str) -> u32 {
    let text = mount
        .daemon()
        .command()
        .args(["snapshot", "create", "--name", name, "--json"])
        .current_dir(mount.path())
        .ok();
    serde_json::from_str::<SnapshotTaken>(&text).unwrap().id
}

#[test]
fn a_deleted_file_is_found_marked_and_restored() {
    require!(fuse);
    let mount = workspace();
    let odd = mount.path().join(OsStr::from_bytes(b"odd\xff\x1b[2J.txt"));
    fs::write(&odd, "odd").unwrap();
    take_snapshot(&mount, "before");
    let lost = mount.path().join("notes.txt");
    let inode = fs::metadata(&lost).unwrap().ino();
    fs::remove_file(&lost).unwrap();
    fs::remove_file(&odd).unwrap();
    let Some(terminal) = Terminal::open(mount.daemon(), mount.path(), 80, 24) else { return };
    terminal.type_line("wsguard browse");
    // The newest moment is the one before the deletion.
    terminal.wait_for("before 2 deleted");
    terminal.wait_for("(3 names)");
    terminal.press(&["j"]);
    terminal.wait_for("#1 before");
    terminal.wait_for("D  notes.txt");
    assert!(terminal.screen().contains(r"D  odd\xff\u{1b}[2J.txt"), "{}", terminal.screen());
    // In the directory: the preview of the file, then the difference.
    terminal.press(&["Tab", "/", "n", "o", "t", "e", "s", "Enter", "p"]);
    terminal.wait_for("second line");
    terminal.press(&["d"]);
    terminal.wait_for("-second line");
    // Both are marked, looked at and restored.
    terminal.press(&["m", "Escape"]);
    terminal.wait_for("1 path marked");
    terminal.wait_for("(3 names)");
    terminal.press(&["G", "m"]);
    terminal.wait_for("2 paths marked");
    terminal.press(&["r"]);
    terminal.wait_for("2 files and 0 directories would be restored");
    terminal.press(&["y"]);
    terminal.wait_for("restore 1 done");
    assert_eq!(fs::read_to_string(&lost).unwrap(), "first line\nsecond line\n");
    assert_eq!(fs::metadata(&lost).unwrap().ino(), inode, "the file itself came back");
    assert_eq!(fs::read_to_string(&odd).unwrap(), "odd");
    terminal.press(&["x", "Tab", "Tab", "g", "q"]);
    terminal.wait_for_shell();
    terminal.type_line("echo ended with $?");
    terminal.wait_for("ended with 0");
}

#[test]
fn the_terminal_is_as_it_was_after_a_signal_and_fits_any_size() {
    require!(fuse);
    let mount = workspace();
    take_snapshot(&mount, "one");
    let Some(terminal) = Terminal::open(mount.daemon(), mount.path(), 80, 24) else { return };
    for signal in ["TERM", "INT", "HUP"] {
        terminal.type_line("sh -c 'echo $$ > ../pid; exec wsguard browse dir'; echo ended with $?");
        terminal.wait_for("kept.txt");
        for (columns, rows) in [(200, 60), (20, 5), (1, 1), (80, 24)] {
            terminal.resize(columns, rows);
        }
        terminal.wait_for("kept.txt");
        let pid = fs::read_to_string(mount.path().with_file_name("pid")).unwrap();
        Run::new("kill").args([&format!("-{signal}"), pid.trim()]).ok();
        terminal.wait_for_shell();
        terminal.wait_for("ended with 130");
        terminal.type_line(
            "clear; echo flags $(stty -a | tr ' ;' '\\n\\n' | grep -cxE 'icanon|echo|isig|opost')",
        );
        terminal.wait_for("flags 4");
        terminal.type_line("clear");
        wait_until("the screen to be cleared", PATIENCE, || !terminal.screen().contains("flags 4"));
    }
}

#[test]
fn a_terminal_and_a_workspace_are_needed() {
    require!(fuse);
    let mount = workspace();
    let run = || mount.daemon().command().args(["browse"]).current_dir(mount.path());
    let output = run().output().expect_code(2);
    assert!(output.stderr.contains("needs a terminal"), "{}", output.stderr);
    assert!(run().arg("--json").output().expect_code(2).stdout.contains("invalid-request"));
    let Some(terminal) = Terminal::open(mount.daemon(), mount.path(), 80, 24) else { return };
    terminal.type_line("wsguard browse /; echo ended with $?");
    terminal.wait_for("is not in a workspace");
    terminal.wait_for("ended with 3");
}

/// Asks the daemon as a user for something as of the first snapshot, and returns the whole answer.
fn ask(mount: &GuardMount, uid: u32, route: &str, name: &str) -> String {
    let path = mount.path().join(name);
    let body = serde_json::json!({ "path": path, "when": { "kind": "snapshot", "value": "1" } }).to_string();
    let head = format!("POST /v1/past/{route} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    as_user(uid, uid, &[], || {
        let mut socket = UnixStream::connect(mount.daemon().socket()).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    })
}

#[test]
fn only_the_owner_may_look_at_the_past() {
    require!(fuse);
    let mount = workspace();
    take_snapshot(&mount, "one");
    let seen = ask(&mount, 0, "read", "notes.txt");
    assert!(seen.contains("second line"), "{seen}");
    for (route, name) in [("read", "notes.txt"), ("list", "dir")] {
        let refused = ask(&mount, 4242, route, name);
        assert!(refused.contains("404") && !refused.contains("second line"), "{refused}");
        assert!(!refused.contains("kept.txt"), "{refused}");
    }
    let refused = ask(&mount, 0, "list", "notes.txt");
    assert!(refused.contains("was no directory then"), "{refused}");
}

#[test]
fn what_was_changed_past_the_mount_is_named_and_its_bytes_are_not_given() {
    require!(fuse);
    let mount = workspace();
    take_snapshot(&mount, "one");
    let names = ["notes.txt", "dir/kept.txt"];
    for name in names {
        let exact = ask(&mount, 0, "read", name);
        assert!(exact.contains("\"certainty\":\"exact\""), "{exact}");
    }
    std::thread::sleep(Duration::from_millis(50));
    fs::write(mount.backing_path().join("notes.txt"), "past the mount\n").unwrap();
    wait_until("the change to be noticed", PATIENCE, || {
        ask(&mount, 0, "read", "notes.txt").contains("\"certainty\":\"changed-outside\"")
    });
    let changed = ask(&mount, 0, "read", "notes.txt");
    assert!(changed.contains("\"bytes\":\"\""), "{changed}");
    let listed = ask(&mount, 0, "list", "");
    assert!(listed.contains("changed-outside"), "{listed}");
    assert!(ask(&mount, 0, "read", "dir/kept.txt").contains("\"bytes\":\"kept\""));
}

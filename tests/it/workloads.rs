//! Programs that people run in a workspace. The long ones need `WSGUARD_LONG=1`.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use harness::{GuardMount, Run, Scratch, require, require_tool, run_as};

use crate::tree;

const LIMIT: Duration = Duration::from_secs(1_200);

fn mount() -> GuardMount {
    GuardMount::builder().deadline(LIMIT).mount()
}

/// Makes a tree of `files` text files in directories of a hundred.
fn sources(dir: &Path, files: u32) {
    for index in 0..files {
        let parent = dir.join(format!("dir-{}", index / 100));
        fs::create_dir_all(&parent).unwrap();
        fs::write(parent.join(format!("file-{index}.txt")), format!("line {index}\n").repeat(50)).unwrap();
    }
}

fn git(repository: &Path, arguments: &[&str]) -> String {
    Run::new("git")
        .args(["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "safe.directory=*", "-C"])
        .arg(repository)
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .timeout(LIMIT)
        .ok()
}

fn git_round(files: u32) {
    let (mount, outside) = (mount(), Scratch::new());
    let origin = outside.dir("origin");
    git(&origin, &["init", "--quiet"]);
    sources(&origin, files);
    git(&origin, &["add", "."]);
    git(&origin, &["commit", "--quiet", "-m", "first"]);
    git(mount.path(), &["clone", "--quiet", "--no-local", origin.to_str().unwrap(), "clone"]);
    let clone = mount.path().join("clone");
    fs::write(clone.join("dir-0/file-0.txt"), "edited").unwrap();
    git(&clone, &["commit", "--quiet", "-a", "-m", "second"]);
    git(&clone, &["gc", "--quiet", "--prune=now"]);
    assert_eq!(git(&clone, &["fsck", "--full", "--strict"]), "");
    assert_eq!(git(&clone, &["status", "--porcelain"]), "");
    git(&clone, &["checkout", "--quiet", "HEAD~1"]);
    Run::new("diff").args(["-r", "--exclude=.git"]).arg(&origin).arg(&clone).timeout(LIMIT).ok();
}

#[test]
fn git_clones_commits_collects_and_checks() {
    require!(fuse);
    if require_tool("git").is_some() {
        git_round(500);
    }
}

#[test]
fn git_handles_ten_thousand_files() {
    require!(fuse, long);
    if require_tool("git").is_some() {
        git_round(10_000);
    }
}

fn tar_round(files: u32) {
    let (mount, outside) = (mount(), Scratch::new());
    let source = outside.dir("source");
    sources(&source, files);
    std::os::unix::fs::symlink("dir-0", source.join("link")).unwrap();
    fs::hard_link(source.join("dir-0/file-0.txt"), source.join("hard")).unwrap();
    let script =
        "tar -C \"$1\" -cf \"$2/all.tar\" . && mkdir \"$2/out\" && tar -C \"$2/out\" -xpf \"$2/all.tar\"";
    Run::shell(script, [source.as_path(), mount.path()]).timeout(LIMIT).ok();
    tree::assert_same(&[
        ("packed", &tree::read(&source)),
        ("unpacked", &with_whole_seconds(&mount.path().join("out"), &source)),
        ("below the mount", &tree::read(&mount.backing_path().join("out"))),
    ]);
}

/// Reads the tree after giving its files the modification times of `model`: tar keeps whole seconds only.
fn with_whole_seconds(dir: &Path, model: &Path) -> tree::Tree {
    let script =
        "cd \"$2\" && find . -print0 | while IFS= read -r -d '' f; do touch -h -r \"$f\" \"$1/$f\"; done";
    Run::new("bash").args(["-euc", script, "bash"]).arg(dir).arg(model).timeout(LIMIT).ok();
    tree::read(dir)
}

#[test]
fn tar_brings_a_tree_back_unchanged() {
    require!(fuse);
    tar_round(300);
}

#[test]
fn tar_brings_a_large_tree_back_unchanged() {
    require!(fuse, long);
    tar_round(5_000);
}

#[test]
fn rsync_copies_a_tree_without_a_difference() {
    require!(fuse, long);
    if require_tool("rsync").is_none() {
        return;
    }
    let (mount, outside) = (mount(), Scratch::new());
    let source = outside.dir("source");
    sources(&source, 10_000);
    let copy = mount.path().join("copy");
    // Without a window of its own rsync takes times of the same second for the same. A directory that it deletes
    // from within the second in which the source's was changed then keeps the time of the deletion, on any filesystem.
    let rsync = || {
        let arguments = ["-aHAX", "--delete", "--modify-window=-1"];
        Run::new("rsync").args(arguments).arg(format!("{}/", source.display())).arg(&copy)
    };
    rsync().timeout(LIMIT).ok();
    fs::remove_file(source.join("dir-3/file-300.txt")).unwrap();
    fs::write(source.join("dir-4/file-400.txt"), "edited").unwrap();
    rsync().timeout(LIMIT).ok();
    Run::new("diff").arg("-r").arg(&source).arg(&copy).timeout(LIMIT).ok();
    tree::assert_same(&[
        ("source", &tree::read(&source)),
        ("copy", &tree::read(&copy)),
        ("copy below the mount", &tree::read(&mount.backing_path().join("copy"))),
    ]);
    assert_eq!(rsync().args(["--dry-run", "--itemize-changes"]).timeout(LIMIT).ok(), "");
}

#[test]
fn postgresql_runs_on_the_workspace_as_an_unprivileged_user() {
    require!(fuse, long);
    let Some(bin) = postgresql() else { return };
    // `daemon`: initdb looks its user up in the passwd file, and everybody has this one.
    const OWNER: u32 = 1;
    // Both policies: files of the user's own, and files that are given to the user.
    for ownership in [wsguard_api::Ownership::Preserve, wsguard_api::Ownership::Squash] {
        let mount = GuardMount::builder().owner(OWNER).ownership(ownership).deadline(LIMIT).mount();
        fs::set_permissions(mount.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (data, socket) = (mount.path().join("data"), mount.daemon().make_dir("pg"));
        rustix::fs::chown(&socket, Some(rustix::fs::Uid::from_raw(OWNER)), None).unwrap();
        let script = r#"
            bin=$1 data=$2 socket=$3
            export HOME=$socket LC_ALL=C
            "$bin/initdb" -D "$data" -U test --no-instructions >/dev/null
            "$bin/pg_ctl" -D "$data" -w -l "$socket/log" -o "-k $socket -c listen_addresses=" start >/dev/null
            trap '"$bin/pg_ctl" -D "$data" -w -m fast stop >/dev/null' EXIT
            "$bin/pgbench" -h "$socket" -U test -i -q -s 5 postgres >/dev/null 2>&1
            "$bin/pgbench" -h "$socket" -U test -c 4 -T 10 postgres
            "$bin/psql" -h "$socket" -U test -Atc 'select count(*) from pgbench_accounts' postgres
        "#;
        let output = run_as(OWNER, OWNER, &[], "/bin/sh")
            .args(["-euc", script, "sh"])
            .args([&bin, &data, &socket])
            .timeout(LIMIT)
            .output()
            .ok();
        assert!(output.contains("number of failed transactions: 0"), "{output}");
        assert!(output.trim_end().ends_with("500000"), "{output}");
    }
}

/// Returns the directory of PostgreSQL's server programs, which Debian keeps out of `PATH`.
fn postgresql() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|version| version.path().join("bin")).find(|bin| bin.join("initdb").exists());
    found.or_else(|| require_tool("initdb")?.parent().map(Path::to_path_buf))
}

#[test]
fn a_compiler_builds_on_the_workspace() {
    require!(fuse);
    let Some(cc) = require_tool("cc") else { return };
    let mount = mount();
    fs::write(mount.path().join("main.c"), "int main(void) { return 42; }\n").unwrap();
    Run::new(cc).current_dir(mount.path()).args(["-g", "-o", "program", "main.c"]).ok();
    Run::new(mount.path().join("program")).output().expect_code(42);
}

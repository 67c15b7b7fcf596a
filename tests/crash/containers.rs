//! Workers die, and dockerd is restarted, while programs work inside containers.

use std::{fs, os::unix::fs::chown, thread, time::Duration};

use harness::{Docker, GuardMount, require, wait_until};

use super::{ground::alone, killer::Killer};

const OWNER: u32 = 1000;

/// Deaths before and after the restart of dockerd.
const KILLS: usize = 5;

const HARDENED: [&str; 5] = ["--cap-drop", "ALL", "--read-only", "--security-opt", "no-new-privileges"];

const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// Works in `/workspace/$NAME` until it is told to end. Any call that fails, and any result that is not the one
/// expected, ends it with an error.
const LOAD: &str = r#"
    cd "/workspace/$NAME"
    fail() { echo "round $i: $*"; exit 3; }
    i=0
    while [ ! -e ../stop ]; do
        echo "line $i" >>log || fail append
        echo "$i" >next || fail write
        mv next current || fail rename
        [ "$(cat current)" = "$i" ] || fail read
        mkdir d && echo "$i" >d/f && ln d/f d/g && mv d/g d/h && ln -s f d/l || fail names
        [ "$(cat d/h d/l)" = "$i
$i" ] || fail links
        rm d/f d/h d/l && rmdir d || fail remove
        dd if=/dev/zero of=big bs=64k count=4 conv=fsync 2>/dev/null || fail dd
        [ "$(wc -c <big)" = 262144 ] || fail size
        exec 5<>held; rm held; echo kept >&5 || fail "write a deleted file"; exec 5>&-
        ls | grep -qx current || fail list
        chmod 640 current && [ "$(stat -c %a current)" = 640 ] || fail chmod
        i=$((i + 1))
    done
    [ "$(wc -l <log)" = "$i" ] || fail "lines in the log"
    echo "$i" >rounds
"#;

#[test]
fn programs_in_containers_do_not_notice_that_workers_die() {
    require!(fuse, docker);
    let _alone = alone();
    let mount = GuardMount::builder().owner(OWNER).deadline(Duration::from_secs(300)).mount();
    for name in ["normal", "hardened"] {
        let dir = mount.path().join(name);
        fs::create_dir(&dir).unwrap();
        chown(&dir, Some(OWNER), Some(OWNER)).unwrap();
    }
    let docker = Docker::engine();
    let normal = docker.run().volume(mount.path(), "/workspace").options(["--env", "NAME=normal"]);
    let hardened = docker.run().bind(mount.source(), "/workspace").options(HARDENED).user("1000:1000");
    let containers = [
        ("normal", normal.shell_in_background(LOAD)),
        ("hardened", hardened.options(["--env", "NAME=hardened"]).shell_in_background(LOAD)),
    ];
    for (name, _) in &containers {
        let log = mount.backing_path().join(name).join("log");
        wait_until("the container to work", STARTS_WITHIN, || log.exists());
    }
    let mut killer = Killer::new(mount.daemon());
    (0..KILLS).for_each(|_| killer.kill_at_random());
    // Its own engine only: containers of the machine's engine are nobody's business.
    let is_restarted = docker.restart();
    println!("dockerd restarted: {is_restarted}");
    (0..KILLS).for_each(|_| killer.kill_at_random());
    thread::sleep(Duration::from_millis(300));
    fs::write(mount.path().join("stop"), "").unwrap();

    for (name, container) in &containers {
        let (code, printed) = container.wait();
        assert_eq!((code, printed.as_str()), (0, ""), "the program in the {name} container failed");
        let dir = mount.backing_path().join(name);
        let rounds: usize = fs::read_to_string(dir.join("rounds")).unwrap().trim().parse().unwrap();
        let expected: String = (0..rounds).map(|round| format!("line {round}\n")).collect();
        assert_eq!(fs::read_to_string(dir.join("log")).unwrap(), expected, "{name}");
        assert!(rounds > KILLS, "{name} made {rounds} rounds only");
        println!("{name}: {rounds} rounds, {} workers died", killer.killed());
    }
}

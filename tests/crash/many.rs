//! Many workspaces in the worker that dies.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use harness::{Daemon, require};

use super::{ground::alone, killer::Killer};

const WORKSPACES: usize = 50;
const ROUNDS: usize = 3;
/// The promise is 500 ms on a machine that is not busy.
const LIMIT: Duration = Duration::from_secs(5);

#[test]
fn fifty_workspaces_answer_soon_after_a_kill() {
    require!(fuse);
    let _alone = alone();
    let daemon = Daemon::builder().deadline(Duration::from_secs(120)).start();
    let files: Vec<File> = (0..WORKSPACES)
        .map(|number| {
            let workspace = daemon.mount(&daemon.make_dir(&format!("w/{number}")));
            let path = workspace.mount_point.join("file");
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
        })
        .collect();
    let mut killer = Killer::new(&daemon);
    let mut worst = Duration::ZERO;
    for round in 0..ROUNDS {
        let barrier = Barrier::new(WORKSPACES + 1);
        let answered: Vec<Instant> = thread::scope(|scope| {
            let callers: Vec<_> = files
                .iter()
                .map(|file| {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        barrier.wait();
                        file.write_all_at(format!("round {round}").as_bytes(), 0).unwrap();
                        let answered = Instant::now();
                        let mut found = [0; 7];
                        file.read_exact_at(&mut found, 0).unwrap();
                        assert_eq!(found, *format!("round {round}").as_bytes());
                        answered
                    })
                })
                .collect();
            killer.kill_old_one();
            barrier.wait();
            callers.into_iter().map(|caller| caller.join().unwrap()).collect()
        });
        let last = answered.into_iter().max().unwrap().saturating_duration_since(killer.killed_at());
        println!("{WORKSPACES} workspaces: the last one answered {last:?} after the kill");
        worst = worst.max(last);
    }
    assert!(worst < LIMIT, "a workspace answered {worst:?} after the kill");
}

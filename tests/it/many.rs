//! Many workspaces in one daemon.

use std::{
    fs::{self, File},
    io::Write,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use harness::{Daemon, Run, mounts_below, require, wait_until};
use wsguard_api::{Workspace, WorkspaceState};

const WORKSPACES: usize = 50;

/// Threads that write; each has its own workspaces.
const WRITERS: usize = 5;

/// Workspaces in which somebody stands when the daemon stops.
const HELD: usize = 10;

/// How long a stop may take in all.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Writes a new file into one workspace after the other until one is gone.
fn write_round_robin(dirs: &[PathBuf], written: &AtomicU64, must_end: &AtomicBool) {
    for round in 0.. {
        for dir in dirs {
            let write = || {
                let mut file = File::create(dir.join(format!("file-{round}")))?;
                file.write_all(&[b'x'; 64 << 10])?;
                if round % 8 == 0 { file.sync_data() } else { Ok(()) }
            };
            if write().is_err() || must_end.load(Ordering::Relaxed) {
                return;
            }
            written.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn fifty_workspaces_stop_in_time_under_load_and_come_back() {
    require!(fuse);
    let mut daemon = Daemon::builder().deadline(Duration::from_secs(300)).start();
    let started = Instant::now();
    let before: Vec<Workspace> =
        (0..WORKSPACES).map(|number| daemon.mount(&daemon.make_dir(&format!("w/{number}")))).collect();
    println!("{WORKSPACES} mounts by command: {:?}", started.elapsed());

    let (written, must_end) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let writers: Vec<_> = before
        .chunks(WORKSPACES / WRITERS)
        .map(|share| {
            let dirs: Vec<PathBuf> = share.iter().map(|workspace| workspace.dir.clone()).collect();
            let (written, must_end) = (Arc::clone(&written), Arc::clone(&must_end));
            std::thread::spawn(move || write_round_robin(&dirs, &written, &must_end))
        })
        .collect();
    wait_until("the writers to have written", Duration::from_secs(60), || {
        written.load(Ordering::Relaxed) > 500
    });
    let stand_in = |workspace: &Workspace| {
        let run = Run::new("sleep").arg("120").current_dir(&workspace.dir);
        run.spawn(Stdio::null(), Stdio::null(), Stdio::null())
    };
    let mut holders: Vec<_> = before.iter().take(HELD).map(stand_in).collect();
    let stopped = daemon.terminate();
    must_end.store(true, Ordering::Relaxed);
    for holder in &mut holders {
        holder.kill().unwrap();
        holder.wait().unwrap();
    }
    for writer in writers {
        writer.join().unwrap();
    }
    println!("stop under load: {:?}", stopped.elapsed);
    assert_eq!(stopped.code, 0, "{}", daemon.log());
    assert!(stopped.elapsed < STOP_LIMIT, "{stopped:?}");
    assert_eq!(mounts_below(daemon.dir()), []);
    let log = daemon.log();
    for holder in &holders {
        assert!(log.contains(&format!("sleep ({})", holder.id())), "{} is not reported", holder.id());
    }

    let started = Instant::now();
    daemon.start_again();
    println!("start with {WORKSPACES} registered: {:?}", started.elapsed());
    for workspace in &before {
        let after = daemon.workspace(&workspace.id);
        assert_eq!(after.state, WorkspaceState::Mounted, "{}", workspace.name);
        assert!(fs::metadata(workspace.dir.join("file-0")).is_ok(), "{}", workspace.name);
    }
}

//! Directories that cannot be read.

use std::os::unix::fs::PermissionsExt;

use super::*;

/// Runs `work` on a thread that reads as nobody, whom permissions bind.
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if rustix::process::geteuid().is_root() {
                rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65_534)).unwrap();
            }
            work()
        });
        thread.join().unwrap()
    })
}

#[test]
fn directory_that_cannot_be_read_is_left_out_and_told_of() {
    let mut ground = Ground::new();
    ground.write("open/a", 8_192, START);
    ground.write("closed/b", 4_096, START);
    for dir in ["", "open", "closed"] {
        let mode = if dir == "closed" { 0o000 } else { 0o755 };
        std::fs::set_permissions(ground.path(dir), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let (index, tree) = (&ground.index, &ground.tree);
    let walked = as_nobody(|| {
        let mut filler = Filler::begin(Arc::clone(index), Arc::default()).unwrap();
        let walked = tree.walk(&AtomicBool::new(false), &mut filler).unwrap();
        filler.finish(Timestamp::from_second(START).unwrap(), walked.unreadable).unwrap();
        walked
    });
    assert!(walked.is_complete);
    assert_eq!(walked.first_unreadable, Some(("closed".into(), rustix::io::Errno::ACCESS)));
    let report = ground.report("", START);
    // The directory itself is seen, and what is in it is not.
    assert_eq!((report.unreadable, report.bytes, report.inodes), (1, 8_192, 4));
    // A change there costs nothing else either.
    let dirty = std::mem::take(&mut ground.dirty);
    let (index, tree) = (&ground.index, &ground.tree);
    as_nobody(|| updater::examine(&mut index.lock(), tree, dirty, START / 3600).unwrap());
    assert_eq!(ground.report("", START).bytes, 8_192);
    std::fs::set_permissions(ground.path("closed"), std::fs::Permissions::from_mode(0o755)).unwrap();
    ground.walk(START);
    let report = ground.report("", START);
    assert_eq!((report.unreadable, report.bytes), (0, 12_288));
}

//! Mappings that outlive the descriptors they were made from: nobody is told when they end.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    time::Duration,
};

use harness::{Mapping, Protection, kill, wait_until};
use rustix::{io::Errno, process::Signal};

use super::ground::{Ground, on_every_filesystem};

on_every_filesystem!(
    space_for_holes_is_held_until_the_last_mapping_ends,
    a_deleted_file_is_charged_until_its_last_mapping_ends,
);

const SIZE: usize = 4 << 20;

/// A sparse file that is mapped and closed.
fn mapped_and_closed(ground: &Ground, name: &str) -> Mapping {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).open(ground.at(name)).unwrap();
    file.set_len(SIZE as u64).unwrap();
    Mapping::new(&file, SIZE, Protection::ReadWrite).unwrap()
}

fn kill_worker(ground: &Ground) {
    let worker = ground.mount.daemon().worker_pid();
    kill(worker, Signal::KILL);
    wait_until("another worker", Duration::from_secs(20), || {
        let output = ground.mount.daemon().cli(["status", "--json"]);
        output.code == 0 && ground.mount.daemon().status().worker_pid != worker
    });
    ground.wait_until_counted();
}

#[track_caller]
fn wait_for_reserved(ground: &Ground, bytes: u64) {
    wait_until("the reservation", Duration::from_secs(10), || ground.row().reserved.bytes == bytes);
}

/// Writes until the project is full; returns how much.
fn fill(ground: &Ground, name: &str) -> u64 {
    let file = File::create(ground.at(name)).unwrap();
    let mut written = 0;
    loop {
        match file.write_at(&[7; 65_536], written) {
            Ok(length) => written += length as u64,
            Err(error) if error.raw_os_error() == Some(libc::EDQUOT) => return written,
            Err(error) => panic!("after {written} bytes: {error}"),
        }
    }
}

fn space_for_holes_is_held_until_the_last_mapping_ends(ground: &mut Ground) {
    const LIMIT: u64 = 16 << 20;
    ground.set(&["16M", "--headroom", "0"]);
    let mapping = mapped_and_closed(ground, "mapped");
    // Longer than the books take to look again.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(ground.row().reserved.bytes, SIZE as u64, "the descriptor is closed, the mapping is there");
    assert_eq!(fill(ground, "filler"), LIMIT - SIZE as u64);
    for block in 0..SIZE / 8192 {
        mapping.store(block * 4096, b"stored");
    }
    mapping.sync().unwrap();
    kill_worker(ground);
    // What is stored already is charged, what is not is held, also by a worker that saw neither open nor close.
    wait_until("what the mapping may still fill to be reserved", Duration::from_secs(10), || {
        let row = ground.row();
        row.used.unwrap().bytes + row.reserved.bytes == LIMIT
            && row.reserved.bytes >= SIZE as u64 / 2 - 65_536
    });
    for block in SIZE / 8192..SIZE / 4096 {
        mapping.store(block * 4096, b"stored");
    }
    mapping.sync().unwrap();
    wait_for_reserved(ground, 0);
    let used = ground.used().bytes;
    assert!(used <= LIMIT + 65_536, "{used} used of {LIMIT}");
    drop(mapping);
    ground.assert_exact("the mapping is gone");
    // Space that nobody filled comes back when the mapping ends, in time for whoever needs it.
    fs::remove_file(ground.at("mapped")).unwrap();
    let unused = mapped_and_closed(ground, "unused");
    wait_for_reserved(ground, SIZE as u64);
    drop(unused);
    assert_eq!(fill(ground, "second"), SIZE as u64);
    ground.assert_exact("a mapping that stored nothing");
}

fn a_deleted_file_is_charged_until_its_last_mapping_ends(ground: &mut Ground) {
    let before = ground.used();
    for (name, is_removed_while_open) in [("closed", false), ("open", true)] {
        fs::write(ground.at(name), vec![7; SIZE]).unwrap();
        let file = File::open(ground.at(name)).unwrap();
        let mapping = Mapping::new(&file, SIZE, Protection::Read).unwrap();
        if is_removed_while_open {
            fs::remove_file(ground.at(name)).unwrap();
            drop(file);
        } else {
            drop(file);
            std::thread::sleep(Duration::from_millis(100));
            fs::remove_file(ground.at(name)).unwrap();
        }
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(ground.difference_with(SIZE as u64, 1), None, "{name}: mapped");
        kill_worker(ground);
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(ground.difference_with(SIZE as u64, 1), None, "{name}: mapped, after a takeover");
        assert_eq!(mapping.load(SIZE - 1, 1), [7]);
        drop(mapping);
        ground.assert_exact(name);
        assert_eq!(ground.used(), before);
    }
    let refused = File::open(ground.at("open")).err().and_then(|error: io::Error| error.raw_os_error());
    assert_eq!(refused, Some(Errno::NOENT.raw_os_error()));
}

//! Appending: where bytes land when several descriptors, processes and the plain directory append to one file.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::FileExt,
    path::Path,
    sync::mpsc,
    thread,
};

use super::{
    child::{self, Role, Waiting},
    ground::{Ground, on_every_filesystem},
};

const PROCESSES: u32 = 4;
const LINES: u32 = 500;

fn appender(path: &Path) -> File {
    OpenOptions::new().append(true).create(true).open(path).unwrap()
}

fn line(process: u32, number: u32) -> String {
    format!("process {process} line {number:05} {}\n", "x".repeat((number % 61) as usize))
}

/// The role of a child: appends its lines, one write(2) each.
pub(crate) fn append_lines(path: &Path, process: u32) {
    let mut file = appender(path);
    for number in 0..LINES {
        file.write_all(line(process, number).as_bytes()).unwrap();
    }
}

fn concurrent_appenders_lose_no_line(ground: &Ground) {
    let path = ground.mounted.join("log");
    File::create(&path).unwrap();
    child::run_together(
        (0..PROCESSES).map(|process| Waiting::spawn(Role::AppendLines, &path, process)).collect(),
    );
    let expected: BTreeSet<String> =
        (0..PROCESSES).flat_map(|process| (0..LINES).map(move |number| line(process, number))).collect();
    for view in [&path, &ground.backing.join("log")] {
        let text = fs::read_to_string(view).unwrap();
        let found: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
        assert_eq!(found.len(), (PROCESSES * LINES) as usize, "{}", view.display());
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected, "{}", view.display());
    }
}

/// `tail -f`: after each acknowledged append the size is exact and the new bytes are readable at once.
fn tail_reader_sees_exact_sizes(ground: &Ground) {
    let path = ground.mounted.join("log");
    let mut writer = appender(&path);
    let mut reader = File::open(&path).unwrap();
    let (appended, arrivals) = mpsc::sync_channel::<(u64, String)>(0);
    let appending = thread::spawn(move || {
        let mut size = 0;
        for number in 0..2000 {
            let text = line(0, number);
            writer.write_all(text.as_bytes()).unwrap();
            size += text.len() as u64;
            appended.send((size, text)).unwrap();
        }
    });
    let mut position = 0;
    let mut pending = Vec::new();
    for (size, text) in arrivals {
        let shown = reader.metadata().unwrap().len();
        // The appender may already be one line further.
        assert!(shown >= size && shown <= size + 120, "size {shown} after {size} acknowledged bytes");
        let mut chunk = vec![0; (size - position) as usize];
        reader.read_exact(&mut chunk).unwrap();
        pending.extend_from_slice(&chunk);
        assert_eq!(pending, text.as_bytes());
        pending.clear();
        position = size;
    }
    appending.join().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), position);
    assert_eq!(fs::metadata(ground.backing.join("log")).unwrap().len(), position);
    assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0);
}

fn append_follows_a_direct_backing_append(ground: &Ground) {
    let path = ground.mounted.join("log");
    let below = ground.backing.join("log");
    let mut guarded = appender(&path);
    let mut direct = appender(&below);
    let mut expected = String::new();
    for round in 0..50 {
        let first = format!("guarded {round}\n");
        let second = format!("direct {round} {}\n", "y".repeat(round));
        guarded.write_all(first.as_bytes()).unwrap();
        direct.write_all(second.as_bytes()).unwrap();
        expected.push_str(&first);
        expected.push_str(&second);
    }
    assert_eq!(fs::read_to_string(&below).unwrap(), expected);
    let mut through = vec![0; expected.len()];
    File::open(&path).unwrap().read_exact_at(&mut through, 0).unwrap();
    assert_eq!(String::from_utf8(through).unwrap(), expected);
}

fn truncate_is_seen_by_an_open_reader(ground: &Ground) {
    let path = ground.mounted.join("data");
    fs::write(&path, vec![7_u8; 100_000]).unwrap();
    let reader = File::open(&path).unwrap();
    let mut buffer = vec![0; 100_000];
    assert_eq!(reader.read_at(&mut buffer, 0).unwrap(), 100_000);
    let writer = OpenOptions::new().write(true).open(&path).unwrap();
    for size in [50_001_u64, 4_097, 4_096, 1, 0] {
        writer.set_len(size).unwrap();
        assert_eq!(reader.metadata().unwrap().len(), size);
        assert_eq!(reader.read_at(&mut buffer, 0).unwrap() as u64, size);
        assert_eq!(reader.read_at(&mut buffer, size).unwrap(), 0);
    }
    writer.set_len(9_000).unwrap();
    assert_eq!(reader.read_at(&mut buffer, 0).unwrap(), 9_000);
    assert!(buffer[..9_000].iter().all(|byte| *byte == 0), "bytes behind an old end must read as zero");
    drop(OpenOptions::new().write(true).truncate(true).open(&path).unwrap());
    assert_eq!(reader.metadata().unwrap().len(), 0);
    assert_eq!(reader.read_at(&mut buffer, 0).unwrap(), 0);
}

on_every_filesystem!(
    concurrent_appenders_lose_no_line,
    tail_reader_sees_exact_sizes,
    append_follows_a_direct_backing_append,
    truncate_is_seen_by_an_open_reader,
);

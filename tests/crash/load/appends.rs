use std::{
    fs::{self, OpenOptions},
    io::Write,
    thread,
};

use super::{Work, ok};

const WRITERS: usize = 3;

fn line(writer: usize, number: usize) -> Vec<u8> {
    let mut line = format!("{writer} {number} ").into_bytes();
    line.resize(line.len() + number % 200, b'.');
    line.push(b'\n');
    line
}

/// Several descriptors append to one file; every line is there once, whole, and in its writer's order.
pub(super) fn each_line_is_there_once(work: &Work) {
    let path = work.mounted.join("lines");
    let counts: Vec<usize> = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let path = &path;
                scope.spawn(move || {
                    let file = OpenOptions::new().append(true).create(true).open(path);
                    let mut file = ok("open lines", file);
                    let mut number = 0;
                    while work.goes_on() {
                        let line = line(writer, number);
                        assert_eq!(ok("append a line", file.write(&line)), line.len());
                        number += 1;
                        thread::sleep(std::time::Duration::from_micros(300));
                    }
                    number
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    for path in work.both("lines") {
        let bytes = ok("read lines", fs::read(&path));
        let mut next = [0; WRITERS];
        for found in bytes.split_inclusive(|byte| *byte == b'\n') {
            let writer = usize::from(found[0] - b'0');
            let expected = line(writer, next[writer]);
            assert_eq!(
                String::from_utf8_lossy(found),
                String::from_utf8_lossy(&expected),
                "{}",
                path.display()
            );
            next[writer] += 1;
        }
        assert_eq!(next.as_slice(), counts, "lines of each writer in {}", path.display());
    }
}

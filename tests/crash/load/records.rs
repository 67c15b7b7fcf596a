use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
};

use super::{Work, ok};

const RECORD: usize = 64;
/// Records of one file; then the next one begins.
const RECORDS: u64 = 20_000;

/// Its number, a filler, a checksum.
fn record(number: u64, seed: u64) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..8].copy_from_slice(&number.to_le_bytes());
    record[8..16].copy_from_slice(&(number ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    let checksum = record.iter().fold(0xcbf2_9ce4_8422_2325, |sum: u64, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    record[RECORD - 8..].copy_from_slice(&checksum.to_le_bytes());
    record
}

/// Writes records, makes each durable, and acknowledges it outside the mount: what is acknowledged is there.
pub(super) fn acknowledged_records_stay(work: &Work) {
    let acknowledged = File::create(work.outside.join("acknowledged")).unwrap();
    for round in 0_u64.. {
        let name = format!("records-{}", round % 2);
        let path = work.mounted.join(&name);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
        let file = ok("open records", file);
        let mut number = 0;
        let mut goes_on = true;
        while number < RECORDS && goes_on {
            let written = file.write_at(&record(number, work.seed), number * RECORD as u64);
            assert_eq!(ok("write a record", written), RECORD);
            ok("fdatasync a record", file.sync_data());
            acknowledged.write_all_at(&number.to_le_bytes(), 0).unwrap();
            number += 1;
            goes_on = work.goes_on();
        }
        let mut last = [0; 8];
        File::open(work.outside.join("acknowledged")).unwrap().read_exact_at(&mut last, 0).unwrap();
        assert_eq!(u64::from_le_bytes(last), number - 1);
        for path in work.both(&name) {
            let bytes = ok("read records", fs::read(&path));
            assert_eq!(bytes.len() as u64, number * RECORD as u64, "{}", path.display());
            for (expected, found) in (0..number).zip(bytes.chunks(RECORD)) {
                assert_eq!(found, record(expected, work.seed), "record {expected} of {}", path.display());
            }
        }
        if !goes_on {
            return;
        }
    }
}

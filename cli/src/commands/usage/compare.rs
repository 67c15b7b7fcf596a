//! Whether files that are probably the same are: byte by byte, as the user who asks.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use wsguard_api::Duplicates;

/// Bytes that are compared at a time.
const CHUNK: usize = 1 << 20;

/// Returns the groups that are identical, and what could not be compared. A file that differs from all others of its
/// group is in none.
pub(super) fn identical(root: &Path, groups: &[Duplicates]) -> (Vec<Duplicates>, Vec<String>) {
    let (mut verified, mut failures) = (Vec::new(), Vec::new());
    for group in groups {
        let mut classes: Vec<Vec<&String>> = Vec::new();
        for path in &group.paths {
            match class_of(root, path, &classes) {
                Ok(Some(place)) => {
                    if let Some(class) = classes.get_mut(place) {
                        class.push(path);
                    }
                }
                Ok(None) => classes.push(vec![path]),
                Err(error) => failures.push(format!("cannot compare {path}: {error}")),
            }
        }
        let each = group.reclaimable_bytes / (group.paths.len() as u64).saturating_sub(1).max(1);
        verified.extend(classes.into_iter().filter(|class| class.len() > 1).map(|class| Duplicates {
            size: group.size,
            reclaimable_bytes: each * (class.len() as u64 - 1),
            paths: class.into_iter().cloned().collect(),
        }));
    }
    (verified, failures)
}

fn class_of(root: &Path, path: &str, classes: &[Vec<&String>]) -> io::Result<Option<usize>> {
    let file = root.join(path);
    // A file that cannot be read is in no class, not even one of its own.
    File::open(&file)?;
    for (place, class) in classes.iter().enumerate() {
        if let Some(first) = class.first()
            && is_same(&root.join(first), &file)?
        {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut left, mut right) = (vec![0; CHUNK], vec![0; CHUNK]);
    loop {
        let (read, also) = (fill(&mut one, &mut left)?, fill(&mut other, &mut right)?);
        if left.get(..read) != right.get(..also) {
            return Ok(false);
        }
        if read == 0 {
            return Ok(true);
        }
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_the_same_to_the_last_byte_stays_together() {
        let dir = tempfile::tempdir().unwrap();
        let mut contents = vec![7; CHUNK * 2];
        for name in ["a", "b", "d"] {
            std::fs::write(dir.path().join(name), &contents).unwrap();
        }
        contents[CHUNK + 5] = 8;
        std::fs::write(dir.path().join("c"), &contents).unwrap();
        let group = Duplicates {
            size: contents.len() as u64,
            reclaimable_bytes: 4 * contents.len() as u64,
            paths: ["a", "c", "b", "gone", "d"].map(str::to_owned).to_vec(),
        };
        let (verified, failures) = identical(dir.path(), &[group]);
        assert_eq!(verified.len(), 1);
        assert_eq!(verified[0].paths, ["a", "b", "d"]);
        assert_eq!(verified[0].reclaimable_bytes, 2 * contents.len() as u64);
        assert!(failures[0].starts_with("cannot compare gone: "), "{failures:?}");
    }
}

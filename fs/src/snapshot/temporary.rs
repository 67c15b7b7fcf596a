//! Names of files that nobody wants back.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

const SUFFIXES: [&[u8]; 8] =
    [b".tmp", b".temp", b".swp", b".swx", b".lock", b".pyc", b".part", b".crdownload"];
const PREFIXES: [&[u8]; 3] = [b".nfs", b".fuse_hidden", b"tmp_obj_"];

/// Whether a name says that the file is temporary: locks and objects in the making of git, swap files of editors,
/// compiled Python, downloads that are not complete.
pub(crate) fn is_temporary(name: &OsStr) -> bool {
    let name = name.as_bytes();
    SUFFIXES.iter().any(|suffix| name.len() > suffix.len() && name.ends_with(suffix))
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_not_temporary() {
        for name in ["index.lock", "a.tmp", ".notes.swp", "m.cpython-312.pyc", "tmp_obj_X1"] {
            assert!(is_temporary(OsStr::new(name)), "{name}");
        }
        for name in ["model.pt", "tmp", ".lock", "lock", "notes.md", "template", "tmp_results.csv"] {
            assert!(!is_temporary(OsStr::new(name)), "{name}");
        }
    }
}

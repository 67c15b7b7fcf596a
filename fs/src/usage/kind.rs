//! What a file is, told by its name alone.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use wsguard_api::FileKind;

/// Extensions, without their dot, and what they say.
const EXTENSIONS: &[(FileKind, &[&str])] = &[
    (
        FileKind::Checkpoint,
        &["pt", "pth", "ckpt", "safetensors", "h5", "keras", "gguf", "onnx", "distcp", "pdparams"],
    ),
    (
        FileKind::Data,
        &[
            "csv", "tsv", "parquet", "arrow", "feather", "npy", "npz", "hdf5", "tfrecord", "jsonl", "db",
            "sqlite", "sqlite3", "lmdb", "mdb", "pkl", "pickle", "mat", "nc", "zarr", "fasta", "fastq",
            "bam", "vcf",
        ],
    ),
    (
        FileKind::Archive,
        &["tar", "gz", "tgz", "bz2", "xz", "zst", "zip", "7z", "rar", "lz4", "whl", "deb", "rpm", "iso"],
    ),
    (
        FileKind::Media,
        &[
            "jpg", "jpeg", "png", "gif", "bmp", "tif", "tiff", "webp", "svg", "dcm", "nii", "mp4", "avi",
            "mkv", "mov", "webm", "wav", "mp3", "flac", "ogg", "pdf",
        ],
    ),
    (
        FileKind::Code,
        &[
            "py", "pyi", "ipynb", "c", "cc", "cpp", "cu", "cuh", "h", "hpp", "rs", "go", "js", "ts", "java",
            "r", "jl", "m", "sh", "md", "rst", "tex", "txt", "json", "yaml", "yml", "toml", "cfg", "ini",
            "html", "css",
        ],
    ),
    (FileKind::Binary, &["so", "o", "a", "pyc", "pyo", "exe", "dll", "dylib", "class", "jar"]),
    (FileKind::Log, &["log", "out", "err"]),
    (FileKind::Temporary, &["tmp", "temp", "part", "partial", "crdownload", "swp", "incomplete"]),
];

/// Number of a kind in the index; never changed.
pub(super) fn code(kind: FileKind) -> i64 {
    match kind {
        FileKind::Other => 0,
        FileKind::Checkpoint => 1,
        FileKind::Data => 2,
        FileKind::Archive => 3,
        FileKind::Media => 4,
        FileKind::Code => 5,
        FileKind::Binary => 6,
        FileKind::Log => 7,
        FileKind::Temporary => 8,
    }
}

/// Returns the kind that a number stands for; one that a later version wrote is `Other`.
pub(super) fn from_code(number: i64) -> FileKind {
    EXTENSIONS.iter().map(|(kind, _)| *kind).find(|kind| code(*kind) == number).unwrap_or(FileKind::Other)
}

/// Returns what a regular file with that name is.
pub(super) fn of_name(name: &OsStr) -> FileKind {
    let name = name.as_bytes();
    if name.last() == Some(&b'~') || name.starts_with(b"core.") && name[5..].iter().all(u8::is_ascii_digit) {
        return FileKind::Temporary;
    }
    if name.starts_with(b"events.out.tfevents.") {
        return FileKind::Log;
    }
    // `train.log.3` is a log: numbers of a rotation are no extension.
    let mut parts = name.rsplit(|byte| *byte == b'.').filter(|part| !part.iter().all(u8::is_ascii_digit));
    let Some(extension) = parts.next() else { return FileKind::Other };
    // A name without a dot, or one whose only dot is the first character, has none.
    if extension.len() >= name.len() || extension.len() + 1 == name.len() && name.starts_with(b".") {
        return FileKind::Other;
    }
    let lower = extension.to_ascii_lowercase();
    if lower == b"bin" {
        return if looks_like_weights(name) { FileKind::Checkpoint } else { FileKind::Data };
    }
    EXTENSIONS
        .iter()
        .find(|(_, extensions)| extensions.iter().any(|known| known.as_bytes() == lower))
        .map_or(FileKind::Other, |(kind, _)| *kind)
}

/// Whether a regular file with that name is a checkpoint, or becomes one: many are written under another name first.
pub(crate) fn is_checkpoint_name(name: &OsStr) -> bool {
    match of_name(name) {
        FileKind::Checkpoint => true,
        FileKind::Temporary => {
            let name = name.as_bytes();
            let end = name.iter().rposition(|byte| *byte == b'.').unwrap_or(0);
            of_name(OsStr::from_bytes(&name[..end])) == FileKind::Checkpoint
        }
        _ => false,
    }
}

/// `pytorch_model-00001-of-00002.bin` and its like; any other `.bin` may be anything.
fn looks_like_weights(name: &[u8]) -> bool {
    ["pytorch_model", "model", "adapter_model", "optimizer", "diffusion_pytorch_model"]
        .iter()
        .any(|start| name.starts_with(start.as_bytes()))
}

/// Returns the name with every run of digits as `#`: names of one series of checkpoints have one pattern.
pub(super) fn pattern(name: &str) -> String {
    let mut pattern = String::with_capacity(name.len());
    for character in name.chars() {
        if !character.is_ascii_digit() {
            pattern.push(character);
        } else if !pattern.ends_with('#') {
            pattern.push('#');
        }
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_kind() {
        let cases = [
            ("step-100.pt", FileKind::Checkpoint),
            ("pytorch_model-00001-of-00002.bin", FileKind::Checkpoint),
            ("tokens.bin", FileKind::Data),
            ("A.JPG", FileKind::Media),
            ("train.log", FileKind::Log),
            ("train.log.3", FileKind::Log),
            ("events.out.tfevents.1700.host", FileKind::Log),
            ("x.safetensors.tmp", FileKind::Temporary),
            ("core.4711", FileKind::Temporary),
            ("core.py", FileKind::Code),
            ("notes~", FileKind::Temporary),
            ("data.tar.gz", FileKind::Archive),
            ("Makefile", FileKind::Other),
            (".log", FileKind::Other),
            ("log", FileKind::Other),
            ("123", FileKind::Other),
            (".", FileKind::Other),
            ("", FileKind::Other),
        ];
        for (name, kind) in cases {
            assert_eq!(of_name(OsStr::new(name)), kind, "{name}");
        }
    }

    #[test]
    fn checkpoints_are_recognized_while_they_are_written() {
        let is_checkpoint = |name: &str| is_checkpoint_name(OsStr::new(name));
        assert!(["a.pt", "a.safetensors.tmp", "pytorch_model.bin.incomplete"].into_iter().all(is_checkpoint));
        assert!(!["a.txt", "a.txt.tmp", ".tmp", "tmp", "a~", ""].into_iter().any(is_checkpoint));
    }

    #[test]
    fn every_kind_survives_the_index() {
        for (kind, _) in EXTENSIONS {
            assert_eq!(from_code(code(*kind)), *kind);
        }
        assert_eq!(from_code(code(FileKind::Other)), FileKind::Other);
        assert_eq!(from_code(99), FileKind::Other);
    }

    #[test]
    fn series_have_one_pattern() {
        assert_eq!(pattern("step-1000.pt"), pattern("step-20.pt"));
        assert_eq!(pattern("a1b22"), "a#b#");
    }
}

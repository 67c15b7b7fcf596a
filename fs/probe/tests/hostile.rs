//! Content that was made to hurt: no probe panics, reads more than its limits, or calls it complete.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::io::Read;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use wsguard_probe::{
    Coverage, FileReport, FirstHole, Limits, MemoryFile, MemoryTree, ReadAt, State, SurveyOptions, Written,
    probe_file, survey, verify_deep,
};

const ARCHIVE: &[u8] = include_bytes!("fixtures/real.tar.gz");
const NAMES: &[&str] = &[
    "a.pt",
    "a.npz",
    "a.npy",
    "a.safetensors",
    "model.safetensors.index.json",
    "a.h5",
    "a.keras",
    "a.msgpack",
    "a.onnx",
    "a.gguf",
    "a.pkl",
    "a.joblib",
    "a.ubj",
    "a.json",
    "a.txt",
    "ckpt-1.index",
    "checkpoint",
];

/// The files that the frameworks wrote.
fn real() -> Vec<(PathBuf, Vec<u8>)> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(ARCHIVE));
    let files = archive.entries().unwrap().filter_map(|entry| {
        let mut entry = entry.unwrap();
        let is_file = entry.header().entry_type().is_file();
        let path = entry.path().unwrap().strip_prefix(".").unwrap().to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        is_file.then_some((path, bytes))
    });
    files.collect()
}

/// Judges, and checks that the limits held.
fn judge(name: &str, bytes: &[u8]) -> FileReport {
    let limits = Limits { bytes: 1 << 20, reads: 1000, objects: 20_000, ..Limits::default() };
    let file = MemoryFile::new(bytes);
    let report = probe_file(name, &file, Coverage::default(), limits);
    assert!(file.bytes_read() <= limits.bytes, "{name}: {} bytes", file.bytes_read());
    assert!(file.reads() <= u64::from(limits.reads) + 8, "{name}: {} reads", file.reads());
    report
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_never_taken_for_a_checkpoint_with_a_magic_number(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        for name in ["a.pt", "a.npz", "a.safetensors", "a.h5", "a.keras", "a.gguf", "ckpt-1.index"] {
            prop_assert_ne!(judge(name, &bytes).state, State::Complete);
        }
        for name in NAMES {
            judge(name, &bytes);
        }
    }

    /// Any pickle of plausible opcodes.
    #[test]
    fn random_pickles_end(
        ops in prop::collection::vec(prop::sample::select(b"(.012IKMNRbcde}]ltqhjXU\x80\x81\x85\x86\x88\x8c\x8f\x90\x93\x94\x95".to_vec()), 0..3000),
        version in 2_u8..6,
    ) {
        let mut bytes = vec![0x80, version];
        bytes.extend(ops);
        judge("a.pkl", &bytes);
        judge("a.joblib", &bytes);
    }

    /// Every real file with some bytes replaced, most likely in a length or an offset.
    #[test]
    fn damaged_headers_are_survived(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(vec![0_u8, 1, 0x7f, 0x80, 0xff])), 1..8),
        whole_word in any::<bool>(),
    ) {
        let files = real();
        let (path, bytes) = which.get(&files);
        let mut bytes = bytes.clone();
        prop_assume!(!bytes.is_empty());
        for (place, value) in damage {
            let at = place.index(bytes.len());
            let to = if whole_word { (at + 8).min(bytes.len()) } else { at + 1 };
            bytes[at..to].fill(value);
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        judge(name, &bytes);
        verify_deep(name, &MemoryFile::new(bytes), Coverage::default(), Limits::default(), &mut |_, _| true);
    }

    /// Bytes beyond the end are no part of any of these formats.
    #[test]
    fn what_follows_the_end_is_noticed(which in any::<prop::sample::Index>(), extra in 1_usize..100) {
        let files = real();
        let (path, bytes) = which.get(&files);
        let name = path.file_name().unwrap().to_str().unwrap();
        let mut longer = bytes.clone();
        longer.extend(vec![0; extra]);
        let is_exact = ["safetensors", "npy", "gguf", "msgpack", "h5", "pt", "ubj"].iter().any(|end| name.ends_with(end));
        if is_exact && judge(name, bytes).state == State::Complete {
            prop_assert_ne!(judge(name, &longer).state, State::Complete, "{}", name);
        }
    }
}

/// Inputs that once hurt, or that were made to.
#[test]
fn the_corpus_is_survived() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut count = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let own = path.file_name().unwrap().to_str().unwrap();
        assert_ne!(judge(own, &bytes).state, State::Complete, "{own}");
        for name in NAMES {
            judge(name, &bytes);
        }
        count += 1;
    }
    assert!(count >= 10, "{count} inputs");
}

/// A file that claims to be huge and is zeros wherever it is looked at.
struct Huge(Vec<u8>);

impl ReadAt for Huge {
    fn size(&self) -> std::io::Result<u64> {
        Ok(1 << 50)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
        buffer.fill(0);
        if let Some(rest) = self.0.get(usize::try_from(offset).unwrap()..) {
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
        }
        Ok(buffer.len())
    }

    fn first_hole(&self, _: u64, _: u64) -> FirstHole {
        FirstHole::Unknown
    }
}

#[test]
fn a_petabyte_of_zeros_behind_a_header_is_not_read() {
    for (path, bytes) in real() {
        let name = path.file_name().unwrap().to_str().unwrap();
        let report = probe_file(name, &Huge(bytes), Coverage::default(), Limits::default());
        assert_ne!(report.state, State::Complete, "{name}");
    }
}

#[test]
fn evidence_from_outside_outweighs_structure() {
    let files = real();
    let (_, bytes) =
        files.iter().find(|(path, _)| path.ends_with("safetensors_files/model.safetensors")).unwrap();
    let state =
        |coverage, file: MemoryFile| probe_file("a.safetensors", &file, coverage, Limits::default()).state;
    let plain = || MemoryFile::new(bytes.clone());
    let with = |written, open_writers| Coverage { written, open_writers, fsynced: Some(false) };
    assert_eq!(state(with(Written::Full, 0), plain()), State::Complete);
    assert_eq!(state(with(Written::Full, 1), plain()), State::InProgress);
    assert_eq!(state(with(Written::Holes(100), 0), plain()), State::Torn);
    assert_eq!(state(with(Written::Unknown, 0), plain()), State::Complete);
    // A hole may be a sparse copy of zeros: no reason to call it torn, but none to trust it.
    assert_eq!(state(with(Written::Unknown, 0), plain().with_hole(100, 120)), State::Unknown);
    assert_eq!(state(with(Written::Full, 0), plain().with_hole(100, 120)), State::Complete);
}

#[test]
fn names_in_files_do_not_lead_out_of_the_tree() {
    for target in ["../secret", "/etc/passwd", "a/../../secret"] {
        let mut tree = MemoryTree::new();
        tree.add("secret", vec![1; 10]);
        tree.add("in/model.safetensors.index.json", format!(r#"{{"weight_map": {{"w": {target:?}}}}}"#));
        let found = survey(&tree, Path::new("in"), SurveyOptions::default()).checkpoints;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].state, State::Unknown, "{target}");
        assert!(found[0].members.iter().all(|member| member.path.starts_with("in")), "{target}");
    }
    let mut tree = MemoryTree::new();
    tree.link("loop.pt", "loop.pt").link("out.pt", "../../x.pt").link("gone.pt", "none.pt");
    let survey = survey(&tree, Path::new(""), SurveyOptions::default());
    let dangling =
        |name: &str| survey.pointers.iter().find(|found| found.path == Path::new(name)).unwrap().is_dangling;
    assert!(dangling("loop.pt") && dangling("gone.pt") && !dangling("out.pt"));
}

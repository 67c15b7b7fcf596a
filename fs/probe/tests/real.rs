//! Checkpoints that the frameworks themselves wrote (`fixtures/make.py`).

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};
use wsguard_probe::{
    Checkpoint, Coverage, Format, Framework, Limits, MemoryFile, MemoryTree, Moment, State, Survey,
    SurveyOptions, probe_file, survey, verify_deep,
};

const ARCHIVE: &[u8] = include_bytes!("fixtures/real.tar.gz");

/// The tree of all fixtures with their times as they were written.
fn real() -> MemoryTree {
    let mut tree = MemoryTree::new();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(ARCHIVE));
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().strip_prefix(".").unwrap().to_owned();
        match entry.header().entry_type() {
            tar::EntryType::Regular => {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                tree.add(&path, bytes);
            }
            tar::EntryType::Symlink => {
                tree.link(&path, entry.link_name().unwrap().unwrap());
            }
            _ => continue,
        }
        tree.touch(&path, i64::try_from(entry.header().mtime().unwrap()).unwrap());
    }
    tree
}

fn look(tree: &MemoryTree) -> Survey {
    survey(tree, Path::new(""), SurveyOptions::default())
}

fn by_path(survey: &Survey) -> BTreeMap<String, &Checkpoint> {
    survey.checkpoints.iter().map(|found| (found.path.display().to_string(), found)).collect()
}

#[test]
fn the_archive_is_the_one_whose_sum_is_kept() {
    let sum: String = Sha256::digest(ARCHIVE).iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(include_str!("fixtures/real.tar.gz.sha256").starts_with(&sum));
}

/// Path, framework, step, epoch.
type Known = (&'static str, Framework, Option<u64>, Option<u64>);

const KNOWN: &[Known] = &[
    ("accelerate_files/checkpoints/checkpoint_1", Framework::Accelerate, Some(1), None),
    ("dcp_files/step-5", Framework::TorchDistributed, Some(5), None),
    ("flax_files/model.msgpack", Framework::File(Format::Msgpack), None, None),
    ("gguf_files/model.gguf", Framework::File(Format::Gguf), None, None),
    ("hdf5_files/new.h5", Framework::File(Format::Hdf5), None, None),
    ("hdf5_files/old.h5", Framework::File(Format::Hdf5), None, None),
    ("hf_trainer/out/checkpoint-2", Framework::HfTrainer, Some(2), Some(0)),
    ("hf_trainer/out/checkpoint-4", Framework::HfTrainer, Some(4), Some(1)),
    ("hf_trainer/sharded", Framework::HfModel, None, None),
    ("keras_files/model.keras", Framework::File(Format::Keras), None, None),
    ("keras_files/model.weights.h5", Framework::File(Format::Hdf5), None, None),
    ("numpy_files/array.npy", Framework::File(Format::Npy), None, None),
    ("numpy_files/arrays.npz", Framework::File(Format::Npz), None, None),
    ("numpy_files/packed.npz", Framework::File(Format::Npz), None, None),
    ("onnx_files/external.onnx", Framework::File(Format::Onnx), None, None),
    ("onnx_files/inline.onnx", Framework::File(Format::Onnx), None, None),
    ("orbax_files/out/2", Framework::Orbax, Some(2), None),
    ("pickle_files/forest.joblib", Framework::File(Format::Joblib), None, None),
    ("pickle_files/linear.joblib", Framework::File(Format::Joblib), None, None),
    ("pickle_files/objects.joblib", Framework::File(Format::Joblib), None, None),
    ("pickle_files/plain-0.pkl", Framework::File(Format::Pickle), None, Some(2)),
    ("pickle_files/plain-1.pkl", Framework::File(Format::Pickle), None, Some(2)),
    ("pickle_files/plain-2.pkl", Framework::File(Format::Pickle), None, Some(2)),
    ("pickle_files/plain-5.pkl", Framework::File(Format::Pickle), None, Some(2)),
    ("safetensors_files/model.safetensors", Framework::File(Format::Safetensors), None, None),
    ("shaped_like/deepspeed/global_step20", Framework::DeepSpeed, Some(20), None),
    ("shaped_like/megatron/iter_0000200", Framework::Megatron, Some(200), None),
    ("tensorflow_files/ckpt-2", Framework::TensorFlow, Some(2), None),
    ("torch_files/legacy-step=120.pt", Framework::File(Format::TorchLegacy), Some(120), Some(3)),
    ("torch_files/script.pt", Framework::File(Format::TorchScript), None, None),
    ("torch_files/zip-step=120.pt", Framework::File(Format::TorchZip), Some(120), Some(3)),
    ("tree_files/lightgbm.txt", Framework::File(Format::LightGbm), None, None),
    ("tree_files/xgboost.json", Framework::File(Format::XgboostJson), None, None),
    ("tree_files/xgboost.ubj", Framework::File(Format::XgboostBinary), None, None),
];

#[test]
fn every_framework_is_recognised_and_complete() {
    let survey = look(&real());
    let found = by_path(&survey);
    for (path, framework, step, epoch) in KNOWN {
        let checkpoint = found.get(*path).unwrap_or_else(|| panic!("{path} is not found"));
        let seen = (checkpoint.framework, checkpoint.step, checkpoint.epoch);
        assert_eq!(seen, (*framework, *step, *epoch), "{path}");
        assert_eq!(checkpoint.state, State::Complete, "{path}: {:?}", checkpoint.evidence);
    }
    let lightning: Vec<_> = found.values().filter(|found| found.framework == Framework::Lightning).collect();
    assert_eq!(
        lightning.iter().map(|found| (found.step, found.epoch)).collect::<Vec<_>>(),
        [(Some(2), Some(0)), (Some(4), Some(1))]
    );
    // What is in the pickle is more exact than what is in the name.
    assert!(
        lightning
            .iter()
            .all(|found| found.metrics.contains_key("val_loss") && found.state == State::Complete)
    );
    assert!(found["hf_trainer/out/checkpoint-4"].metrics.contains_key("eval_loss"));
    // Nothing else is taken for a checkpoint, apart from the older siblings and a compressed pickle.
    assert_eq!(found.len(), KNOWN.len() + lightning.len() + 8, "{:?}", found.keys());
    assert_eq!(found["pickle_files/packed.joblib"].state, State::Unknown);
}

#[test]
fn pointers_are_found() {
    let survey = look(&real());
    let found = by_path(&survey);
    for (path, pointer) in [
        ("shaped_like/deepspeed/global_step20", "shaped_like/deepspeed/latest"),
        ("shaped_like/megatron/iter_0000200", "shaped_like/megatron/latest_checkpointed_iteration.txt"),
        ("tensorflow_files/ckpt-1", "tensorflow_files/checkpoint"),
        ("hf_trainer/out/checkpoint-4", "hf_trainer/out/checkpoint-4"),
    ] {
        assert!(
            found[path].pointed_by.iter().any(|by| by == Path::new(pointer)),
            "{path}: {:?}",
            found[path].pointed_by
        );
    }
    assert!(survey.pointers.iter().all(|pointer| !pointer.is_dangling), "{:?}", survey.pointers);
    let mut tree = real();
    tree.remove("tensorflow_files/ckpt-1.index").remove("tensorflow_files/ckpt-1.data-00000-of-00001");
    let dangling: Vec<_> = look(&tree).pointers.into_iter().filter(|pointer| pointer.is_dangling).collect();
    assert_eq!(dangling.iter().map(|pointer| pointer.target.as_str()).collect::<Vec<_>>(), ["ckpt-1"]);
}

/// Files without which a checkpoint can be used: text for people, settings with defaults, and what a store keeps
/// where only its reader can find it.
fn is_optional(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_str().unwrap();
    // Orbax: the data of OCDBT is named in compressed tables that are not followed; the manifests are.
    let is_table = path.components().any(|part| part.as_os_str() == "d") && path.starts_with("orbax_files");
    // Pointers and Orbax' second mark say something about a checkpoint and are no part of it. What a step of
    // training does not need: generation and model settings, which the Trainer takes from its own model, and its
    // arguments, without which all other files are required.
    let known = ["checkpoint", "latest", "commit_success.txt", "config.json", "generation_config.json"];
    is_table || known.contains(&name) || name == "training_args.bin"
}

#[test]
fn a_checkpoint_that_lacks_a_file_is_never_complete() {
    let tree = real();
    let before = look(&tree);
    for path in tree.files().into_iter().filter(|path| !is_optional(path)) {
        let of = |survey: &Survey| -> Option<Checkpoint> {
            let holds = |found: &&Checkpoint| found.members.iter().any(|member| member.path == path);
            survey.checkpoints.iter().find(holds).cloned()
        };
        let Some(whole) = of(&before).filter(|found| found.members.len() > 1) else { continue };
        let mut without = tree.clone();
        without.remove(&path);
        for found in look(&without).checkpoints {
            let is_it =
                found.path == whole.path || whole.members.iter().any(|member| member.path == found.path);
            // What is left of it may be whole in itself, such as a single shard of nothing; the unit may not.
            assert!(
                !is_it || found.state != State::Complete,
                "{} without {}",
                found.path.display(),
                path.display()
            );
        }
    }
}

#[test]
fn a_checkpoint_with_a_cut_file_is_never_complete() {
    let tree = real();
    for path in tree.files().into_iter().filter(|path| !is_optional(path)) {
        let size = tree.bytes(&path).unwrap().len();
        if !look(&tree).checkpoints.iter().any(|found| found.members.iter().any(|member| member.path == path))
        {
            continue;
        }
        for twentieth in 0..20 {
            let cut = size * twentieth / 20;
            let mut torn = tree.clone();
            torn.truncate(&path, cut);
            let survey = look(&torn);
            for found in survey.checkpoints {
                let holds = found.members.iter().any(|member| member.path == path);
                assert!(!holds || found.state != State::Complete, "{} cut to {cut}", path.display());
            }
        }
    }
}

#[test]
fn a_file_that_is_cut_anywhere_is_never_complete() {
    let tree = real();
    for path in tree.files() {
        let bytes = tree.bytes(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let judge = |bytes: &[u8]| {
            let file = MemoryFile::new(bytes);
            let report = probe_file(name, &file, Coverage::default(), Limits::default());
            (report.state, file.bytes_read(), file.reads())
        };
        if judge(bytes).0 != State::Complete {
            continue;
        }
        let step = (bytes.len() / 2000).max(1);
        for cut in (0..bytes.len()).step_by(step).chain(bytes.len().saturating_sub(64)..bytes.len()) {
            // One JSON value is as whole without the end of its line.
            let lost = &bytes[cut..];
            if lost.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let (state, read, reads) = judge(&bytes[..cut]);
            assert_ne!(state, State::Complete, "{} cut to {cut}", path.display());
            assert!(read <= 8 << 20 && reads <= 4096, "{} cut to {cut}: {read} bytes", path.display());
        }
    }
}

#[test]
fn what_grows_is_in_progress_and_what_rests_is_torn() {
    let mut tree = real();
    let path = "hf_trainer/out/checkpoint-4/trainer_state.json";
    tree.remove(path);
    let state = |now: Option<i64>, tree: &MemoryTree| {
        let now = now.map(|seconds| Moment { seconds, nanoseconds: 0 });
        let survey =
            survey(tree, Path::new(""), SurveyOptions { now, quiet_secs: 60, ..SurveyOptions::default() });
        by_path(&survey)["hf_trainer/out/checkpoint-4"].state
    };
    let youngest = by_path(&look(&tree))["hf_trainer/out/checkpoint-4"].modified.seconds;
    assert_eq!(state(Some(youngest + 5), &tree), State::InProgress);
    assert_eq!(state(Some(youngest + 600), &tree), State::Torn);
    assert_eq!(state(None, &tree), State::Torn);
    tree.set_coverage(
        "hf_trainer/out/checkpoint-4/model.safetensors",
        Coverage { open_writers: 1, ..Coverage::default() },
    );
    let survey = look(&tree);
    let found = by_path(&survey)["hf_trainer/out/checkpoint-4"];
    assert!(found.evidence.iter().any(|evidence| evidence.to_string().contains("is in progress")));
}

#[test]
fn a_deep_look_finds_what_headers_cannot_show() {
    let tree = real();
    let deep = |name: &str, bytes: &[u8]| {
        let mut told = 0;
        let file = MemoryFile::new(bytes);
        let report = verify_deep(name, &file, Coverage::default(), Limits::default(), &mut |read, size| {
            assert!(read <= size);
            told += 1;
            true
        });
        assert!(told > 0);
        report
    };
    for path in ["numpy_files/packed.npz", "keras_files/model.keras", "torch_files/script.pt"] {
        let bytes = tree.bytes(path).unwrap();
        let name = Path::new(path).file_name().unwrap().to_str().unwrap();
        assert_eq!(deep(name, bytes).state, State::Complete, "{path}: {:?}", deep(name, bytes).evidence);
    }
    // A flipped bit in the data of a tensor is no matter of headers.
    let mut bytes = tree.bytes("numpy_files/arrays.npz").unwrap().to_vec();
    let at = bytes.windows(8).rposition(|part| part == 1.0_f64.to_le_bytes()).unwrap();
    bytes[at] ^= 1;
    let shallow =
        probe_file("arrays.npz", &MemoryFile::new(bytes.clone()), Coverage::default(), Limits::default());
    assert_eq!(shallow.state, State::Complete);
    assert_eq!(deep("arrays.npz", &bytes).state, State::Torn);
    // A compressed pickle is only told by inflating it.
    let packed = tree.bytes("pickle_files/packed.joblib").unwrap();
    assert_eq!(deep("packed.joblib", packed).state, State::Complete);
    for cut in 1..packed.len() {
        assert_ne!(deep("packed.joblib", &packed[..cut]).state, State::Complete, "cut to {cut}");
    }
    let stopped = verify_deep(
        "script.pt",
        &MemoryFile::new(tree.bytes("torch_files/script.pt").unwrap()),
        Coverage::default(),
        Limits::default(),
        &mut |_, _| false,
    );
    assert_eq!(stopped.state, State::Unknown);
}

/// What writers left that were killed in the middle of a save (`fixtures/kill.py`).
#[test]
fn what_a_killed_writer_leaves_is_never_complete() {
    let packed: &[u8] = include_bytes!("fixtures/torn.tar.gz");
    let sum: String = Sha256::digest(packed).iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(include_str!("fixtures/torn.tar.gz.sha256").starts_with(&sum));
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(packed));
    let mut writers = std::collections::BTreeSet::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().strip_prefix(".").unwrap().to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if !entry.header().entry_type().is_file() {
            continue;
        }
        // Files are kept as `<writer>/<number>-<name>`.
        let name = path.file_name().unwrap().to_str().unwrap().split_once('-').unwrap().1.to_owned();
        writers.insert(path.parent().unwrap().to_owned());
        let file = MemoryFile::new(bytes);
        let judged = probe_file(&name, &file, Coverage::default(), Limits::default());
        assert_ne!(judged.state, State::Complete, "{}: {:?}", path.display(), judged.evidence);
    }
    assert!(writers.len() >= 6, "{writers:?}");
}

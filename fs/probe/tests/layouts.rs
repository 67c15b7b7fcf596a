//! Directories as frameworks leave them: whole, halfway, restarted, linked.

use std::path::Path;

use wsguard_probe::{
    Checkpoint, Coverage, Evidence, Format, Framework, Limits, MemoryFile, MemoryTree, State, Survey,
    SurveyOptions, probe_file, survey,
};

/// A zip archive of stored entries, as torch and Python write them but for the padding.
fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, body) in entries {
        let (header, size) = (file.len() as u32, body.len() as u32);
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        common.extend(crc32fast::hash(body).to_le_bytes());
        common.extend(size.to_le_bytes());
        common.extend(size.to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        file.extend(b"PK\x03\x04");
        file.extend(&common);
        file.extend(name.as_bytes());
        file.extend(*body);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(header.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let at = file.len() as u32;
    file.extend(&directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend((entries.len() as u16).to_le_bytes());
    file.extend((entries.len() as u16).to_le_bytes());
    file.extend((directory.len() as u32).to_le_bytes());
    file.extend(at.to_le_bytes());
    file.extend([0, 0]);
    file
}

/// `{"step": step, "w": tensor of four floats}`.
fn pickle(step: u16) -> Vec<u8> {
    let mut bytes = b"\x80\x02}(X\x04\0\0\0stepM".to_vec();
    bytes.extend(step.to_le_bytes());
    bytes.extend(b"X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage");
    bytes.extend(b"ctorch\nFloatStorage\nX\x01\0\0\0\x30X\x03\0\0\0cpuK\x04tQK\0K\x04\x85K\x01\x85\x89");
    bytes.extend(b"ccollections\nOrderedDict\n)RtRu.");
    bytes
}

fn torch(step: u16) -> Vec<u8> {
    zip(&[("a/data.pkl", &pickle(step)), ("a/data/0", &[0; 16]), ("a/version", b"3\n")])
}

fn safetensors(values: usize) -> Vec<u8> {
    let header = format!(r#"{{"w":{{"dtype":"F32","shape":[{values}],"data_offsets":[0,{}]}}}}"#, values * 4);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(vec![7; values * 4]);
    bytes
}

fn trainer(tree: &mut MemoryTree, directory: &str, step: u64) {
    for name in ["optimizer.pt", "scheduler.pt", "rng_state.pth"] {
        tree.add(format!("{directory}/{name}"), torch(1));
    }
    tree.add(format!("{directory}/model.safetensors"), safetensors(3));
    tree.add(
        format!("{directory}/trainer_state.json"),
        format!(r#"{{"global_step": {step}, "log_history": []}}"#),
    );
}

fn look(tree: &MemoryTree) -> Survey {
    survey(tree, Path::new(""), SurveyOptions::default())
}

fn only(tree: &MemoryTree) -> Checkpoint {
    let mut found = look(tree).checkpoints;
    assert_eq!(found.len(), 1, "{:?}", found.iter().map(|found| &found.path).collect::<Vec<_>>());
    found.remove(0)
}

fn judge(bytes: &[u8]) -> wsguard_probe::FileReport {
    probe_file("a.pt", &MemoryFile::new(bytes), Coverage::default(), Limits::default())
}

#[test]
fn a_valid_zip_without_a_tensor_is_torn() {
    assert_eq!((judge(&torch(9)).state, judge(&torch(9)).facts.step), (State::Complete, Some(9)));
    let without = zip(&[("a/data.pkl", &pickle(9)), ("a/version", b"3\n")]);
    let report = judge(&without);
    assert_eq!(report.state, State::Torn);
    assert!(report.evidence.contains(&Evidence::StorageMissing { key: "0".into() }));
    let short = zip(&[("a/data.pkl", &pickle(9)), ("a/data/0", &[0; 8]), ("a/version", b"3\n")]);
    assert!(judge(&short).evidence.contains(&Evidence::StorageShort {
        key: "0".into(),
        size: 8,
        expected: 16
    }));
    let versionless = zip(&[("a/data.pkl", &pickle(9)), ("a/data/0", &[0; 16])]);
    assert!(judge(&versionless).evidence.contains(&Evidence::EntryMissing { name: "version".into() }));
}

#[test]
fn an_archive_of_ten_thousand_tensors_is_judged_by_few_reads() {
    let names: Vec<String> = (0..10_000).map(|number| format!("a/data/{number}")).collect();
    let pickle = pickle(9);
    let mut entries: Vec<(&str, &[u8])> = vec![("a/data.pkl", &pickle), ("a/version", b"3\n")];
    entries.extend(names.iter().map(|name| (name.as_str(), &[0_u8; 16][..])));
    let file = MemoryFile::new(zip(&entries));
    let report = probe_file("a.pt", &file, Coverage::default(), Limits::default());
    assert_eq!(report.state, State::Complete, "{:?}", report.evidence);
    assert!(file.reads() < 1000, "{} reads", file.reads());
}

#[test]
fn a_trainer_directory_is_complete_when_its_state_is_there() {
    let mut tree = MemoryTree::new();
    trainer(&mut tree, "out/checkpoint-500", 500);
    let found = only(&tree);
    assert_eq!(
        (found.framework, found.step, found.state),
        (Framework::HfTrainer, Some(500), State::Complete)
    );
    let with = |change: &dyn Fn(&mut MemoryTree)| {
        let mut tree = tree.clone();
        change(&mut tree);
        only(&tree).state
    };
    assert_eq!(with(&|tree| _ = tree.remove("out/checkpoint-500/trainer_state.json")), State::Torn);
    assert_eq!(with(&|tree| _ = tree.remove("out/checkpoint-500/optimizer.pt")), State::Torn);
    assert_eq!(
        with(&|tree| _ = tree.add("out/checkpoint-500/trainer_state.json", r#"{"global_step": 400}"#)),
        State::Torn
    );
    assert_eq!(
        with(&|tree| _ = tree.add("out/checkpoint-500/checkpoint-is-incomplete.txt", "")),
        State::Torn
    );
    // Only the weights were saved, on purpose.
    let lean = |tree: &mut MemoryTree| {
        for name in ["optimizer.pt", "scheduler.pt", "rng_state.pth"] {
            tree.remove(format!("out/checkpoint-500/{name}"));
        }
    };
    assert_eq!(with(&lean), State::Complete);
    let mut staged = MemoryTree::new();
    trainer(&mut staged, "out/tmp-checkpoint-500", 500);
    assert_eq!(only(&staged).state, State::Torn);
}

#[test]
fn a_rank_in_the_middle_that_has_not_saved_is_noticed() {
    let mut tree = MemoryTree::new();
    trainer(&mut tree, "checkpoint-5", 5);
    tree.remove("checkpoint-5/rng_state.pth");
    for rank in [0, 1, 3] {
        tree.add(format!("checkpoint-5/rng_state_{rank}.pth"), torch(1));
    }
    let found = only(&tree);
    assert!(found.evidence.contains(&Evidence::ShardsMissing { found: 3, expected: 4 }));
    assert_eq!(found.state, State::Torn);
}

#[test]
fn shards_need_their_index_and_the_index_its_shards() {
    let mut tree = MemoryTree::new();
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    for name in names {
        tree.add(name, safetensors(5));
    }
    assert!(look(&tree).checkpoints.iter().all(|found| found.state == State::Torn));
    let index = format!(
        r#"{{"metadata": {{"total_size": 40}}, "weight_map": {{"a": "{}", "b": "{}"}}}}"#,
        names[0], names[1]
    );
    tree.add("model.safetensors.index.json", index);
    let found = only(&tree);
    assert_eq!((found.framework, found.state), (Framework::Shards(Format::Safetensors), State::Complete));
    assert_eq!(found.members.len(), 3);
    tree.truncate(names[1], 60);
    assert_eq!(look(&tree).checkpoints[0].state, State::Torn);
    tree.remove(names[1]);
    assert_eq!(look(&tree).checkpoints[0].state, State::Torn);
}

#[test]
fn a_training_that_restarts_in_the_same_directory_is_a_run_of_its_own() {
    let mut tree = MemoryTree::new();
    for (step, seconds) in [(4000, 100), (5000, 200), (1000, 900), (2000, 1000)] {
        tree.add(format!("step-{step}.pt"), torch(1)).touch(format!("step-{step}.pt"), seconds);
    }
    let found = look(&tree).checkpoints;
    let seen: Vec<_> = found.iter().map(|found| (found.run, found.step)).collect();
    assert_eq!(seen, [(0, Some(4000)), (0, Some(5000)), (1, Some(1000)), (1, Some(2000))]);
    // A copy has all times alike: they say nothing.
    for step in [1000, 2000, 4000, 5000] {
        tree.touch(format!("step-{step}.pt"), 7);
    }
    assert!(look(&tree).checkpoints.iter().all(|found| found.run == 0));
}

#[test]
fn steps_are_in_natural_order_and_names_without_numbers_are_singletons() {
    let mut tree = MemoryTree::new();
    for name in ["step-10.pt", "step-9.pt", "step-100.pt", "best.pt"] {
        tree.add(name, torch(1));
        tree.touch(name, 5);
    }
    let found = look(&tree).checkpoints;
    let names: Vec<_> = found.iter().map(|found| found.path.display().to_string()).collect();
    assert_eq!(names, ["best.pt", "step-9.pt", "step-10.pt", "step-100.pt"]);
    assert_eq!(found.iter().map(|found| found.is_singleton).collect::<Vec<_>>(), [true, false, false, false]);
}

#[test]
fn bytes_with_several_names_count_once() {
    let mut tree = MemoryTree::new();
    tree.add("step-1.pt", torch(1)).hard_link("best.pt", "step-1.pt").link("last.ckpt", "step-1.pt");
    let survey = look(&tree);
    assert_eq!(survey.checkpoints.len(), 2);
    assert_eq!(survey.bytes(), torch(1).len() as u64);
    let step = survey.checkpoints.iter().find(|found| found.path == Path::new("step-1.pt")).unwrap();
    assert_eq!(step.pointed_by, [Path::new("last.ckpt")]);
}

#[test]
fn a_distributed_save_without_its_metadata_is_torn() {
    let mut tree = MemoryTree::new();
    tree.add("step-7/__0_0.distcp", vec![1; 100]).add("step-7/__1_0.distcp", vec![1; 100]);
    let found = only(&tree);
    assert_eq!((found.framework, found.state), (Framework::TorchDistributed, State::Torn));
    assert!(found.evidence.contains(&Evidence::MarkerMissing { name: ".metadata".into() }));
}

#[test]
fn an_iteration_that_the_tracker_does_not_reach_is_not_trusted() {
    let mut tree = MemoryTree::new();
    for rank in 0..4 {
        tree.add(
            format!("iter_0000300/mp_rank_{:02}_{:03}/model_optim_rng.pt", rank / 2, rank % 2),
            torch(1),
        );
    }
    assert_eq!(only(&tree).state, State::Unknown);
    tree.add("latest_checkpointed_iteration.txt", "200");
    assert_eq!(only(&tree).state, State::Unknown);
    tree.add("latest_checkpointed_iteration.txt", "300");
    assert_eq!(only(&tree).state, State::Complete);
    tree.remove("iter_0000300/mp_rank_01_000/model_optim_rng.pt");
    let found = only(&tree);
    assert!(
        found.evidence.contains(&Evidence::ShardsMissing { found: 3, expected: 4 }),
        "{:?}",
        found.evidence
    );
}

#[test]
fn a_step_of_several_models_is_as_complete_as_its_worst_part() {
    let mut tree = MemoryTree::new();
    for part in ["actor", "critic"] {
        tree.add(format!("global_step_30/{part}/model_world_size_1_rank_0.pt"), torch(1));
    }
    tree.add("latest_checkpointed_iteration.txt", "30");
    let survey = look(&tree);
    let [found] = survey.checkpoints.as_slice() else { panic!("{:?}", survey.checkpoints) };
    assert_eq!((found.framework, found.step, found.state), (Framework::Composite, Some(30), State::Complete));
    assert_eq!(found.pointed_by, [Path::new("latest_checkpointed_iteration.txt")]);
    tree.truncate("global_step_30/critic/model_world_size_1_rank_0.pt", 50);
    assert_eq!(only(&tree).state, State::Torn);
}

#[test]
fn a_directory_that_lacks_what_its_siblings_have_is_not_trusted() {
    let mut tree = MemoryTree::new();
    for index in 0..3 {
        for name in ["model.safetensors", "optimizer.bin", "random_states_0.pkl"] {
            let bytes = if name == "model.safetensors" { safetensors(2) } else { torch(1) };
            tree.add(format!("checkpoints/checkpoint_{index}/{name}"), bytes);
        }
    }
    assert!(look(&tree).checkpoints.iter().all(|found| found.state == State::Complete));
    tree.remove("checkpoints/checkpoint_2/optimizer.bin");
    let states: Vec<_> = look(&tree).checkpoints.iter().map(|found| found.state).collect();
    assert_eq!(states, [State::Complete, State::Complete, State::Unknown]);
}

#[test]
fn staged_files_of_safetensors_are_not_complete() {
    let mut tree = MemoryTree::new();
    tree.add(".tmpa1B2c3", safetensors(4));
    assert_eq!(only(&tree).state, State::Torn);
    tree.set_coverage(".tmpa1B2c3", Coverage { open_writers: 1, ..Coverage::default() });
    assert_ne!(only(&tree).state, State::Complete);
}

#[test]
fn a_split_model_needs_all_its_parts() {
    let gguf = |number: u16| {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(0_u64.to_le_bytes());
        bytes.extend(2_u64.to_le_bytes());
        for (key, value) in [("split.no", number), ("split.count", 2)] {
            bytes.extend((key.len() as u64).to_le_bytes());
            bytes.extend(key.as_bytes());
            bytes.extend(2_u32.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        bytes
    };
    let mut tree = MemoryTree::new();
    tree.add("m-00001-of-00002.gguf", gguf(0));
    assert_eq!(only(&tree).state, State::Torn);
    tree.add("m-00002-of-00002.gguf", gguf(1));
    assert_eq!(
        (only(&tree).framework, only(&tree).state),
        (Framework::Shards(Format::Gguf), State::Complete)
    );
}

#[test]
fn a_tree_that_is_too_large_says_so() {
    let mut tree = MemoryTree::new();
    for step in 0..50 {
        tree.add(format!("step-{step}.pt"), torch(1));
    }
    let limits = Limits { names_in_total: 10, ..Limits::default() };
    let cut = survey(&tree, Path::new(""), SurveyOptions { limits, ..SurveyOptions::default() });
    assert!(cut.is_cut && cut.checkpoints.len() == 10);
    assert!(!look(&tree).is_cut);
}

use std::path::{Path, PathBuf};

/// Returns cargo's target directory, found from the running test executable.
///
/// Test executables lie in `TARGET/PROFILE/deps/`, whatever `CARGO_TARGET_DIR` says.
pub fn target_dir() -> PathBuf {
    profile_dir().parent().expect("a profile directory lies in the target directory").to_path_buf()
}

/// Returns the path of the `wsguard` binary of the same build profile as the running test.
///
/// Panics if it has not been built: cargo builds it for `cargo test --workspace`, not for a single package.
pub fn wsguard_binary() -> PathBuf {
    let path = profile_dir().join("wsguard");
    assert!(
        path.is_file(),
        "{} is missing: run `cargo build` or `cargo test --workspace`, which build it, and try again",
        path.display()
    );
    path
}

fn profile_dir() -> PathBuf {
    let executable = std::env::current_exe().expect("the running executable has a path");
    let is_profile = |dir: &Path| dir.file_name().is_some_and(|name| name != "deps" && name != "examples");
    executable
        .ancestors()
        .skip(1)
        .find(|dir| is_profile(dir))
        .expect("an executable lies in a directory")
        .to_path_buf()
}

//! Paths that people name, made into what the daemon expects: absolute, without symbolic links, UTF-8.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use wsguard_api::ErrorCode;

use crate::error::CliError;

/// Returns the directory that is to be guarded.
///
/// # Errors
/// Says whether the path is missing, is no directory, or cannot be reached.
pub fn directory(path: &Path) -> Result<PathBuf, CliError> {
    let resolved = match fs::canonicalize(path) {
        Ok(resolved) => resolved,
        // A dead mount stays over the directory: the daemon knows what to do about it.
        Err(source) if is_dead_mount(&source) => return beside_mount(path),
        Err(source) => return Err(unreachable(path, &source)),
    };
    match fs::metadata(&resolved) {
        Ok(metadata) if metadata.is_dir() => utf8(resolved),
        Ok(_) => {
            Err(CliError::new(ErrorCode::InvalidRequest, format!("{} is not a directory", path.display()))
                .with_hint("name the project's directory; a single file cannot be guarded"))
        }
        Err(source) if is_dead_mount(&source) => beside_mount(path),
        Err(source) => Err(unreachable(path, &source)),
    }
}

/// Returns an existing path with its links resolved.
///
/// # Errors
/// Says whether the path is missing or cannot be reached.
pub fn existing(path: &Path) -> Result<PathBuf, CliError> {
    fs::canonicalize(path).map_err(|source| unreachable(path, &source)).and_then(utf8)
}

/// Returns a path of which only the parent is looked at: its last component may be a dead mount, or missing.
///
/// # Errors
/// Says whether the parent is missing or cannot be reached.
pub fn beside_mount(path: &Path) -> Result<PathBuf, CliError> {
    let absolute = std::path::absolute(path).map_err(|source| unreachable(path, &source))?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => existing(parent).and_then(|parent| utf8(parent.join(name))),
        (_, None) if path.ends_with("..") => existing(path),
        _ => utf8(absolute),
    }
}

/// Returns a path that may be gone: links are resolved in as much of it as exists, except that a link to something
/// other than a directory is itself.
///
/// # Errors
/// Says whether the path has `..` in the part that does not exist, or cannot be reached.
pub fn maybe_missing(path: &Path) -> Result<PathBuf, CliError> {
    if let Ok(resolved) = fs::canonicalize(path)
        && resolved.is_dir()
    {
        return utf8(resolved);
    }
    let absolute = std::path::absolute(path).map_err(|source| unreachable(path, &source))?;
    let mut missing = Vec::new();
    let mut there = absolute.as_path();
    while let (Some(parent), Some(name)) = (there.parent(), there.file_name()) {
        missing.push(name);
        there = parent;
        if let Ok(mut resolved) = fs::canonicalize(there) {
            resolved.extend(missing.iter().rev());
            return utf8(resolved);
        }
    }
    // `file_name` ends at `..`: what it means depends on what is not there.
    Err(CliError::new(ErrorCode::NotFound, format!("{} cannot be found", path.display()))
        .with_hint("give the path without .."))
}

fn is_dead_mount(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NOTCONN.raw_os_error())
}

fn unreachable(path: &Path, source: &io::Error) -> CliError {
    let shown = path.display();
    match source.kind() {
        io::ErrorKind::NotFound => CliError::new(ErrorCode::NotFound, format!("{shown} does not exist"))
            .with_hint(format!(
                "create it with `mkdir -p {}`, or correct the path",
                quoted(path.as_os_str())
            )),
        io::ErrorKind::NotADirectory => {
            CliError::new(ErrorCode::InvalidRequest, format!("a component of {shown} is not a directory"))
                .with_hint("correct the path")
        }
        io::ErrorKind::PermissionDenied => {
            CliError::new(ErrorCode::Permission, format!("no permission to look at {shown}"))
                .with_hint("run the command as the directory's owner or as root")
        }
        _ => CliError::io(format!("cannot look at {shown}"), source),
    }
}

fn utf8(path: PathBuf) -> Result<PathBuf, CliError> {
    if path.to_str().is_some() {
        return Ok(path);
    }
    Err(CliError::new(ErrorCode::InvalidRequest, format!("the path {} is not UTF-8", path.display()))
        .with_hint("rename the directory; names inside it are not restricted"))
}

/// Returns a word as a shell takes it, quoted only where it has to be.
pub fn quoted(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:=@%,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_resolved_and_relative_parts_removed() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap().join("real");
        fs::create_dir(&real).unwrap();
        symlink(&real, dir.path().join("link")).unwrap();
        assert_eq!(directory(&dir.path().join("link/../link")).unwrap(), real);
        assert_eq!(existing(&dir.path().join("link")).unwrap(), real);
    }

    #[test]
    fn each_wrong_path_has_its_own_code() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let code = |path: &Path| directory(path).unwrap_err().code();
        assert_eq!(code(&dir.path().join("missing")), ErrorCode::NotFound);
        assert_eq!(code(&file), ErrorCode::InvalidRequest);
        assert_eq!(code(&file.join("below")), ErrorCode::InvalidRequest);
        let odd = dir.path().join(OsStr::from_bytes(b"\xff"));
        fs::create_dir(&odd).unwrap();
        assert_eq!(code(&odd), ErrorCode::InvalidRequest);
    }

    #[test]
    fn a_path_beside_a_mount_needs_its_parent_only() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        assert_eq!(beside_mount(&root.join("gone")).unwrap(), root.join("gone"));
        assert_eq!(beside_mount(&root.join("no/gone")).unwrap_err().code(), ErrorCode::NotFound);
        assert_eq!(beside_mount(Path::new("/")).unwrap(), Path::new("/"));
    }

    #[test]
    fn a_path_that_is_gone_is_resolved_as_far_as_it_exists() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir(root.join("real")).unwrap();
        fs::write(root.join("real/file"), "x").unwrap();
        symlink(root.join("real"), root.join("link")).unwrap();
        symlink("file", root.join("real/to-file")).unwrap();
        let resolved = |path: &str| maybe_missing(&root.join(path)).unwrap();
        assert_eq!(resolved("link"), root.join("real"));
        assert_eq!(resolved("link/gone/deeper"), root.join("real/gone/deeper"));
        assert_eq!(resolved("link/to-file"), root.join("real/to-file"), "the link itself");
        assert_eq!(resolved("link/../real"), root.join("real"));
        assert_eq!(maybe_missing(&root.join("gone/../real")).unwrap_err().code(), ErrorCode::NotFound);
    }

    #[test]
    fn words_are_quoted_only_where_a_shell_needs_it() {
        assert_eq!(quoted(OsStr::new("/home/a/b-1")), "/home/a/b-1");
        assert_eq!(quoted(OsStr::new("it's here")), r"'it'\''s here'");
    }
}

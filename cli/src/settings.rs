//! What the command line, the environment, the config file and the defaults come to.
//!
//! The order is: option, environment variable, config file, default. The parser has merged the first two. The
//! config file is the daemon's: commands read only the two directories in it, and only when nothing before it
//! decides, so that a daemon that is named by its socket can be reached whatever the file holds.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use wsguard_api::{DEFAULT_CONFIG_FILE, DEFAULT_RUNTIME_DIR, DEFAULT_STATE_DIR, ErrorCode, SOCKET_NAME};

use crate::args::GlobalArgs;
use crate::error::CliError;
use crate::target;

/// Where the daemon is and where it keeps its things, as far as it was named. Every path is absolute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The control socket, if it was named.
    pub socket: Option<PathBuf>,
    /// The runtime directory, if it was named.
    pub runtime_dir: Option<PathBuf>,
    /// The state directory, if it was named.
    pub state_dir: Option<PathBuf>,
    /// The config file, if it was named.
    pub config: Option<PathBuf>,
    /// How this program was called, if by a path: what is shown to be typed has to work in the same shell.
    pub program: Option<PathBuf>,
}

impl Settings {
    /// Resolves the options; the environment is already merged into them by the parser.
    ///
    /// # Errors
    /// Fails if the current directory is gone and a path is relative.
    pub fn resolve(args: &GlobalArgs, program: Option<&OsStr>) -> Result<Self, CliError> {
        let absolute = |path: &Option<PathBuf>| path.as_deref().map(absolute).transpose();
        Ok(Self {
            socket: absolute(&args.socket)?,
            runtime_dir: absolute(&args.runtime_dir)?,
            state_dir: absolute(&args.state_dir)?,
            config: absolute(&args.config)?,
            program: program.map(PathBuf::from).filter(|program| program.components().count() > 1),
        })
    }

    /// Returns the control socket to talk to.
    ///
    /// # Errors
    /// Fails if it has to be looked up in a config file that cannot be read.
    pub fn socket(&self) -> Result<PathBuf, CliError> {
        match &self.socket {
            Some(socket) => Ok(socket.clone()),
            None => self.daemon_socket(),
        }
    }

    /// Returns the control socket of a daemon that is started with these settings.
    ///
    /// # Errors
    /// As [`Self::socket`].
    pub fn daemon_socket(&self) -> Result<PathBuf, CliError> {
        let runtime_dir = match &self.runtime_dir {
            Some(runtime_dir) => runtime_dir.clone(),
            None => self.config_directories()?.runtime_dir.unwrap_or_else(|| DEFAULT_RUNTIME_DIR.into()),
        };
        Ok(runtime_dir.join(SOCKET_NAME))
    }

    /// Returns the state directory of a daemon that is started with these settings.
    ///
    /// # Errors
    /// As [`Self::socket`].
    pub fn daemon_state_dir(&self) -> Result<PathBuf, CliError> {
        match &self.state_dir {
            Some(state_dir) => Ok(state_dir.clone()),
            None => Ok(self.config_directories()?.state_dir.unwrap_or_else(|| DEFAULT_STATE_DIR.into())),
        }
    }

    fn config_directories(&self) -> Result<DaemonTable, CliError> {
        let path = self.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG_FILE));
        match fs::read_to_string(path) {
            Ok(text) => directories_in(&text, path),
            // Nobody named the file. One that only root may read is for the daemon alone: users then name what
            // differs from the defaults themselves.
            Err(source)
                if self.config.is_none()
                    && matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) =>
            {
                Ok(DaemonTable::default())
            }
            Err(source) => Err(CliError::io(format!("cannot read the config {}", path.display()), &source)
                .with_hint("correct --config or WSGUARD_CONFIG, or name the daemon with --runtime-dir")),
        }
    }
}

/// The part of the config that commands need; the daemon checks all of it.
#[derive(Debug, Default, Deserialize)]
struct ConfigFile {
    #[serde(default)]
    daemon: DaemonTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct DaemonTable {
    state_dir: Option<PathBuf>,
    runtime_dir: Option<PathBuf>,
}

fn directories_in(text: &str, path: &Path) -> Result<DaemonTable, CliError> {
    let hint = "correct the file, or name the daemon with --runtime-dir and --state-dir";
    let file: ConfigFile = toml::from_str(text).map_err(|source| {
        let line =
            source.span().map_or(1, |span| text.bytes().take(span.start).filter(|b| *b == b'\n').count() + 1);
        CliError::new(
            ErrorCode::InvalidRequest,
            format!("the config {} is wrong in line {line}", path.display()),
        )
        .because(source.message())
        .with_hint(hint)
    })?;
    for (key, value) in [("state-dir", &file.daemon.state_dir), ("runtime-dir", &file.daemon.runtime_dir)] {
        if let Some(relative) = value.as_ref().filter(|value| !value.is_absolute()) {
            let message =
                format!("{key} = {} in the config {} is not absolute", relative.display(), path.display());
            return Err(CliError::new(ErrorCode::InvalidRequest, message).with_hint(hint));
        }
    }
    Ok(file.daemon)
}

/// Makes a path absolute; one with `..` in it is resolved, because what that means depends on links.
fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    if path.components().any(|part| part == Component::ParentDir) {
        return target::beside_mount(path);
    }
    std::path::absolute(path).map_err(|source| {
        CliError::new(ErrorCode::InvalidRequest, format!("cannot make {} absolute", path.display()))
            .because(source.to_string())
            .with_hint("give an absolute path, or change to a directory that exists")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_config(text: &str) -> (tempfile::NamedTempFile, Settings) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        let settings = Settings { config: Some(file.path().to_owned()), ..Settings::default() };
        (file, settings)
    }

    #[test]
    fn nothing_named_means_the_default_directories() {
        let (_file, settings) = with_config("");
        assert_eq!(settings.socket().unwrap(), Path::new("/run/wsguard/wsguard.sock"));
        assert_eq!(settings.daemon_state_dir().unwrap(), Path::new("/var/lib/wsguard"));
    }

    #[test]
    fn config_directories_count_and_other_tables_are_the_daemons_business() {
        let (_file, settings) =
            with_config("[daemon]\nruntime-dir = \"/r\"\nstate-dir = \"/s\"\n[workspaces]\nroots = []\n");
        assert_eq!(settings.socket().unwrap(), Path::new("/r/wsguard.sock"));
        assert_eq!(settings.daemon_state_dir().unwrap(), Path::new("/s"));
    }

    #[test]
    fn options_win_over_the_config_and_the_socket_over_both() {
        let (_file, config) = with_config("[daemon]\nruntime-dir = \"/r\"\n");
        let runtime = Settings { runtime_dir: Some("/x".into()), ..config };
        assert_eq!(runtime.socket().unwrap(), Path::new("/x/wsguard.sock"));
        let socket = Settings { socket: Some("/y/s".into()), ..runtime };
        assert_eq!(socket.socket().unwrap(), Path::new("/y/s"));
        assert_eq!(socket.daemon_socket().unwrap(), Path::new("/x/wsguard.sock"));
    }

    #[test]
    fn a_wrong_config_is_reported_with_its_line_unless_the_socket_is_named() {
        let (_file, settings) = with_config("[daemon]\nruntime-dir = 7\n");
        let error = settings.socket().unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidRequest);
        assert!(error.to_string().ends_with("line 2"), "{error}");
        assert!(Settings { socket: Some("/s".into()), ..settings }.socket().is_ok());
        let (_file, relative) = with_config("[daemon]\nruntime-dir = \"r\"\n");
        assert_eq!(relative.socket().unwrap_err().code(), ErrorCode::InvalidRequest);
    }

    #[test]
    fn a_named_config_has_to_exist() {
        let settings = Settings { config: Some("/nonexistent/c.toml".into()), ..Settings::default() };
        assert_eq!(settings.socket().unwrap_err().code(), ErrorCode::NotFound);
    }

    #[test]
    fn relative_paths_become_absolute() {
        let settings =
            Settings::resolve(&GlobalArgs { state_dir: Some("s".into()), ..GlobalArgs::default() }, None)
                .unwrap();
        assert!(settings.daemon_state_dir().unwrap().is_absolute());
        assert_eq!(absolute(Path::new("/usr/../x")).unwrap(), Path::new("/x"));
    }
}

use std::{path::PathBuf, time::Duration};

use crate::{Daemon, Run, Scratch, require_tool, wait_until, wsguard_binary};

/// How long a screen may take to show something.
const PATIENCE: Duration = Duration::from_secs(20);

/// A terminal with a shell in it, emulated by a private tmux server that is gone with it.
///
/// The shell finds `wsguard` in its path, and the daemon in its environment.
pub struct Terminal {
    tmux: PathBuf,
    scratch: Scratch,
}

impl Terminal {
    /// Opens one of so many columns and rows, in a directory. `None` if there is no tmux here, which is said.
    pub fn open(daemon: &Daemon, directory: &std::path::Path, columns: u16, rows: u16) -> Option<Self> {
        let terminal = Self { tmux: require_tool("tmux")?, scratch: Scratch::new() };
        let path = wsguard_binary();
        let programs = path.parent().expect("the program lies in a directory").display().to_string();
        let search = std::env::var("PATH").unwrap_or_default();
        let mut run = terminal.tmux().args(["-f", "/dev/null", "new-session", "-d"]);
        run = run.args(["-x", &columns.to_string(), "-y", &rows.to_string()]).arg("-c").arg(directory);
        let variables = [
            ("WSGUARD_STATE_DIR", daemon.state_dir().display().to_string()),
            ("WSGUARD_RUNTIME_DIR", daemon.runtime_dir().display().to_string()),
            ("WSGUARD_CONFIG", daemon.config_file().display().to_string()),
            ("PATH", format!("{programs}:{search}")),
            ("PS1", "$ ".to_owned()),
            ("ENV", String::new()),
        ];
        run = run.args(["env", "-u", "WSGUARD_SOCKET"]);
        for (name, value) in variables {
            run = run.arg(format!("{name}={value}"));
        }
        run.arg("/bin/sh").env_remove("TMUX").ok();
        Some(terminal)
    }

    fn tmux(&self) -> Run {
        Run::new(&self.tmux).env("LC_ALL", "C.UTF-8").arg("-S").arg(self.scratch.path().join("tmux"))
    }

    /// Presses keys, named as tmux names them (`Enter`, `C-c`, `j`).
    pub fn press(&self, keys: &[&str]) {
        self.tmux().arg("send-keys").args(keys).ok();
    }

    /// Types a line for the shell.
    pub fn type_line(&self, line: &str) {
        self.tmux().args(["send-keys", "-l", line]).ok();
        self.press(&["Enter"]);
    }

    /// Changes its size.
    pub fn resize(&self, columns: u16, rows: u16) {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        self.tmux().args(["resize-window", "-x", &columns, "-y", &rows]).ok();
    }

    /// Returns what it shows.
    pub fn screen(&self) -> String {
        self.tmux().args(["capture-pane", "-p"]).ok()
    }

    /// Whether a program that takes the whole screen has it.
    pub fn is_taken(&self) -> bool {
        self.tmux().args(["display-message", "-p", "#{alternate_on}"]).ok().trim() == "1"
    }

    /// Waits until it shows a text; panics with the screen if it never does.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            if screen.contains(text) {
                return;
            }
            assert!(std::time::Instant::now() < end, "{text:?} is not shown:\n{screen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the shell has the screen again.
    #[track_caller]
    pub fn wait_for_shell(&self) {
        wait_until("the screen to be given back", PATIENCE, || !self.is_taken());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may be gone already; the janitor ends what is left.
        drop(self.tmux().arg("kill-server").output());
    }
}

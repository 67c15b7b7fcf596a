//! wsguard with a daemon of its own: private state and sockets, nothing shared with an installed one.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Pid;
use serde::de::DeserializeOwned;
use wsguard_api::{DaemonStatus, DataPath, SOCKET_NAME, Workspace};

use super::{Mounted, spawn, wait_until};

/// The program to measure.
pub(crate) struct Binary(PathBuf);

impl Binary {
    /// Takes the given program, or the release build beside this benchmark.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn find(given: Option<&Path>) -> Result<Self> {
        let path = match given {
            Some(path) => path.to_owned(),
            // `cargo bench` puts us into target/release/deps.
            None => {
                let own = std::env::current_exe()?;
                let release =
                    own.parent().and_then(Path::parent).context("this program has no build directory")?;
                release.join("wsguard")
            }
        };
        ensure!(
            path.is_file(),
            "there is no {path:?}; run `cargo build --release -p wsguard`, name one with --wsguard, or leave it out \
             with --variants"
        );
        Ok(Self(path))
    }

    /// Starts a daemon with this config file and guards one directory in place, both below `base`.
    pub(super) fn mount(&self, name: &str, base: &Path, settings: &str) -> Result<Mounted> {
        let (root, runtime, log) = (base.join("workspace"), base.join("run"), base.join("log"));
        std::fs::create_dir(&root)?;
        let socket = runtime.join(SOCKET_NAME);
        let config = base.join("config.toml");
        std::fs::write(&config, settings)?;
        let mut command = Command::new(&self.0);
        command.arg("daemon").arg("--state-dir").arg(base.join("state")).arg("--runtime-dir").arg(&runtime);
        command.arg("--config").arg(&config);
        let (mut child, _) = spawn(name, &mut command, &log, &root)?;
        wait_until(&mut child, &log, || Ok(socket.exists())).context("cannot start the wsguard daemon")?;

        let directory = root.to_str().context("the benchmark's directory is not UTF-8")?;
        let workspace: Workspace = self.ask(&socket, &["mount", directory, "--name", "bench"])?;
        match &workspace.data_path {
            Some(DataPath::Passthrough) => {}
            other => bail!(
                "the workspace is not mounted with passthrough but {other:?}: its speed would say nothing"
            ),
        }
        let status: DaemonStatus = self.ask(&socket, &["status"])?;
        let worker = i32::try_from(status.worker_pid).ok().and_then(Pid::from_raw);
        let worker = worker.with_context(|| format!("{} is no process id", status.worker_pid))?;
        Ok(Mounted { root, version: status.version, daemons: vec![worker] })
    }

    fn ask<T: DeserializeOwned>(&self, socket: &Path, arguments: &[&str]) -> Result<T> {
        let what = arguments.first().copied().unwrap_or_default();
        let output = Command::new(&self.0)
            .arg("--json")
            .arg("--socket")
            .arg(socket)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run wsguard {what}"))?;
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr);
            bail!("wsguard {what} ended with {}: {}", output.status, reason.trim());
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("cannot understand the answer of wsguard {what}"))
    }
}
